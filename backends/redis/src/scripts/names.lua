-- Where to look for the registrations of a host and of those that have it as an alias, or of all ('').
-- Answers {host, names} of each host.

local host = ARGV[1]

local hosts
if host == '' then
  hosts = live(KEYS[1] .. 'hosts')
else
  hosts = live(key('alias', host))
  table.insert(hosts, host)
end
local answers = {}
for _, host in ipairs(hosts) do
  table.insert(answers, {host, live(key('names', host))})
end
return answers
