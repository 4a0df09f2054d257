-- Applies one transaction atomically; what it means is said in wit/store.wit,
-- how it is encoded in script.rs. Whatever can refuse the transaction is checked
-- before anything is written, as a script that fails is not rolled back.
-- Deadlines are milliseconds of this server's clock.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local at = 0

local function take()
  at = at + 1
  return ARGV[at]
end

local function number()
  return tonumber(take())
end

local function key()
  return KEYS[number()]
end

-- The number of the question, which the answer repeats.
local question = take()

local NUMBER_MAX = 9007199254740991

-- Whether the server is full. A script is not told; but one that has written nothing yet
-- is refused a command that could add, here to a key that is never there. Once it has
-- written anything, even nothing as here, all its commands are taken, so that ends and
-- renewals pass whatever they begin with. Only asked for once the server has refused more.
local full = false
local probe = take()
if probe ~= '' then
  local answer = redis.pcall('ZADD', probe, 'XX', 0, '')
  full = type(answer) == 'table' and string.find(answer.err or '', '^%-?OOM') ~= nil
  if full then redis.call('ZREM', probe, '') end
end

-- Every key holds nothing or what the transaction expects; the dead members of
-- a set are dropped before anybody sees it.
for i = 1, #KEYS do
  local expected = take()
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= expected then
    return redis.error_reply('HOLDS ' .. question .. ' ' .. found .. ' ' .. expected)
  end
  if expected == 'zset' and found == 'zset' then
    redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  end
end

-- The number that a field counts, in its text: a plain one, else 0.
local function counted(k, field)
  local found = redis.call('HGET', k, field)
  if found and #found <= 16 and string.match(found, '^[1-9]%d*$')
    and tonumber(found) <= NUMBER_MAX then
    return found
  end
  return '0'
end

local compare = {}

function compare.exists()
  return redis.call('EXISTS', key()) == 1
end

function compare.absent()
  return redis.call('EXISTS', key()) == 0
end

function compare.field()
  local k, field, value, or_absent = key(), take(), take(), take()
  local found = redis.call('HGET', k, field)
  if not found then return or_absent == '1' end
  return found == value
end

function compare.among()
  local k, field, count = key(), take(), number()
  local found, among = redis.call('HGET', k, field), false
  for _ = 1, count do among = take() == found or among end
  return among
end

function compare.count()
  local k, field, expected = key(), take(), take()
  return counted(k, field) == expected
end

function compare.size()
  local k, limit, excepted = key(), number(), {}
  for _ = 1, number() do excepted[take()] = true end
  local size = 0
  for _, field in ipairs(redis.call('HKEYS', k)) do
    if not excepted[field] then size = size + redis.call('HSTRLEN', k, field) end
  end
  return size <= limit
end

function compare.member()
  local k, member, alive = key(), take(), take()
  local found = redis.call('ZSCORE', k, member)
  return (found and '1' or '0') == alive
end

function compare.below()
  local k, limit = key(), number()
  return redis.call('ZCARD', k) < limit
end

-- The set ends with its last member.
local function end_with_last(k)
  local last = redis.call('ZRANGE', k, -1, -1, 'WITHSCORES')
  if last[2] then redis.call('PEXPIREAT', k, last[2]) end
end

