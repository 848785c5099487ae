-- Gives back one overdue message of a kombu worker, unless it was settled meanwhile.
-- KEYS 1 unacked  2 unacked_index  3.. the lists it goes to
-- ARGV 1 tag  2 the message
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
for list = 3, #KEYS do
    local reply = redis.pcall('RPUSH', KEYS[list], marked(ARGV[2]))
    if type(reply) == 'table' then
        redis.call('HSET', KEYS[1], ARGV[1], value)
        return reply
    end
end
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
