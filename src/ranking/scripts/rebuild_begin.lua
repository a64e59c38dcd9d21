-- Begins a rebuild: from now on publications also write the shadow.
-- KEYS rebuild, shadow periods     ARGV token, TTL in ms, beginning of the board's keys
-- -> 0 another rebuild is under way; 1 begun
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
for _, p in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local shadow = ARGV[3] .. 'shadow:' .. p
  redis.call('UNLINK', shadow .. ':rank', shadow .. ':member', shadow .. ':member:removed')
end
redis.call('UNLINK', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
