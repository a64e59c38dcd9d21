#!lua flags=allow-oom
-- Takes some jobs out of a dead worker's hands. All become suspects; a crash is charged only to the one that ran alone.
-- Those that ran in a company of suspects are charged nothing, but run alone from now on. While the worker only waited
-- for another server (`waiting`, see waits.lua) none is suspected of anything.
-- The first call fences the worker: should it be frozen rather than dead, it cannot fetch under this name again.
-- KEYS  1 workers  2 fetches  3 alone  4 held:<dead worker>  5 suspect  6 trouble  7 troubled_at  8 dead  9 counters
-- ARGV  1 dead worker  2 the beat that the rescuer has watched not changing  3 crashes that make a dead letter
--       4 most jobs of this call (<= 250)  5 channel that wakes workers
--       6 the error of a job whose worker died while it ran in a company
-- Returns {rescued, of them dead, left to rescue}, or {-1, 0, 0} when the worker's beat has changed.
-- Cost  O(jobs of this call).
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return {-1, 0, 0} end
redis.call('HSET', KEYS[1], ARGV[1], 'fenced')
redis.call('HDEL', KEYS[2], ARGV[1])
local held = redis.call('ZRANGE', KEYS[4], 0, tonumber(ARGV[4]) - 1, 'WITHSCORES')
local ids, received = {}, {}
for i = 1, #held, 2 do
    ids[#ids + 1] = held[i]
    received[#received + 1] = held[i + 1]
    received[#received + 1] = held[i]
end
local died = 0
if ids[1] then
    local alone = redis.call('HGET', KEYS[3], ARGV[1])
    local troubles = redis.call('HMGET', KEYS[6], unpack(ids))
    local suspects, marks = {}, {}
    for i, id in ipairs(ids) do
        local attempts, crashes, err = string.match(troubles[i] or '0 0 ', '^(%d+) (%d+) (.*)$')
        if id == alone then
            crashes = crashes + 1
            err = 'its worker died while running it alone'
        elseif alone == 'company' then
            err = ARGV[6]
        end
        if tonumber(crashes) >= tonumber(ARGV[3]) then
            died = died + 1
            redis.call('HSET', KEYS[8], id, 'crashed ' .. attempts .. ' ' .. crashes .. ' ' .. err)
            redis.call('HDEL', KEYS[6], id)
        else
            suspects[#suspects + 1] = id
            marks[#marks + 1] = id
            marks[#marks + 1] = attempts .. ' ' .. crashes .. ' ' .. err
        end
    end
    redis.call('ZADD', KEYS[7], unpack(received))
    if suspects[1] then
        redis.call('RPUSH', KEYS[5], unpack(suspects))
        redis.call('HSET', KEYS[6], unpack(marks))
    end
    redis.call('ZREM', KEYS[4], unpack(ids))
    redis.call('HINCRBY', KEYS[9], 'rescued', #ids)
    if died > 0 then redis.call('HINCRBY', KEYS[9], 'dead', died) end
end
local left = redis.call('ZCARD', KEYS[4])
if left == 0 then
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('HDEL', KEYS[3], ARGV[1])
end
redis.call('PUBLISH', ARGV[5], '1')
return {#ids, died, left}
