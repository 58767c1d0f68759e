-- The registrations of a name: of a host and of those that have it as an alias, or of all hosts ('').
-- Answers {host, registration, ms left} of each.

local name, host = ARGV[1], ARGV[2]

local hosts
if host == '' then
  hosts = live(key('holders', name))
else
  hosts = live(key('alias', host))
  table.insert(hosts, host)
end
local answers = {}
for _, host in ipairs(hosts) do
  local node = key('node', host .. '/' .. name)
  local value = fetch(node)
  if value then table.insert(answers, {host, value, redis.call('PTTL', node)}) end
end
return answers
