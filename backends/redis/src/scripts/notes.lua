-- The notes of the daemons that count as alive. Answers {{id, note} of each, {key, what is wrong with it} of those
-- that are left out}.

local NOTE_MAX = 262144         -- bytes of a note
local answers, problems = {}, {}
local bytes_left = LIST_BYTES_MAX
for _, id in ipairs(live(KEYS[1] .. 'instances', HOSTS_MAX)) do
  local note = is_alive(id) and fetch(key('note', id))
  if note and (#note == 0 or NOTE_MAX < #note) then
    table.insert(problems, {key('note', id), 'it is no note'})
  elseif note then
    bytes_left = bytes_left - #note
    if bytes_left < 0 then
      table.insert(problems, {key('note', id), 'the notes are too long'})
      break
    end
    table.insert(answers, {id, note})
  end
end
return {answers, problems}
