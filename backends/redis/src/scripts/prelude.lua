-- Stands before each script: the names of all keys, the store's clock, and the steps that verbs share.
--
-- KEYS[1] is what every key of the cluster starts with. It carries the hash tag, so that Redis Cluster
-- sends the script to the one primary that holds them all; the other names are built from it here.
--
--   node:HOST/NAME      a registration; expires with its lease
--   instance:ID         a daemon; expires when it no longer counts as alive
--   note:ID             what a daemon tells all others; expires unless it is written again
--   creation:HOST       the last creation that was given out on a host
--   names:HOST          sorted sets, scored by the time in ms at which the member may be forgotten:
--   holders:NAME        the names of a host, the hosts of a name, the hosts that answer to an alias,
--   alias:HOST          all hosts, and the daemons that count as alive, of a host and of all. They only
--   hosts               say where to look: what is not there any longer is skipped, and cleared away.
--   daemons:HOST
--   instances
--
-- No other process is asked for the time, and nothing is scanned.

local INDEX_MS = 86400000       -- an index that nobody has touched for a day; leases are far shorter
local PERIOD_MS = 600000        -- how often renewals write the indexes, see renewals.rs
local COUNTER_MS = 86400000     -- how long a counter is kept once the clock is past it, see count
local PRUNED_MAX = 100          -- what one call may clear away, so that none takes long
local READ_MAX = 500            -- hosts of a name or of an alias that one call looks at
local HOSTS_MAX = 16384         -- hosts of a cluster, and daemons
local NAMES_MAX = 65536         -- names of a host: there are no more ports
local LIST_MAX = 500000         -- names that one call lists, and bytes of one list
local LIST_BYTES_MAX = 16777216
local ENTRY_MAX = 400000        -- bytes of an entry; those of a node are most of a registration
local HOLDER_MAX = 1020         -- bytes of the name of a daemon
local TELL_MAX = 8              -- changes of one call that watchers are told one by one, see tell_all
local OFFLINE = 2147483648      -- creations from here on come from daemons that could not reach their store
local CREATION_MAX = 4294967295

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local far = now + 2 * INDEX_MS  -- no daemon writes a later time into an index: leases last an hour at most

local function key(kind, id)
  return KEYS[1] .. kind .. ':' .. id
end

-- An entry, or false. Something of another type, or too long, is as unreadable as an empty entry, and is no
-- reason to fail a whole batch.
local function fetch(name)
  local value = redis.pcall('GET', name)
  if type(value) == 'table' then
    if string.find(value.err, 'WRONGTYPE', 1, true) then return '' end
    return redis.call('GET', name)
  end
  if value and ENTRY_MAX < #value then return '' end
  return value
end

-- Tells the watchers. They are a speed-up: a user without the right to publish can do without them.
local function tell(sign, host, name)
  redis.pcall('PUBLISH', KEYS[1] .. 'changes', sign .. host .. '/' .. name)
end

-- Tells the watchers that much has changed. When a store lost everything, each name that comes back would
-- otherwise be told to each daemon: with a thousand of each, a million messages a second.
local function tell_all()
  redis.pcall('PUBLISH', KEYS[1] .. 'changes', '*')
end

-- The number that `text` is, if it is that of a creation.
local function to_creation(text)
  local creation = string.find(text, '^%d+$') and #text <= 10 and tonumber(text)
  return creation and 4 <= creation and creation <= CREATION_MAX and creation
end

-- What a verb needs of a registration, or nil if it cannot be read. record.rs has the format.
local function parse(value)
  local instance, number, creation, holder = string.match(value, '^1 %d+ (%x+)%-(%d+) (%d+) (%S*) ')
  creation = instance and to_creation(creation)
  if not creation then return nil end
  return {
    token = instance .. '-' .. number,
    instance = instance,
    creation = creation,
    holder = string.sub(holder, 1, HOLDER_MAX),
  }
end

-- Whether a run of a daemon made the claim `token` after the claim `other`. Numbers of 64 bits are more than
-- Lua can count to, so their digits are compared.
local function is_newer(token, other)
  local run, number = string.match(token, '^(%x+)%-(%d+)$')
  local other_run, other_number = string.match(other, '^(%x+)%-(%d+)$')
  if run ~= other_run then return false end
  if #number ~= #other_number then return #other_number < #number end
  return other_number < number
end

-- Whether a daemon counts as alive. A key that never expires is none of ours.
local function is_alive(id)
  return 0 < redis.call('PTTL', key('instance', id))
end

-- Whether a registration is what the daemon `holder` itself has left behind: an older claim of this run, or
-- one of another run, which no longer counts as alive.
local function is_past(registration, token, holder)
  if registration.instance == string.match(token, '^%x+') then return is_newer(token, registration.token) end
  return registration.holder == holder and not is_alive(registration.instance)
end

-- The members of an index that have not expired, `most` of them at most.
local function live(index, most)
  return redis.call('ZRANGEBYSCORE', index, '(' .. now, far, 'LIMIT', 0, most)
end

