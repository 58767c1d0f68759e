-- The daemons that count as alive. Answers {{id, daemon, ms left} of each, {key, what is wrong with it} of an
-- index that is read in part}.

local answers, problems = {}, {}
local bytes_left = LIST_BYTES_MAX
local index = KEYS[1] .. 'instances'
for _, id in ipairs(live(index, HOSTS_MAX)) do
  local instance = key('instance', id)
  local value = fetch(instance)
  if value then
    bytes_left = bytes_left - #value
    if bytes_left < 0 then
      table.insert(problems, {index, 'the list is too long'})
      break
    end
    table.insert(answers, {id, value, redis.call('PTTL', instance)})
  end
end
return {answers, problems}
