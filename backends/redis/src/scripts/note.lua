-- A daemon leaves a note for all others, in the place of its last one. It does not count as alive by that.

local id, note, liveness = ARGV[1], ARGV[2], tonumber(ARGV[3])
redis.call('SET', key('note', id), note, 'PX', liveness)
