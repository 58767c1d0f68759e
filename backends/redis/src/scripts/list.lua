-- The registrations of one host. Answers {name, registration, ms left} of each.

local host = ARGV[1]

local answers = {}
for _, name in ipairs(live(key('names', host))) do
  local node = key('node', host .. '/' .. name)
  local value = fetch(node)
  if value then table.insert(answers, {name, value, redis.call('PTTL', node)}) end
end
return answers
