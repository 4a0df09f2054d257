#!lua flags=no-writes
-- Reads hashes whole, with their deadlines: what MULTI refuses to do on a server
-- that is full. ARGV: the number of the question, which the answer repeats.

local replies = { ARGV[1], redis.call('TIME') }
for i = 1, #KEYS do
  replies[#replies + 1] = redis.call('PEXPIRETIME', KEYS[i])
  replies[#replies + 1] = redis.call('HGETALL', KEYS[i])
end
return replies
