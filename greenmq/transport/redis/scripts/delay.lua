-- Keeps a message until it is due, by the server's clock.
-- KEYS 1 delayed
-- ARGV 1 ms to wait  2 member
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1], ARGV[2])
return 1
