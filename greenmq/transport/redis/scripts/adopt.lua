-- Gives back one overdue message of a kombu worker, unless it was settled meanwhile.
-- KEYS 1 unacked  2 unacked_index  3.. the lists it goes to
-- ARGV 1 tag  2 the message
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
for list = 3, #KEYS do redis.call('RPUSH', KEYS[list], marked(ARGV[2])) end
return 1
