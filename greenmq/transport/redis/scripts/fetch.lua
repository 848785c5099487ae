-- Takes messages for some requests and registers each, in one step: nothing can be lost in between (P26).
-- KEYS 1 unacked  2 unacked_index  3 own tags  4 own lease  5 consumers  6 delayed
--      7.. the lists of each request, most urgent first
-- ARGV 1 number of the first message  2 consumer  3 lease in ms  4 bytes after which no more are taken
--      5 messages after which no more are taken  6 bytes of the longest message that is read
--      7.. for each request: how many messages, how many lists, then for each list its step and what stands
--      behind the message in `unacked`
-- Returns { ms until the next delayed message is due or -1 if there is none, members of delayed that are no
-- messages, number of requests that there may be more for, which (from 0), …, number of refusals, for each its
-- request and an error, …, number of runs, for each its list (from 0, of all requests) and how many messages, …,
-- message, … }: they are numbered one after the other. In the place of a message that is too long stands its
-- length.
-- A script that fails half way is not undone by the server: each command that may be refused (a key that holds
-- something else, a command that the ACL forbids) is looked at, and is told to those whom it is about.
-- Nothing is read before the lists are taken from: with each command that reads, Redis 7.0 notes all keys of the
-- script, and CLIENT TRACKING would tell us of what we have taken ourselves.
local function failed(reply) return type(reply) == 'table' and reply.err and reply end

local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local score = now[1] .. '.' .. string.format('%06d', now[2])
local number, consumer = tonumber(ARGV[1]), ARGV[2]
local room, left, longest = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local wanted, runs, raws = {}, {}, {}  -- of each request; list and count; what was taken
local refusals = {}  -- request → error

-- Take what is there. Returns what refused to register it; then it is back where it was.
local function take()
    local values, index, own, keys, begun = {}, {}, {}, {}, #raws
    local at, list, request = 7, 7, 0
    while at < #ARGV do
        request = request + 1
        local n, last = wanted[request] or tonumber(ARGV[at]), list + tonumber(ARGV[at + 1])
        at = at + 2
        while list < last do
            local taken = 0
            while n > 0 and left > 0 and room > 0 do
                -- One by one: only then is it known how long the next one is.
                local raw = redis.pcall('RPOP', KEYS[list])
                if failed(raw) then refusals[request] = raw end
                if not raw or failed(raw) then break end
                local tag = 'gm:' .. consumer .. ':' .. number .. ':' .. ARGV[at]
                values[#values + 1] = tag
                values[#values + 1] = '[' .. raw .. ARGV[at + 1]
                index[#index + 1] = score
                index[#index + 1] = tag
                own[#own + 1] = number
                own[#own + 1] = tag
                raws[#raws + 1] = raw
                keys[#keys + 1] = KEYS[list]
                number = number + 1
                taken = taken + 1
                n, left, room = n - 1, left - 1, room - #raw
            end
            if taken > 0 then
                runs[#runs + 1] = list - 7
                runs[#runs + 1] = taken
            end
            list, at = list + 1, at + 2
        end
        wanted[request] = n
    end
    if #values == 0 then return end
    local refused = failed(redis.pcall('HSET', KEYS[1], unpack(values)))
        or failed(redis.pcall('ZADD', KEYS[2], unpack(index)))
        or failed(redis.pcall('ZADD', KEYS[3], unpack(own)))
        or failed(redis.pcall('SET', KEYS[4], '1', 'PX', ARGV[3]))
        or failed(redis.pcall('SADD', KEYS[5], consumer))
    if refused then
        for each = #keys, 1, -1 do redis.call('RPUSH', keys[each], raws[begun + each]) end
        for each = 2, #own, 2 do
            redis.pcall('HDEL', KEYS[1], own[each])
            redis.pcall('ZREM', KEYS[2], own[each])
            redis.pcall('ZREM', KEYS[3], own[each])
        end
    end
    return refused
end

local refused = take()
if refused then return refused end

-- Delayed messages that are due come behind what is there, and are taken at once if there is room.
local foreign, moved = 0, false
local members = redis.pcall('ZRANGEBYSCORE', KEYS[6], '-inf', ms, 'LIMIT', 0, 100)
local unseen = failed(members)
for _, member in ipairs(members) do
    local size, start = string.match(member, '^(%d+):()')
    local key, raw
    if start then
        key = string.sub(member, start, start + size - 1)
        raw = string.match(string.sub(member, start + size), '^[^:]*:(.*)$')
    end
    -- Taken out first: a server without memory refuses to store unless the script has begun to free some.
    unseen = failed(redis.pcall('ZREM', KEYS[6], member))
    if unseen then break end
    if not raw then
        -- Somebody else's: kept, where it holds up no message.
        foreign = foreign + 1
        redis.pcall('LPUSH', KEYS[6] .. '.dead', member)
    elseif failed(redis.pcall('LPUSH', key, raw)) then
        redis.call('ZADD', KEYS[6], ms + 5000, member)
    else
        moved = true
    end
end
if moved then
    -- If this is refused, it is back in the lists; what was taken before is registered.
    local taken, counts = #raws, #runs
    unseen = take()
    if unseen then
        for each = #raws, taken + 1, -1 do raws[each] = nil end
        for each = #runs, counts + 1, -1 do runs[each] = nil end
    end
end

local unfinished, refused, empty = {}, {}, {}
local at, list, request = 7, 7, 0
while at < #ARGV do
    request = request + 1
    local lists = tonumber(ARGV[at + 1])
    local refusal = refusals[request] or unseen
    if refusal then
        refused[#refused + 1] = request - 1
        refused[#refused + 1] = refusal
    end
    if lists > 0 and (wanted[request] == 0 or left <= 0 or room <= 0 or refusal) then
        unfinished[#unfinished + 1] = request - 1
    else
        for each = list, list + lists - 1 do empty[#empty + 1] = KEYS[each] end
    end
    at, list = at + 2 + 2 * lists, list + lists
end
-- Reading the lists that are empty now lets CLIENT TRACKING tell us of the next message.
for each = 1, #empty, 1000 do redis.call('EXISTS', unpack(empty, each, math.min(each + 999, #empty))) end
local due = unseen and 1000 or -1
if not unseen then
    local next = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
    if next[2] then due = math.max(next[2] - ms, 0) end
end
local out = { due, foreign }
for _, part in ipairs({ unfinished, refused, runs }) do
    out[#out + 1] = part == unfinished and #part or #part / 2
    for _, each in ipairs(part) do out[#out + 1] = each end
end
for _, raw in ipairs(raws) do
    if #raw > longest then raw = #raw end
    out[#out + 1] = raw
end
return out
