-- A daemon ends: it no longer counts as alive.

redis.call('DEL', key('instance', ARGV[1]))
redis.call('DEL', key('note', ARGV[1]))
redis.call('ZREM', KEYS[1] .. 'instances', ARGV[1])
