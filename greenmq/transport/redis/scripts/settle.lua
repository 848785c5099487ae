-- Settles deliveries. What is settled already is passed over, so a repeated call does no harm.
-- KEYS 1 unacked  2 unacked_index  3 own tags  4 expires
-- ARGV 1 head  2 tail  3 sep of the lists' names  4 how many are done with  5.. their tags, then pairs of
--      tag and fate: 'r' back to the front and counted, 'u' back to the front untouched, 'd<list>'
--      to that list of dead letters; the newest first
-- Returns how many of the first kind were ours still, and of the second. What can't go back (its list's key
-- holds something else) stays with us, and the error is returned when all others are settled.
local done = tonumber(ARGV[4])
local gone, back, refused = 0, 0, nil
for first = 5, 4 + done, 500 do
    local last = math.min(first + 499, 4 + done)
    gone = gone + redis.call('HDEL', KEYS[1], unpack(ARGV, first, last))
    redis.call('ZREM', KEYS[2], unpack(ARGV, first, last))
    redis.call('ZREM', KEYS[3], unpack(ARGV, first, last))
end
for at = 5 + done, #ARGV, 2 do
    local tag = ARGV[at]
    local value = redis.call('HGET', KEYS[1], tag)
    if value then
        local raw, key, name = parts(value, tag, ARGV[1], ARGV[2], ARGV[3])
        -- Freed first: a server without memory refuses to store otherwise.
        redis.call('HDEL', KEYS[1], tag)
        if raw then
            local fate, reply = ARGV[at + 1], nil
            if string.sub(fate, 1, 1) == 'd' then
                reply = redis.pcall('LPUSH', string.sub(fate, 2), raw)
            else
                if fate == 'r' then raw = marked(raw) end
                reply = redis.pcall('RPUSH', key, raw)
                keep_ttl(key, KEYS[4], name)
            end
            if type(reply) == 'table' and reply.err then
                redis.call('HSET', KEYS[1], tag, value)
                refused = reply
            else
                back = back + 1
            end
        end
    end
    if redis.call('HEXISTS', KEYS[1], tag) == 0 then
        redis.call('ZREM', KEYS[2], tag)
        redis.call('ZREM', KEYS[3], tag)
    end
end
return refused or { gone, back }
