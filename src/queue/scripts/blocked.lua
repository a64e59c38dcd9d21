#!lua flags=allow-oom
-- Notes for people which games have a job that is set aside, and why. Nothing depends on it.
-- KEYS  1 blocked
-- ARGV  game, job, error; as often as there are games
-- Cost  O(games of the call).
local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
for i = 1, #ARGV, 3 do
    redis.call('HSET', KEYS[1], ARGV[i], now .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2])
end
redis.call('EXPIRE', KEYS[1], 600)
return 1
