-- Gives back what dead consumers have, the newest first, so that the old order comes out (P28).
-- Bounded by a number of messages and, over all workers, by the lock (P28: no stampede).
-- KEYS 1 unacked  2 unacked_index  3 consumers  4 lock  5 expiring queues  6 expires
-- ARGV 1 head  2 tail  3 sep  4 lock in ms  5 at most so many messages  6 start of a lease's key  7 of a tag set's
--      8 seconds after which a tag without a lease (kombu's) is overdue  9 'force': whatever the lock says
-- Returns { restored, ms until the next sweep (0: there is more), overdue tag, its value, … }, and for each queue
-- that has expired an empty tag and its name.
if ARGV[9] ~= 'force' and not redis.call('SET', KEYS[4], '1', 'NX', 'PX', ARGV[4]) then
    return { 0, math.max(redis.call('PTTL', KEYS[4]), 1) }
end
local limit = tonumber(ARGV[5])
local restored, wait = 0, tonumber(ARGV[4])
for _, consumer in ipairs(redis.call('SMEMBERS', KEYS[3])) do
    if redis.call('EXISTS', ARGV[6] .. consumer) == 0 then
        local own = ARGV[7] .. consumer
        local tags = redis.call('ZREVRANGE', own, 0, limit - restored - 1)
        for _, tag in ipairs(tags) do
            local value, reply = redis.call('HGET', KEYS[1], tag), nil
            if value then
                local raw, key, name = parts(value, tag, ARGV[1], ARGV[2], ARGV[3])
                if raw then
                    reply = redis.pcall('RPUSH', key, marked(raw))
                    keep_ttl(key, KEYS[6], name)
                end
            end
            -- One that can't go back (its list's key holds something else) waits, and holds up no other.
            if type(reply) ~= 'table' then
                redis.call('HDEL', KEYS[1], tag)
                redis.call('ZREM', KEYS[2], tag)
                redis.call('ZREM', own, tag)
                restored = restored + 1
            end
        end
        if redis.call('EXISTS', own) == 0 then redis.call('SREM', KEYS[3], consumer) end
        if restored >= limit then
            wait = 0
            break
        end
    end
end
if wait == 0 then redis.call('DEL', KEYS[4]) end
local out = { restored, wait }
local now = redis.call('TIME')
local overdue = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now[1] - ARGV[8], 'LIMIT', 0, 100)
local room = 2097152
for _, tag in ipairs(overdue) do
    if room <= 0 then break end
    if string.sub(tag, 1, 3) ~= 'gm:' then
        local value = redis.call('HGET', KEYS[1], tag)
        if value then
            out[#out + 1] = tag
            out[#out + 1] = value
            room = room - #value
        else
            redis.call('ZREM', KEYS[2], tag)
        end
    end
end
for _, queue in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now[1] * 1000, 'LIMIT', 0, 100)) do
    out[#out + 1] = ''
    out[#out + 1] = queue
end
return out
