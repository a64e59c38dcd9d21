-- Removes a closed period's keys, if what it was decided on still stands.
-- KEYS version, periods, rank, member, shadow periods, shadow rank, shadow member, shadow removed, what it depends on,
--      ready
-- ARGV period, generation, channel, what has to stand there, whether nothing does as well (1, 0), the version that the
--      caller has given the board already (0: none)
-- -> {1 there was something to remove, 0 nothing, the version that this gave to the board (0: none)}
local stands = redis.call('GET', KEYS[9])
if stands ~= ARGV[4] and (stands or ARGV[5] == '0') then
  return {0, 0}
end
redis.call('UNLINK', KEYS[6], KEYS[7], KEYS[8])
redis.call('SREM', KEYS[5], ARGV[1])
if redis.call('SREM', KEYS[2], ARGV[1]) == 0 then
  return {0, 0}
end
redis.call('UNLINK', KEYS[3], KEYS[4])
local last = redis.call('GET', KEYS[1])
if not last then
  return {1, 0}
end
-- As in publish.lua: a Redis that lacks what the caller has published keeps its old version until the board is rebuilt.
if tonumber(last) < tonumber(ARGV[6]) then
  redis.call('SET', KEYS[10], 'doubtful', 'XX')
  return {1, 0}
end
local version = redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[3], ARGV[2] .. ' ' .. string.format('%.0f', version))
return {1, version}
