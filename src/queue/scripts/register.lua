#!lua flags=allow-oom
-- Signs a worker on under a name that was never used before.
-- KEYS  1 workers  2 fetches
-- ARGV  1 worker
-- Returns 1, or 0 when the name is taken. Cost O(1).
if redis.call('HSETNX', KEYS[1], ARGV[1], '0 0 0') == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], 0)
return 1
