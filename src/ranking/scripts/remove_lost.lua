-- Removes a board that the database does not know, unless it is not what it was when the database was asked.
-- KEYS beacon, ready, version, era, rebuild, periods, shadow periods, and more keys of the board (at most 500)
-- ARGV beginning of the board's keys, then what was seen ('' nothing) of: beacon, ready, version, era
-- -> 1 removed; 0 something has changed, or it is being rebuilt
for i = 1, 4 do
  if (redis.call('GET', KEYS[i]) or '') ~= ARGV[i + 1] then
    return 0
  end
end
if redis.call('EXISTS', KEYS[5]) == 1 then
  return 0
end
for _, p in ipairs(redis.call('SMEMBERS', KEYS[6])) do
  local live = ARGV[1] .. 'p:' .. p
  redis.call('UNLINK', live .. ':rank', live .. ':member')
end
for _, p in ipairs(redis.call('SMEMBERS', KEYS[7])) do
  local shadow = ARGV[1] .. 'shadow:' .. p
  redis.call('UNLINK', shadow .. ':rank', shadow .. ':member', shadow .. ':member:removed')
end
redis.call('UNLINK', unpack(KEYS, 2))
return 1