-- Whether byte string a comes before b, whatever the server's locale.
local function before(a, b)
  local length = math.min(#a, #b)
  for i = 1, length do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- How many members come before the mark in ascending order, and whether the mark
-- itself is there.
local function rank(k, score, name)
  local count = redis.call('ZCOUNT', k, '-inf', '(' .. score)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', k, score, score)) do
    if other == name then return count, true end
    if before(name, other) then return count, false end
    count = count + 1
  end
  return count, false
end

local perform = {}

function perform.hash_set()
  local k, ttl, count = key(), number(), number()
  redis.call('HSET', k, unpack(ARGV, at + 1, at + 2 * count))
  at = at + 2 * count
  if ttl >= 0 then
    redis.call('PEXPIREAT', k, now + ttl)
    return now + ttl
  end
  return redis.call('PEXPIRETIME', k)
end

function perform.hash_get()
  local k, count = key(), number()
  local first = at + 1
  if count > 0 then at = at + count end
  local deadline = redis.call('PEXPIRETIME', k)
  if deadline == -2 then return false end
  if count < 0 then return { deadline, redis.call('HGETALL', k) } end
  local found = {}
  for i = first, first + count - 1 do
    local value = redis.call('HGET', k, ARGV[i])
    if value then
      found[#found + 1] = ARGV[i]
      found[#found + 1] = value
    end
  end
  return { deadline, found }
end

function perform.hash_add()
  local k, field, delta = key(), take(), number()
  local sum = tonumber(counted(k, field)) + delta
  if sum > NUMBER_MAX then sum = delta end
  redis.call('HSET', k, field, string.format('%.0f', sum))
  return sum
end

function perform.hash_stamp()
  local k, field, later = key(), take(), number()
  redis.call('HSET', k, field, string.format('%.0f', now + later))
  return now + later
end

function perform.hash_delete()
  return redis.call('DEL', key())
end

function perform.hash_expire()
  local k, ttl = key(), number()
  if redis.call('PEXPIREAT', k, now + ttl) == 1 then return now + ttl end
  return -1
end

function perform.hash_move()
  local k, to, ttl = key(), key(), number()
  if redis.call('EXISTS', k) == 0 then return -1 end
  redis.call('RENAME', k, to)
  redis.call('PEXPIREAT', to, now + ttl)
  return now + ttl
end

function perform.member_set()
  local k, member, ttl = key(), take(), number()
  redis.call('ZADD', k, now + ttl, member)
  end_with_last(k)
  return now + ttl
end

function perform.member_renew()
  local k, member, ttl = key(), take(), number()
  if not redis.call('ZSCORE', k, member) then return -1 end
  redis.call('ZADD', k, now + ttl, member)
  end_with_last(k)
  return now + ttl
end

function perform.member_set_until()
  local k, member, deadline = key(), take(), number()
  local lives = deadline > now
  if lives then
    redis.call('ZADD', k, deadline, member)
  else
    redis.call('ZREM', k, member)
  end
  end_with_last(k)
  return lives and deadline or -1
end

function perform.member_remove()
  local k, member = key(), take()
  local removed = redis.call('ZREM', k, member)
  end_with_last(k)
  return removed
end

function perform.member_list()
  local k, latest_first, limit, after = key(), take() == '1', number(), take()
  local live, start = redis.call('ZCARD', k), 0
  if after == '1' then
    local score, name = take(), take()
    local before_it, there = rank(k, score, name)
    if latest_first then
      start = live - before_it
    else
      start = there and before_it + 1 or before_it
    end
  end
  if limit == 0 then return { live } end
  local command = latest_first and 'ZREVRANGE' or 'ZRANGE'
  return { live, redis.call(command, k, start, start + limit - 1, 'WITHSCORES') }
end

function perform.member_clear()
  local k, has_except, except, has_prefix, prefix = key(), take(), take(), take(), take()
  local copies = KEYS[number()]
  local copy_prefix = copies and take()
  local removed = {}
  local all = redis.call('ZRANGE', k, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    if has_except == '0' or all[i] ~= except then
      removed[#removed + 1] = all[i]
      removed[#removed + 1] = all[i + 1]
      redis.call('ZREM', k, all[i])
      if has_prefix == '1' then
        local record = prefix .. all[i]
        if redis.call('TYPE', record).ok == 'hash' then redis.call('DEL', record) end
      end
      if copies then redis.call('ZREM', copies, copy_prefix .. all[i]) end
    end
  end
  end_with_last(k)
  if copies then end_with_last(copies) end
  return { redis.call('ZCARD', k), removed }
end

function perform.append_event()
  local k, keep, count = key(), take(), number()
  local first = at + 1
  at = at + 2 * count
  return redis.call('XADD', k, 'MAXLEN', '~', keep, '*', unpack(ARGV, first, at))
end

-- What the operations of a branch would do to what is there before it: the same as in
-- growth.rs, where it is said what a full store refuses.
local effect = { makes = false, enlarges = false, frees = false }
local growth = {}

local function makes(absent)
  if absent then effect.makes = true end
end

local function frees(present)
  if present then effect.frees = true end
end

-- Hashes that are there and deleted, and not made again.
local deleted = {}

function growth.hash_set()
  local k, _, count = key(), number(), number()
  deleted[k] = nil
  local before, after = 0, 0
  for i = at + 1, at + 2 * count, 2 do
    before = before + redis.call('HSTRLEN', k, ARGV[i])
    after = after + #ARGV[i + 1]
  end
  at = at + 2 * count
  makes(redis.call('EXISTS', k) == 0)
  if after > before then effect.enlarges = true end
end

function growth.hash_get()
  local _, count = take(), number()
  if count > 0 then at = at + count end
end

function growth.hash_add()
  local k = key()
  deleted[k] = nil
  makes(redis.call('EXISTS', k) == 0)
  at = at + 2
end

growth.hash_stamp = growth.hash_add

function growth.hash_delete()
  local k = key()
  if redis.call('EXISTS', k) == 1 then deleted[k] = true end
end

function growth.hash_expire()
  at = at + 2
end

function growth.hash_move()
  at = at + 3
end

function growth.member_set()
  local k, member, _ = key(), take(), take()
  makes(not redis.call('ZSCORE', k, member))
end

function growth.member_renew()
  at = at + 3
end

function growth.member_set_until()
  local k, member, deadline = key(), take(), number()
  local is_in = redis.call('ZSCORE', k, member)
  if deadline > now then
    makes(not is_in)
  else
    frees(is_in)
  end
end

function growth.member_remove()
  local k, member = key(), take()
  frees(redis.call('ZSCORE', k, member))
end

function growth.member_list()
  at = at + 3
  if take() == '1' then at = at + 2 end
end

function growth.member_clear()
  local k, has_except, except = key(), take(), take()
  local kept = has_except == '1' and redis.call('ZSCORE', k, except) and 1 or 0
  frees(redis.call('ZCARD', k) > kept)
  at = at + 2
  if take() ~= '0' then at = at + 1 end
end

function growth.append_event()
  local _, _, count = take(), take(), number()
  at = at + 2 * count
  effect.enlarges = true
end

local success_at, failure_at, compares = number(), number(), number()

local succeeded = true
for _ = 1, compares do
  if not compare[take()]() then
    succeeded = false
    break
  end
end
at = succeeded and success_at or failure_at

local operations = number()
if full then
  local first = at
  for _ = 1, operations do growth[take()]() end
  frees(next(deleted) ~= nil)
  if effect.makes or (effect.enlarges and not effect.frees) then
    return redis.error_reply('FULL ' .. question .. ' it has no memory left')
  end
  at = first
end

local replies = { question, succeeded and 1 or 0, now }
for i = 1, operations do
  replies[i + 3] = perform[take()]()
end
return replies
