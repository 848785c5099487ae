-- Takes up to n messages and registers each, in one step: nothing can be lost in between (P26).
-- KEYS 1 unacked  2 unacked_index  3 own tags  4 own lease  5 consumers  6 delayed  7.. lists, most urgent first
-- ARGV 1 n  2 number of the first  3 consumer  4 lease in ms  5 bytes after which no more are taken
--      6 bytes of the longest message that is read  7.. for each list: its step, then what stands behind the
--      message in `unacked`
-- Returns { ms until the next delayed message is due, -1 if there is none, -2 if there may be more messages,
-- members of delayed that are no messages, how many lists gave some, list (from 0), number of messages, …, message, … }: they are numbered one after
-- the other. In the place of a message that is too long stands its length.
-- A script that fails half way is not undone by the server: each write that may be refused (a key that holds
-- something else, a command that the ACL forbids) is looked at.
local function failed(reply) return type(reply) == 'table' and reply.err and reply end

local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local foreign = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', ms, 'LIMIT', 0, 100)) do
    local size, start = string.match(member, '^(%d+):()')
    local key, raw
    if start then
        key = string.sub(member, start, start + size - 1)
        raw = string.match(string.sub(member, start + size), '^[^:]*:(.*)$')
    end
    -- Taken out first: a server without memory refuses to store unless the script has begun to free some.
    redis.call('ZREM', KEYS[6], member)
    if not raw then
        -- Somebody else's: kept, where it holds up no message.
        foreign = foreign + 1
        redis.pcall('LPUSH', KEYS[6] .. '.dead', member)
    elseif failed(redis.pcall('LPUSH', key, raw)) then
        redis.call('ZADD', KEYS[6], ms + 5000, member)
    end
end

local left, number = tonumber(ARGV[1]), tonumber(ARGV[2])
local room, longest = tonumber(ARGV[5]), tonumber(ARGV[6])
local counts, raws, keys, values, index, own = {}, {}, {}, {}, {}, {}
local score = now[1] .. '.' .. string.format('%06d', now[2])
for list = 7, #KEYS do
    if left <= 0 or room <= 0 then break end
    local step, value_end = ARGV[2 * list - 7], ARGV[2 * list - 6]
    local taken = 0
    while left > 0 and room > 0 do
        -- One by one: only then is it known how long the next one is.
        local raw = redis.call('RPOP', KEYS[list])
        if not raw then break end
        local tag = 'gm:' .. ARGV[3] .. ':' .. number .. ':' .. step
        values[#values + 1] = tag
        values[#values + 1] = '[' .. raw .. value_end
        index[#index + 1] = score
        index[#index + 1] = tag
        own[#own + 1] = number
        own[#own + 1] = tag
        raws[#raws + 1] = raw
        keys[#keys + 1] = KEYS[list]
        number = number + 1
        left = left - 1
        taken = taken + 1
        room = room - #raw
    end
    if taken > 0 then
        counts[#counts + 1] = list - 7
        counts[#counts + 1] = taken
    end
end

if #values > 0 then
    local refused = failed(redis.pcall('HSET', KEYS[1], unpack(values)))
        or failed(redis.pcall('ZADD', KEYS[2], unpack(index)))
        or failed(redis.pcall('ZADD', KEYS[3], unpack(own)))
        or failed(redis.pcall('SET', KEYS[4], '1', 'PX', ARGV[4]))
        or failed(redis.pcall('SADD', KEYS[5], ARGV[3]))
    if refused then
        for at = #raws, 1, -1 do redis.call('RPUSH', keys[at], raws[at]) end
        for at = 2, #own, 2 do
            redis.pcall('HDEL', KEYS[1], own[at])
            redis.pcall('ZREM', KEYS[2], own[at])
            redis.pcall('ZREM', KEYS[3], own[at])
        end
        return refused
    end
end
local due = -2
if left > 0 and room > 0 then
    -- All lists are empty now. Reading them lets CLIENT TRACKING tell us of the next message.
    -- Together: in a script, Redis 7.0 notes with each command that reads all keys of the script.
    for list = 7, #KEYS, 1000 do redis.call('EXISTS', unpack(KEYS, list, math.min(list + 999, #KEYS))) end
    due = -1
    local first = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
    if first[2] then due = math.max(first[2] - ms, 0) end
end
local out = { due, foreign, #counts / 2 }
for _, count in ipairs(counts) do out[#out + 1] = count end
for _, raw in ipairs(raws) do
    if #raw > longest then raw = #raw end
    out[#out + 1] = raw
end
return out
