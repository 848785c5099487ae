-- Adds a message to a list of a queue with x-expires: a list begun by it ends by itself. A publish is no use.
-- KEYS 1 list
-- ARGV 1 message  2 x-expires in ms
local size = redis.call('LPUSH', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return size
