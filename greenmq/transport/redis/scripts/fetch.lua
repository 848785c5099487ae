-- Takes up to n messages and registers each, in one step: nothing can be lost in between (P26).
-- KEYS 1 unacked  2 unacked_index  3 own tags  4 own lease  5 consumers  6 delayed  7.. lists, most urgent first
-- ARGV 1 n  2 number of the first  3 consumer  4 lease in ms  5.. for each list: its step, then what stands
--      behind the message in `unacked`
-- Returns { ms until the next delayed message is due or -1, list (from 0), number, message, list, … }.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', ms, 'LIMIT', 0, 100)) do
    local size, start = string.match(member, '^(%d+):()')
    local key = string.sub(member, start, start + size - 1)
    local raw = string.match(string.sub(member, start + size), '^[^:]*:(.*)$')
    -- Taken out first: a server without memory refuses to store unless the script has begun to free some.
    redis.call('ZREM', KEYS[6], member)
    redis.call('LPUSH', key, raw)
end

local left, number = tonumber(ARGV[1]), tonumber(ARGV[2])
local due = -1
local out, values, index, own = { -1 }, {}, {}, {}
local score = now[1] .. '.' .. string.format('%06d', now[2])
for list = 7, #KEYS do
    if left <= 0 then break end
    local step, value_end = ARGV[2 * list - 9], ARGV[2 * list - 8]
    local found = redis.call('RPOP', KEYS[list], left)
    if found then
        for _, raw in ipairs(found) do
            local tag = 'gm:' .. ARGV[3] .. ':' .. number .. ':' .. step
            values[#values + 1] = tag
            values[#values + 1] = '[' .. raw .. value_end
            index[#index + 1] = score
            index[#index + 1] = tag
            own[#own + 1] = number
            own[#own + 1] = tag
            out[#out + 1] = list - 7
            out[#out + 1] = number
            out[#out + 1] = raw
            number = number + 1
            left = left - 1
        end
    end
end

if #values > 0 then
    redis.call('HSET', KEYS[1], unpack(values))
    redis.call('ZADD', KEYS[2], unpack(index))
    redis.call('ZADD', KEYS[3], unpack(own))
    redis.call('SET', KEYS[4], '1', 'PX', ARGV[4])
    redis.call('SADD', KEYS[5], ARGV[3])
end
if left > 0 then
    -- All lists are empty now. Reading them lets CLIENT TRACKING tell us of the next message.
    for list = 7, #KEYS do redis.call('LLEN', KEYS[list]) end
    local first = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
    if first[2] then out[1] = math.max(first[2] - ms, 0) end
end
return out
