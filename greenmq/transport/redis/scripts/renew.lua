-- Says that the consumer lives, and, if asked to, that it still works on what it has.
-- KEYS 1 own lease  2 own tags  3 unacked_index  4 consumers
-- ARGV 1 lease in ms  2 consumer  3 '1': refresh the times that kombu's workers look at
-- Returns 1; 0 if the lease had run out, so that others may have what was ours.
local alive = redis.call('PEXPIRE', KEYS[1], ARGV[1])
if alive == 0 and redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
    redis.call('SADD', KEYS[4], ARGV[2])
elseif alive == 0 then
    alive = 1
end
if ARGV[3] == '1' then
    local now = redis.call('TIME')
    local score = now[1] .. '.' .. string.format('%06d', now[2])
    local at = 0
    while true do
        local tags = redis.call('ZRANGE', KEYS[2], at, at + 499)
        if #tags == 0 then break end
        local members = {}
        for _, tag in ipairs(tags) do
            members[#members + 1] = score
            members[#members + 1] = tag
        end
        redis.call('ZADD', KEYS[3], 'XX', unpack(members))
        at = at + 500
    end
end
return alive
