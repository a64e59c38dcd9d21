#!lua flags=allow-oom
-- A worker stops: everything that Redis lists as held by it goes back, unconsumed, and its name is gone.
-- KEYS  1 workers  2 fetches  3 alone  4 held:<worker>  5 suspect  6 high:again  7 low:again  8 troubled_at  9 counters
-- ARGV  1 worker  2 most jobs of this call (<= 1000)  3 channel that wakes workers
-- Returns {returned, left to return}: call again while some are left. Cost O(jobs of this call).
redis.call('HDEL', KEYS[2], ARGV[1])
local held = redis.call('ZRANGE', KEYS[4], 0, tonumber(ARGV[2]) - 1, 'WITHSCORES')
local alone = redis.call('HGET', KEYS[3], ARGV[1])
local to, ids, received = {[5] = {}, [6] = {}, [7] = {}}, {}, {}
for i = 1, #held, 2 do
    local id = held[i]
    ids[#ids + 1] = id
    received[#received + 1] = held[i + 1]
    received[#received + 1] = id
    local list = (string.sub(id, -1) == 'h') and 6 or 7
    if id == alone or alone == 'company' or alone == 'waiting' then list = 5 end
    table.insert(to[list], id)
end
if ids[1] then
    for list, members in pairs(to) do
        if members[1] then redis.call('RPUSH', KEYS[list], unpack(members)) end
    end
    redis.call('ZADD', KEYS[8], unpack(received))
    redis.call('ZREM', KEYS[4], unpack(ids))
    redis.call('HINCRBY', KEYS[9], 'returned', #ids)
    redis.call('PUBLISH', ARGV[3], '1')
end
local left = redis.call('ZCARD', KEYS[4])
if left == 0 then
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('HDEL', KEYS[3], ARGV[1])
end
return {#ids, left}
