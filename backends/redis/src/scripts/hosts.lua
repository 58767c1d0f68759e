-- The hosts to list: one and those that have it as an alias, or all ('').

local host = ARGV[1]

if host == '' then return live(KEYS[1] .. 'hosts') end
local hosts = live(key('alias', host))
table.insert(hosts, host)
return hosts
