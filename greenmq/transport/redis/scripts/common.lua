-- Shared by the scripts below it: the way of an unsettled message back into its list.
-- Nothing here decodes and encodes a message again: cjson would turn [] into {} and round large integers.

-- The value ends in ,"",<queue as JSON>] (our own writing), the tag in :<priority step>.
local function parts(value, tag, head, tail, sep)
    local at, name = string.match(value, '^.*(),"",(".*")%]$')
    if not at then return nil end
    local ok, names = pcall(cjson.decode, '[' .. name .. ']')
    if not ok then return nil end
    local key = head .. names[1] .. tail
    local step = string.match(tag, ':(%d+)$')
    if step and step ~= '0' then key = key .. sep .. step end
    return string.sub(value, 2, at - 1), key, names[1]
end

-- A list that was empty has begun anew: that of a queue with x-expires ends by itself again.
local function keep_ttl(key, expires, name)
    local ms = redis.pcall('HGET', expires, name)
    if type(ms) == 'string' and redis.call('PTTL', key) == -1 then redis.call('PEXPIRE', key, ms) end
end

-- Counts, in front of the message, how often it was given back.
local function marked(raw)
    local times, rest = string.match(raw, '^{"redelivered": ?(%d+), ?()')
    if times then return '{"redelivered":' .. (tonumber(times) + 1) .. ',' .. string.sub(raw, rest) end
    if string.sub(raw, 1, 2) == '{"' then return '{"redelivered":1,' .. string.sub(raw, 2) end
    return raw
end
