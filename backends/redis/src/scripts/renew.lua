-- Writes leases that are not there as they should be: what is absent, what has changed under the same token, and over
-- one's own past. One that is there is extended, and the indexes lead to it again.
-- Answers, lease by lease, false (held), 'c' and the name of the holder, or 'f' and what is wrong with this one.

local id, instance, host, aliases = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local liveness, ttl = tonumber(ARGV[5]), tonumber(ARGV[6])

stay_alive(id, instance, host, aliases, liveness, ttl)

-- What is new to watchers: names.
local written = {}

local function renew(name, token_and_rest, place)
  local node = key('node', host .. '/' .. name)
  local value = fetch(node)
  -- The version and the order take 22 characters.
  if value and string.sub(value, 23) == token_and_rest then
    redis.call('PEXPIRE', node, ttl)
    index(host, name, ttl)
    return false
  end
  local token, creation, own = string.match(token_and_rest, '^(%S+) (%d+) (%S*) ')
  local previous = value and parse(value)
  if value and not previous then return 'fwhat is there cannot be read: not written by a version that this one knows' end
  if previous and previous.token ~= token and not is_past(previous, token, own) then
    return 'c' .. previous.holder
  end
  -- A store that lost its counters must not count from below what is known to have been given out.
  local known = {tonumber(creation)}
  if previous then table.insert(known, previous.creation) end
  if math.min(unpack(known)) < OFFLINE then count(host, last_creation(host, known)) end
  -- First, because it is what may fail: a registration that nobody is led to must not pass for a held one.
  index(host, name, ttl)
  write(host, name, token_and_rest, ttl, place)
  table.insert(written, name)
  return false
end

local answers = {}
for at = 7, #ARGV, 2 do
  -- What the store refuses of one lease, it refuses of this one alone.
  local done, answer = pcall(renew, ARGV[at], ARGV[at + 1], #answers)
  if not done then answer = 'f' .. (type(answer) == 'table' and answer.err or tostring(answer)) end
  table.insert(answers, answer)
end
if TELL_MAX < #written then
  tell_all()
else
  for _, name in ipairs(written) do tell('+', host, name) end
end
return answers
