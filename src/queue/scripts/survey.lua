#!lua flags=no-writes
-- Everything that is to be seen of a queue, at one moment.
-- KEYS  1 workers  2 high  3 high:again  4 low  5 low:again  6 suspect  7 delayed  8 dead  9 jobs  10 paused
--       11 counters  12 onwards held:<worker>, one per ARGV from the second
-- ARGV  1 unused  2 onwards the workers that the caller knows of
-- Returns {now (µs; no earlier than the last stamp), lengths of keys 2 to 9, paused, head of high, head of low, workers
--       and beats, counters, jobs held}.
-- Cost  O(workers).
local held = {}
for i = 2, #ARGV do held[i - 1] = redis.call('ZCARD', KEYS[10 + i]) end
local lengths = {}
for i = 2, 6 do lengths[i - 1] = redis.call('LLEN', KEYS[i]) end
lengths[6] = redis.call('ZCARD', KEYS[7])
lengths[7] = redis.call('HLEN', KEYS[8])
lengths[8] = redis.call('HLEN', KEYS[9])
local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
local stamp = redis.call('HGET', KEYS[11], 'stamp')
if stamp and tonumber(stamp) > tonumber(now) then now = stamp end
return {
    now, lengths, redis.call('EXISTS', KEYS[10]),
    redis.call('LINDEX', KEYS[2], 0) or '', redis.call('LINDEX', KEYS[4], 0) or '',
    redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[11]), held,
}
