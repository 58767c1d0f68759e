-- A daemon ends: it no longer counts as alive.

local id, host = ARGV[1], ARGV[2]

redis.call('DEL', key('instance', id))
redis.call('DEL', key('note', id))
redis.call('ZREM', KEYS[1] .. 'instances', id)
redis.call('ZREM', key('daemons', host), id)
