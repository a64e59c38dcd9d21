#!lua flags=no-writes
-- Every job that was received until a moment and is not settled, at one moment.
-- KEYS  1 workers  2 high  3 low  4 troubled_at  5 onwards held:<worker>, one per ARGV from the fourth
-- ARGV  1 until (received_at, µs, or +inf)  2 most ids of each list  3 unused  4 onwards the workers that the caller
--       knows of
-- Returns {complete, head of high, head of low, ids in trouble, ids held}, ids by received_at. `complete` is
--       1 when the caller knew every worker: only then was every hand looked at.
-- Cost  O(workers + ids returned).
local beats = redis.call('HMGET', KEYS[1], unpack(ARGV, 3))
local complete = (redis.call('HLEN', KEYS[1]) == #ARGV - 3) and 1 or 0
local held = {}
for i = 4, #ARGV do
    if not beats[i - 2] then complete = 0 end
    for _, id in ipairs(redis.call('ZRANGE', KEYS[i + 1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
        held[#held + 1] = id
    end
end
return {
    complete, redis.call('LINDEX', KEYS[2], 0) or '', redis.call('LINDEX', KEYS[3], 0) or '',
    redis.call('ZRANGE', KEYS[4], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2]), held,
}
