-- The registrations of a name: of a host and of those that have it as an alias, or of all hosts (''), `most`
-- at most, and that of the host, or of `near`, first. Answers {{host, registration, ms left} of each, {key, what
-- is wrong with it} of an index that cannot be read or is read in part}.

local name, host, near, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local answers, gone, looked, readable = {}, {}, {}, 0
local function look(host)
  if looked[host] then return end
  looked[host] = true
  local node = key('node', host .. '/' .. name)
  local value = fetch(node)
  if value then
    table.insert(answers, {host, value, redis.call('PTTL', node)})
    if parse(value) then readable = readable + 1 end
  else
    table.insert(gone, host)
  end
end

local index, wanted = key('holders', name), most + 1
if host == '' then
  look(near)
else
  look(host)
  -- What an alias leads to may have it no longer, which the caller finds out, and so gets all.
  index, wanted, most = key('alias', host), READ_MAX, READ_MAX
end
local problem
while readable < most and not problem do
  local hosts = try_live(index, wanted)
  if hosts.err then return {answers, {{index, hosts.err}}} end
  for _, host in ipairs(hosts) do
    if readable < most then look(host) end
  end
  if #hosts < wanted then break end
  -- Those at the front lead nowhere any longer.
  if wanted == READ_MAX then problem = 'too much that leads nowhere' end
  wanted = READ_MAX
end
if host == '' then forget(index, gone) end
return {answers, problem and readable < most and {{index, problem}} or {}}
