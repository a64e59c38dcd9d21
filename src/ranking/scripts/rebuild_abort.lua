-- Gives a rebuild up.
-- KEYS rebuild, shadow periods     ARGV token, beginning of the board's keys
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
for _, p in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local shadow = ARGV[2] .. 'shadow:' .. p
  redis.call('UNLINK', shadow .. ':rank', shadow .. ':member', shadow .. ':member:removed')
end
redis.call('UNLINK', KEYS[1], KEYS[2])
return 1
