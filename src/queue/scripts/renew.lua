#!lua flags=allow-oom
-- A heartbeat. A script and not a bare HSET, so that a full Redis does not make every worker look dead.
-- KEYS  1 workers
-- ARGV  1 worker  2 its new beat
-- Returns {whether the worker is still registered, all workers and their beats, flat}. Cost O(workers).
local beat = redis.call('HGET', KEYS[1], ARGV[1])
local alive = (beat and beat ~= 'fenced') and 1 or 0
if alive == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return {alive, redis.call('HGETALL', KEYS[1])}
