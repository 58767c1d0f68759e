-- Ends one lease and no other.

local host, name, token = ARGV[1], ARGV[2], ARGV[3]

local node = key('node', host .. '/' .. name)
local value = fetch(node)
local previous = value and parse(value)
if not previous or previous.token ~= token then return end
redis.call('DEL', node)
redis.call('ZREM', key('names', host), name)
redis.call('ZREM', key('holders', name), host)
tell('-', host, name)
