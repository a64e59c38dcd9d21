-- Puts the shadow in the board's place, in one step, and makes the board ready.
-- KEYS ready, version, rebuild, periods, shadow periods, era
-- ARGV token, beginning of the board's keys, generation, run id of Redis, channel, version,
--      era of Postgres ('' unknown)
-- -> 0 this is no longer the rebuild under way; otherwise the board's version
-- Names of period keys are made here: only Redis knows which periods there are at this moment. They carry the board's
-- hash tag, so they are in the slot of the declared keys.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return 0
end
-- UNLINK takes the old keys away at once and frees them in the background; RENAME over them would free a million
-- entries while everybody waits.
-- Whatever the old keys are, they go: what somebody else wrote there must not keep the board from being made.
if redis.call('TYPE', KEYS[4]).ok == 'set' then
  for _, p in ipairs(redis.call('SMEMBERS', KEYS[4])) do
    local live = ARGV[2] .. 'p:' .. p
    redis.call('UNLINK', live .. ':rank', live .. ':member')
  end
end
redis.call('UNLINK', KEYS[4])
-- No period is called so: the set of a board that is ready is there, be it of no periods, or Redis has lost it.
redis.call('SADD', KEYS[4], '-')
for _, p in ipairs(redis.call('SMEMBERS', KEYS[5])) do
  local live, shadow = ARGV[2] .. 'p:' .. p, ARGV[2] .. 'shadow:' .. p
  for _, player in ipairs(redis.call('SMEMBERS', shadow .. ':member:removed')) do
    local value = redis.call('HGET', shadow .. ':member', player)
    if value and string.find(value, ':', 1, true) == #value then
      redis.call('HDEL', shadow .. ':member', player)
    end
  end
  redis.call('UNLINK', shadow .. ':member:removed')
  if redis.call('EXISTS', shadow .. ':rank') == 1 then
    redis.call('UNLINK', live .. ':rank', live .. ':member')
    redis.call('RENAME', shadow .. ':rank', live .. ':rank')
    redis.call('RENAME', shadow .. ':member', live .. ':member')
    redis.call('SADD', KEYS[4], p)
  end
end
redis.call('UNLINK', KEYS[5], KEYS[3])
redis.call('SET', KEYS[1], ARGV[4])
if ARGV[7] == '' then
  redis.call('UNLINK', KEYS[6])
else
  redis.call('SET', KEYS[6], ARGV[7])
end
-- Postgres issued it, so it never comes twice, not even after Redis lost everything.
local last = redis.call('MGET', KEYS[2])[1]
local version = math.max(tonumber(ARGV[6]), (last and tonumber(last) or 0) + 1)
redis.call('SET', KEYS[2], string.format('%.0f', version))
redis.call('PUBLISH', ARGV[5], ARGV[3] .. ' ' .. string.format('%.0f', version))
return version
