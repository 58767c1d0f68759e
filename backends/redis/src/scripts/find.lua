-- The registrations of a name: of a host and of those that have it as an alias, or of all hosts (''), `most`
-- at most, and that of the host, or of `near`, first. Answers {host, registration, ms left} of each.

local name, host, near, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local holders = key('holders', name)
local hosts = host == '' and {near} or {host}
for _, other in ipairs(live(host == '' and holders or key('alias', host))) do
  if other ~= hosts[1] then table.insert(hosts, other) end
end
-- What an alias leads to may have it no longer, which the caller finds out.
if host ~= '' then most = math.max(most, READ_MAX) end
local answers, gone = {}, {}
for _, host in ipairs(hosts) do
  if #answers == most then break end
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
