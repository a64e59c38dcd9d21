-- Removes a board: a retired one, or one that the database does not know.
-- KEYS beacon, ready, version, era, rebuild, periods, shadow periods, and more keys of the board (at most 500)
-- ARGV beginning of the board's keys; and if it may only go as it was when the database was asked, what was seen then
--      ('' nothing) of: beacon, ready, version, era
-- -> 1 removed; 0 something has changed since, or it is being rebuilt
if ARGV[2] then
  for i = 1, 4 do
    if (redis.call('GET', KEYS[i]) or '') ~= ARGV[i + 1] then
      return 0
    end
  end
  if redis.call('EXISTS', KEYS[5]) == 1 then
    return 0
  end
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
