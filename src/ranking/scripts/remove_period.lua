-- Removes a closed period's keys, if what it was decided on still stands.
-- KEYS version, periods, rank, member, shadow periods, shadow rank, shadow member, shadow removed, what it depends on
-- ARGV period, generation, channel, what has to stand there, whether nothing does as well (1, 0)
local stands = redis.call('GET', KEYS[9])
if stands ~= ARGV[4] and (stands or ARGV[5] == '0') then
  return 0
end
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
