-- Writes what one fold changed in one period, live and into the shadow of a rebuild under way.
-- KEYS ready, version, rebuild, periods, rank, member, shadow periods, shadow rank, shadow member
-- ARGV generation, period, entry version, channel, then player, 48 hex, …; '' instead of the 48 hex removes the entry
-- -> 0 nothing is there to write to; 1 written to the live board; 2 written to a shadow only
local ready = redis.call('EXISTS', KEYS[1]) == 1
local rebuilding = redis.call('EXISTS', KEYS[3]) == 1
if not ready and not rebuilding then
  return 0
end

-- Versions are decimal numbers without leading zeros; as text they are exact beyond 2^53.
local function older(a, b)
  return #a < #b or (#a == #b and a < b)
end

local version = ARGV[3]
local players = {}
for i = 5, #ARGV, 2 do
  players[#players + 1] = ARGV[i]
end

-- Returns whether anything changed. In a shadow a removal leaves a tombstone ('<version>:'), so that the rebuild does
-- not bring back what it read before.
local function write(periods, rank, member, shadow)
  local current = redis.call('HMGET', member, unpack(players))
  local leaving, joining, values, gone = {}, {}, {}, {}
  for n = 1, #players do
    local player, prefix, was = players[n], ARGV[4 + 2 * n], current[n]
    local colon = was and string.find(was, ':', 1, true)
    if not was or older(string.sub(was, 1, colon - 1), version) then
      local held = was and string.sub(was, colon + 1) or ''
      if held ~= prefix then
        if held ~= '' then
          leaving[#leaving + 1] = held .. ':' .. player
        end
        if prefix ~= '' then
          joining[#joining + 1] = 0
          joining[#joining + 1] = prefix .. ':' .. player
        end
      end
      if prefix ~= '' or shadow then
        values[#values + 1] = player
        values[#values + 1] = version .. ':' .. prefix
      elseif was then
        gone[#gone + 1] = player
      end
      if prefix == '' and shadow then
        redis.call('SADD', member .. ':removed', player)
      end
    end
  end
  if #leaving > 0 then
    redis.call('ZREM', rank, unpack(leaving))
  end
  if #joining > 0 then
    redis.call('ZADD', rank, unpack(joining))
  end
  if #values > 0 then
    redis.call('HSET', member, unpack(values))
    redis.call('SADD', periods, ARGV[2])
  end
  if #gone > 0 then
    redis.call('HDEL', member, unpack(gone))
    if redis.call('EXISTS', rank) == 0 then
      redis.call('SREM', periods, ARGV[2])
    end
  end
  return #values > 0 or #gone > 0
end

if rebuilding then
  write(KEYS[7], KEYS[8], KEYS[9], true)
end
if not ready then
  return 2
end
if write(KEYS[4], KEYS[5], KEYS[6], false) then
  local board = redis.call('INCR', KEYS[2])
  redis.call('PUBLISH', ARGV[4], ARGV[1] .. ' ' .. string.format('%.0f', board))
end
return 1
