-- Adds a binding of a queue that may expire, and moves the time until which it counts. Never back.
-- KEYS 1 the exchange's bindings  2 deadlines
-- ARGV 1 binding  2 exchange  3 ms from now
redis.call('SADD', KEYS[1], ARGV[1])
local now = redis.call('TIME')
redis.call('ZADD', KEYS[2], 'GT', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[3], ARGV[2])
return 1
