-- Where to look for the registrations of a host and of those that have it as an alias, or of all ('').
-- Answers {{host, names} of each host, {key, what is wrong with it} of each index that cannot be read or is read
-- in part}.

local host = ARGV[1]

local hosts
if host == '' then
  hosts = live(KEYS[1] .. 'hosts', HOSTS_MAX)
else
  hosts = live(key('alias', host), HOSTS_MAX)
  table.insert(hosts, 1, host)
end
local answers, problems = {}, {}
local names_left, bytes_left = LIST_MAX, LIST_BYTES_MAX
for _, host in ipairs(hosts) do
  local index = key('names', host)
  local names = try_live(index, math.min(NAMES_MAX, names_left))
  if names.err then
    table.insert(problems, {index, names.err})
  else
    names_left = names_left - #names
    for _, name in ipairs(names) do bytes_left = bytes_left - #name end
    if bytes_left < 0 or names_left == 0 then
      table.insert(problems, {index, 'the list is too long from here on'})
      break
    end
    if #names == NAMES_MAX then table.insert(problems, {index, 'more names than a host has ports'}) end
    table.insert(answers, {host, names})
  end
end
return {answers, problems}
