-- Deletes a queue that was not used for its x-expires, unless it was used meanwhile.
-- KEYS 1 expires  2 expiring  3.. the queue's lists
-- ARGV 1 queue
-- Returns 1 if it is gone.
local now = redis.call('TIME')
local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not due or tonumber(due) > now[1] * 1000 + math.floor(now[2] / 1000) then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('DEL', unpack(KEYS, 3))
return 1
