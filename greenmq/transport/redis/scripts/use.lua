-- Notes that a queue with x-expires is in use, so that it lives on for that long.
-- KEYS 1 expires  2 expiring  3.. the queue's lists
-- ARGV 1 queue  2 its x-expires in ms; '': as noted
-- Returns x-expires, or 0 if it has none.
local ms = tonumber(ARGV[2])
if ms then redis.call('HSET', KEYS[1], ARGV[1], ms) else ms = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) end
if ms == 0 then return 0 end
local now = redis.call('TIME')
redis.call('ZADD', KEYS[2], now[1] * 1000 + math.floor(now[2] / 1000) + ms, ARGV[1])
for list = 3, #KEYS do redis.call('PEXPIRE', KEYS[list], ms) end
return ms
