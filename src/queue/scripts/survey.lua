#!lua flags=no-writes
-- Everything that is to be seen of a queue, at one moment.
-- KEYS  1 workers  2 high  3 high:again  4 low  5 low:again  6 suspect  7 delayed  8 dead  9 jobs  10 paused
--       11 troubled_at  12 counters  13 onwards held:<worker>, one per ARGV
-- ARGV  the workers that the caller knows of
-- Returns {complete, now (µs; no earlier than the last stamp), lengths of keys 2 to 9, paused, head of high, head of low, least received_at of
--       troubled_at, workers and beats, counters, jobs held, least received_at of each}. `complete` is 1 when the
--       caller knew every worker: only then was every hand looked at.
-- Cost  O(workers).
local beats = redis.call('HMGET', KEYS[1], unpack(ARGV))
local complete = (redis.call('HLEN', KEYS[1]) == #ARGV - 1) and 1 or 0
local held, oldest = {}, {}
for i = 2, #ARGV do
    if not beats[i] then complete = 0 end
    local key = KEYS[11 + i]
    held[i - 1] = redis.call('ZCARD', key)
    oldest[i - 1] = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or ''
end
local lengths = {}
for i = 2, 6 do lengths[i - 1] = redis.call('LLEN', KEYS[i]) end
lengths[6] = redis.call('ZCARD', KEYS[7])
lengths[7] = redis.call('HLEN', KEYS[8])
lengths[8] = redis.call('HLEN', KEYS[9])
local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
local stamp = redis.call('HGET', KEYS[12], 'stamp')
if stamp and tonumber(stamp) > tonumber(now) then now = stamp end
return {
    complete, now, lengths, redis.call('EXISTS', KEYS[10]),
    redis.call('LINDEX', KEYS[2], 0) or '', redis.call('LINDEX', KEYS[4], 0) or '',
    redis.call('ZRANGE', KEYS[11], 0, 0, 'WITHSCORES')[2] or '',
    redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[12]), held, oldest,
}
