#!lua flags=allow-oom
-- After a fetch without an answer: says what Redis believes the worker holds, and refuses that fetch should Redis
-- still run it later.
-- KEYS  1 fetches  2 held:<worker>
-- ARGV  1 worker  2 number of the fetch without an answer
-- Returns the ids (at most 1000), or nil when the worker is not registered. Cost O(ids returned).
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return false end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('ZRANGE', KEYS[2], 0, 999)
