-- Registers a name unless another daemon's live lease holds it.
-- Answers {'held', registration}, {'taken', holder} or {'unreadable', entry}.

local name, token, holder, body, last = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local id, instance, host, aliases = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local liveness, ttl = tonumber(ARGV[10]), tonumber(ARGV[11])

local value = fetch(key('node', host .. '/' .. name))
local previous = value and parse(value)

local answer
if value and not previous then
  answer = {'unreadable', value}
elseif previous and previous.token == token then
  answer = {'held', value}
elseif previous and (previous.holder ~= holder and is_alive(previous.instance) or is_newer(previous.token, token)) then
  answer = {'taken', previous.holder}
end
if answer then
  stay_alive(id, instance, host, aliases, liveness, ttl)
  return answer
end

local known = {}
if 0 < last then table.insert(known, last) end
if previous then table.insert(known, previous.creation) end
local creation = next_creation(last_creation(host, known))
-- Nodes below version 6 are told one of three numbers by it, and another one than those of the lives before.
for _ = 1, 2 do
  for _, before in ipairs(known) do
    if creation % 3 == before % 3 then creation = next_creation(creation) end
  end
end
-- First, because a full store refuses it: then nothing has changed.
count(host, creation)
stay_alive(id, instance, host, aliases, liveness, ttl)
index(host, name, ttl)
value = write(host, name, token .. string.format(' %d ', creation) .. holder .. ' ' .. body, ttl, 0)
prune(key('holders', name))
tell('+', host, name)
return {'held', value}
