#!lua
-- Queues an internal job, unless one of the same name exists.
-- KEYS  1 named  2 jobs  3 lane  4 counters
-- ARGV  1 unique name  2 last character of the id (h or l)  3 bytes  4 channel that wakes workers
-- Returns {whether it was queued, its id}. Cost O(1).
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then return {0, known} end
local time = redis.call('TIME')
local stamp = time[1] .. string.format('%06d', time[2])
-- As in enqueue.lua: stamps never go back.
local last = redis.call('HGET', KEYS[4], 'stamp')
if last and tonumber(last) > tonumber(stamp) then stamp = last end
redis.call('HSET', KEYS[4], 'stamp', stamp)
local id = stamp .. '-n:' .. ARGV[1] .. '-' .. ARGV[2]
redis.call('HSET', KEYS[2], id, ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], id)
redis.call('HINCRBY', KEYS[4], 'pushed', 1)
if redis.call('RPUSH', KEYS[3], id) == 1 then redis.call('PUBLISH', ARGV[4], '1') end
return {1, id}
