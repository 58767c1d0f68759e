-- The registrations of a name: of a host and of those that have it as an alias, or of all hosts ('').
-- Answers {host, registration, ms left} of each.

local name, host = ARGV[1], ARGV[2]

local holders = key('holders', name)
local hosts
if host == '' then
  hosts = live(holders)
else
  hosts = live(key('alias', host))
  table.insert(hosts, host)
end
local answers, gone = {}, {}
for _, host in ipairs(hosts) do
  local node = key('node', host .. '/' .. name)
  local value = fetch(node)
  if value then
    table.insert(answers, {host, value, redis.call('PTTL', node)})
  else
    table.insert(gone, host)
  end
end
if host == '' then forget(holders, gone) end
return answers
