-- Deletes each log whose newest event lies in the future by more than ARGV[2] milliseconds:
-- a stream takes no event that is older than its newest one. ARGV[1] is the number of the
-- question, which the answer repeats.

local time = redis.call('TIME')
local latest = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]

for _, log in ipairs(KEYS) do
  if redis.call('TYPE', log).ok == 'stream' then
    local info = redis.call('XINFO', 'STREAM', log)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' and tonumber(string.match(info[i + 1], '^%d+')) > latest then
        redis.call('DEL', log)
      end
    end
  end
end
return { ARGV[1] }
