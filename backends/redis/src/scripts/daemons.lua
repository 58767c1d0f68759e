-- The daemons that count as alive. Answers {id, daemon} of each.

local answers = {}
for _, id in ipairs(live(KEYS[1] .. 'instances')) do
  local value = fetch(key('instance', id))
  if value then table.insert(answers, {id, value}) end
end
return answers
