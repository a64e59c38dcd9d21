-- Removes a retired board.
-- KEYS ready, version, rebuild, periods, shadow periods, era     ARGV beginning of the board's keys
for _, p in ipairs(redis.call('SMEMBERS', KEYS[4])) do
  local live = ARGV[1] .. 'p:' .. p
  redis.call('UNLINK', live .. ':rank', live .. ':member')
end
for _, p in ipairs(redis.call('SMEMBERS', KEYS[5])) do
  local shadow = ARGV[1] .. 'shadow:' .. p
  redis.call('UNLINK', shadow .. ':rank', shadow .. ':member', shadow .. ':member:removed')
end
return redis.call('UNLINK', unpack(KEYS))
