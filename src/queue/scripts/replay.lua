#!lua
-- Queues a dead letter again under its old id, with its old time of receipt. Doing it twice queues it once.
-- KEYS  1 jobs  2 again list of its lane  3 troubled_at  4 trouble  5 dead  6 shares  7 deaths
-- ARGV  1 id  2 bytes  3 received_at (µs)  4 channel that wakes workers
-- Returns 1 when it was queued, 0 when it already waits or runs. Cost O(log jobs in trouble).
if redis.call('HDEL', KEYS[5], ARGV[1]) == 0 and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
-- Should it die again, that is another death than the one that a mover may still have in hand.
redis.call('HDEL', KEYS[7], ARGV[1])
-- Counted again as its id says, if it was taken off its game's share of the queue.
local game, size = string.match(ARGV[1], '@(%d+)%.(%d+)%-[hl]$')
if redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) == 1 and game then
    redis.call('HINCRBY', KEYS[6], game, string.format('%.0f', 2 ^ 40 + size))
end
redis.call('HDEL', KEYS[4], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[4], '1')
return 1
