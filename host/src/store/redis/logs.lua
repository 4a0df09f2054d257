-- Reads events of logs, each behind a mark, as of one moment. ARGV: the number of
-- the question, which the answer repeats, the most events of a log, how many milliseconds
-- an event may lie in the future, then for each log the id of an event or nothing. For
-- each log: the events, whether some behind the mark may have been dropped, and whether the
-- last one lies too far in the future.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local replies = { ARGV[1], now }

local function parts(id)
  local milliseconds, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(milliseconds), tonumber(sequence)
end

local function before(a, b)
  local a_milliseconds, a_sequence = parts(a)
  local b_milliseconds, b_sequence = parts(b)
  if a_milliseconds ~= b_milliseconds then return a_milliseconds < b_milliseconds end
  return a_sequence < b_sequence
end

-- Whether the log was ever trimmed and now begins behind the mark.
local function trimmed(log, mark)
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if not first or not before(mark, first[1]) then return 0 end
  local info, length, added = redis.call('XINFO', 'STREAM', log), 0, 0
  for i = 1, #info, 2 do
    if info[i] == 'length' then length = info[i + 1] end
    if info[i] == 'entries-added' then added = info[i + 1] end
  end
  return added > length and 1 or 0
end

for i, log in ipairs(KEYS) do
  local mark = ARGV[i + 3]
  local from = mark == '' and '-' or '(' .. mark
  local events = redis.call('XRANGE', log, from, '+', 'COUNT', ARGV[2])
  local last = events[#events]
  replies[#replies + 1] = events
  replies[#replies + 1] = mark == '' and 0 or trimmed(log, mark)
  replies[#replies + 1] = last and parts(last[1]) > now + ARGV[3] and 1 or 0
end
return replies
