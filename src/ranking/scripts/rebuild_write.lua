-- Writes entries read from Postgres into the shadow, unless a publication has written something newer.
-- KEYS rebuild, shadow periods, shadow rank, shadow member
-- ARGV token, TTL in ms, period, then player, entry version, place, …
-- -> 0 this is no longer the rebuild under way; 1 written
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])

local function older(a, b)
  return #a < #b or (#a == #b and a < b)
end

local players = {}
for i = 4, #ARGV, 3 do
  players[#players + 1] = ARGV[i]
end
local current = redis.call('HMGET', KEYS[4], unpack(players))
local leaving, joining, values = {}, {}, {}
for n = 1, #players do
  local player, version, place, was = players[n], ARGV[2 + 3 * n], ARGV[3 + 3 * n], current[n]
  local colon = was and string.find(was, ':', 1, true)
  if not was or older(string.sub(was, 1, colon - 1), version) then
    local held = was and string.sub(was, colon + 1) or ''
    if held ~= place then
      if held ~= '' then
        leaving[#leaving + 1] = held .. player
      end
      joining[#joining + 1] = '0'
      joining[#joining + 1] = place .. player
    end
    values[#values + 1] = player
    values[#values + 1] = version .. ':' .. place
  end
end
if #leaving > 0 then
  redis.call('ZREM', KEYS[3], unpack(leaving))
end
if #joining > 0 then
  redis.call('ZADD', KEYS[3], unpack(joining))
end
if #values > 0 then
  redis.call('HSET', KEYS[4], unpack(values))
  redis.call('SADD', KEYS[2], ARGV[3])
end
return 1