-- The same, or {err = ...} where something else is in the place of the index.
local function try_live(index, most)
  local members = redis.pcall('ZRANGEBYSCORE', index, '(' .. now, far, 'LIMIT', 0, most)
  if members.err and not string.find(members.err, 'WRONGTYPE', 1, true) then return live(index, most) end
  return members
end

-- Keeps a member in an index for at least as long as `expires`.
local function keep(index, member, expires)
  local score = tonumber(redis.call('ZSCORE', index, member) or nil)
  if not score or score < expires or far < score then redis.call('ZADD', index, expires, member) end
  redis.call('PEXPIRE', index, INDEX_MS)
end

-- Clears away what was found to be gone.
local function forget(index, gone)
  for at = 1, #gone, PRUNED_MAX do
    redis.call('ZREM', index, unpack(gone, at, math.min(#gone, at + PRUNED_MAX - 1)))
  end
end

local function prune(index)
  forget(index, redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, PRUNED_MAX))
  -- What no daemon has written is rare, and nobody reads it.
  if now % 16 == 0 then
    forget(index, redis.call('ZRANGEBYSCORE', index, '(' .. far, '+inf', 'LIMIT', 0, PRUNED_MAX))
  end
end

-- Clears names away whose leases have run out, and says so; whoever clears them away first says it.
local function bury(host, names)
  local names_of_host = key('names', host)
  for at = 1, math.min(#names, PRUNED_MAX) do
    if redis.call('ZREM', names_of_host, names[at]) == 1 then tell('x', host, names[at]) end
  end
end

-- A host that no daemon has renewed for a ttl: all its leases are over.
local function bury_host(host)
  local gone = {}
  local names = redis.call('ZRANGEBYSCORE', key('names', host), '-inf', '+inf', 'LIMIT', 0, PRUNED_MAX)
  for _, name in ipairs(names) do
    if redis.call('EXISTS', key('node', host .. '/' .. name)) == 0 then table.insert(gone, name) end
  end
  bury(host, gone)
  -- The next call goes on with the rest.
  if #gone < PRUNED_MAX then redis.call('ZREM', KEYS[1] .. 'hosts', host) end
end

-- Lets a daemon count as alive, and leads from its host's names to it. The first write is one that a full
-- store allows: after it Redis lets the script finish, so that running out of memory ends no lease.
local function stay_alive(id, value, host, aliases, liveness, ttl)
  local instance = key('instance', id)
  if redis.call('GET', instance) == value then
    redis.call('PEXPIRE', instance, liveness)
  else
    redis.call('SET', instance, value, 'PX', liveness)
  end
  keep(KEYS[1] .. 'instances', id, now + liveness)
  keep(key('daemons', host), id, now + liveness)
  keep(KEYS[1] .. 'hosts', host, now + ttl)
  for alias in string.gmatch(aliases, '%S+') do
    keep(key('alias', alias), host, now + ttl)
    prune(key('alias', alias))
  end
  prune(KEYS[1] .. 'instances')
  prune(key('daemons', host))
  for _, host in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1] .. 'hosts', '-inf', now, 'LIMIT', 0, 1)) do
    bury_host(host)
  end
  prune(key('names', host))
end

-- In 64ths of a second, so that it is past all that was given out, whatever of it a counter that was lost, or came
-- back from a replica as it was before, does not know: no host registers so many nodes for long.
local clock = math.max(math.floor(now * 64 / 1000) % OFFLINE, 4)

-- The last creation of a host, as far as anybody knows; a creation without the store counts for nothing, and a
-- counter that is none neither.
local function last_creation(host, known)
  local counter = redis.pcall('GET', key('creation', host))
  counter = type(counter) == 'string' and to_creation(counter)
  local last = math.max(clock, counter and counter < OFFLINE and counter or clock)
  for _, creation in ipairs(known) do
    if creation < OFFLINE then last = math.max(last, creation) end
  end
  return last
end

local function next_creation(creation)
  return math.max((creation + 1) % OFFLINE, 4)
end

-- One counter a host and not a name: names come and go without end, and leave nothing behind. It is kept until
-- the clock is past it, which is at once unless somebody brought a high one, and for a day more: the next clock
-- that counts may be that of another server.
local function count(host, creation)
  local kept = COUNTER_MS + math.ceil(math.max(creation - clock, 0) * 1000 / 64)
  local counter = key('creation', host)
  redis.call('SET', counter, string.format('%d', creation), 'PX', string.format('%d', kept))
end

-- Writes a registration; `place` orders those of one call.
local function write(host, name, token_and_rest, ttl, place)
  local order = string.format('%010d%06d%03d', time[1], time[2], place)
  local value = '1 ' .. order .. ' ' .. token_and_rest
  redis.call('SET', key('node', host .. '/' .. name), value, 'PX', ttl)
  return value
end

-- Leads to a registration that lives for another `ttl`.
local function index(host, name, ttl)
  local expires = now + 2 * PERIOD_MS + ttl
  redis.call('ZADD', key('names', host), expires, name)
  redis.call('ZADD', key('holders', name), expires, host)
  redis.call('PEXPIRE', key('names', host), INDEX_MS)
  redis.call('PEXPIRE', key('holders', name), INDEX_MS)
end
