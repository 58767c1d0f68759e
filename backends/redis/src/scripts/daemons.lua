-- The daemons that count as alive: of a host and of those that have it as an alias, or of all hosts (''). Answers
-- {{id, daemon, ms left} of each, {key, what is wrong with it} of an index that cannot be read or is read in part}.

local host = ARGV[1]

local answers, problems, looked = {}, {}, {}
local left, bytes_left = HOSTS_MAX, LIST_BYTES_MAX
local function look(id)
  if looked[id] then return end
  looked[id] = true
  local instance = key('instance', id)
  local value = fetch(instance)
  if not value then return end
  bytes_left = bytes_left - #value
  if 0 <= bytes_left then table.insert(answers, {id, value, redis.call('PTTL', instance)}) end
end

local function look_at(index, ids)
  if ids.err then
    table.insert(problems, {index, ids.err})
    return
  end
  left = left - #ids
  for _, id in ipairs(ids) do
    if bytes_left < 0 then break end
    look(id)
  end
  if bytes_left < 0 then table.insert(problems, {index, 'the list is too long'}) end
end

if host == '' then
  local index = KEYS[1] .. 'instances'
  look_at(index, live(index, left))
else
  local alias, hosts = key('alias', host), {host}
  local others = try_live(alias, READ_MAX)
  if others.err then
    table.insert(problems, {alias, others.err})
  else
    for _, other in ipairs(others) do table.insert(hosts, other) end
  end
  for _, of in ipairs(hosts) do
    local index = key('daemons', of)
    if 0 < left and 0 <= bytes_left then look_at(index, try_live(index, left)) end
  end
end
return {answers, problems}
