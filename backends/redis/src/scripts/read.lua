-- Registrations of one host by their names. Answers {name, registration, ms left} of those that are there.

local host = ARGV[1]

local answers, gone = {}, {}
for at = 2, #ARGV do
  local name = ARGV[at]
  local node = key('node', host .. '/' .. name)
  local value = fetch(node)
  if value then
    table.insert(answers, {name, value, redis.call('PTTL', node)})
  else
    table.insert(gone, name)
  end
end
bury(host, gone)
return answers
