-- Removes a closed period's keys.
-- KEYS version, periods, rank, member, shadow periods, shadow rank, shadow member, shadow removed
-- ARGV period, generation, channel
redis.call('UNLINK', KEYS[6], KEYS[7], KEYS[8])
redis.call('SREM', KEYS[5], ARGV[1])
if redis.call('SREM', KEYS[2], ARGV[1]) == 0 then
  return 0
end
redis.call('UNLINK', KEYS[3], KEYS[4])
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 1
end
local version = redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[3], ARGV[2] .. ' ' .. string.format('%.0f', version))
return 1
