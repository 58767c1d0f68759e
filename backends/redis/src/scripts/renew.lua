-- Extends leases; writes what is absent, and what has changed under the same token.
-- Answers, lease by lease, false (held) or the name of the holder.

local id, instance, host, aliases = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local liveness, ttl = tonumber(ARGV[5]), tonumber(ARGV[6])

stay_alive(id, instance, host, aliases, liveness, ttl)

local answers = {}
for at = 7, #ARGV, 3 do
  local host, name, token_and_rest = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local node = key('node', host .. '/' .. name)
  local value = fetch(node)
  local refused = false
  -- The version and the order take 22 characters.
  if value and string.sub(value, 23) == token_and_rest then
    redis.call('PEXPIRE', node, ttl)
    if is_time_to_index(name, ttl) then index(host, name, ttl) end
  else
    local token, creation, own = string.match(token_and_rest, '^(%S+) (%d+) (%S*) ')
    local previous = value and parse(value)
    if value and not previous then
      refused = 'an entry that this version cannot read'
    elseif previous and previous.token ~= token and not is_past(previous, token, own) then
      refused = previous.holder
    else
      -- A store that lost its counters must not count from below what is known to have been given out.
      creation = tonumber(creation)
      if creation < OFFLINE then count(host, name, last_creation(host, name, {creation})) end
      write(host, name, token_and_rest, ttl, #answers)
      index(host, name, ttl)
      tell('+', host, name)
    end
  end
  table.insert(answers, refused)
end
return answers
