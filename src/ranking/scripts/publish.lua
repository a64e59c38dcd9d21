-- Writes what one fold changed in one period, live and into the shadow of a rebuild under way.
-- KEYS ready, version, rebuild, periods, rank, member, shadow periods, shadow rank, shadow member
-- ARGV generation, period, entry version, channel, the least version that the board has then, the version that the
--      caller has given it already (0: none), then player, place, …; '' instead of the place removes the entry
-- -> {0 nothing is there to write to, or a part of it was lost; 1 the live board has it; 2 written to a shadow only,
--     the version that this gave to the board (0: none)}
local ready, last, rebuilding = unpack(redis.call('MGET', KEYS[1], KEYS[2], KEYS[3]))
if not ready and not rebuilding then
  return {0, 0}
end

local version = ARGV[3]
local players = {}
for i = 7, #ARGV, 2 do
  players[#players + 1] = ARGV[i]
end
-- This is run for each published entry, so it counts elements itself and makes as few texts as it can.
local find, sub = string.find, string.sub

-- Returns whether anything changed. In a shadow a removal leaves a tombstone ('<version>:'), so that the rebuild does
-- not bring back what it read before.
local function write(periods, rank, member, shadow)
  local current = redis.call('HMGET', member, unpack(players))
  local leaving, joining, values, gone = {}, {}, {}, {}
  local l, j, v = 0, 0, 0
  for n = 1, #players do
    local player, place, was = players[n], ARGV[6 + 2 * n], current[n]
    local held, newer = '', true
    if was then
      -- Versions are decimal numbers without leading zeros; as text they are exact beyond 2^53. What has none was
      -- written by someone else, and is replaced here; the sorted set is the audit's.
      local digits = (find(was, ':', 1, true) or 1) - 1
      newer = digits < #version or (digits == #version and sub(was, 1, digits) < version)
      held = sub(was, digits + 2)
    end
    if newer then
      if held ~= place then
        if held ~= '' then
          l = l + 1
          leaving[l] = held .. player
        end
        if place ~= '' then
          joining[j + 1], joining[j + 2] = '0', place .. player
          j = j + 2
        end
      end
      if place ~= '' or shadow then
        values[v + 1], values[v + 2] = player, version .. ':' .. place
        v = v + 2
      elseif was then
        gone[#gone + 1] = player
      end
      if place == '' and shadow then
        redis.call('SADD', member .. ':removed', player)
      end
    end
  end
  if l > 0 then
    redis.call('ZREM', rank, unpack(leaving))
  end
  if j > 0 then
    redis.call('ZADD', rank, unpack(joining))
  end
  if v > 0 then
    redis.call('HSET', member, unpack(values))
    redis.call('SADD', periods, ARGV[2])
  end
  if #gone > 0 then
    redis.call('HDEL', member, unpack(gone))
    if redis.call('EXISTS', rank) == 0 then
      redis.call('SREM', periods, ARGV[2])
    end
  end
  return v > 0 or #gone > 0
end

if rebuilding then
  write(KEYS[7], KEYS[8], KEYS[9], true)
end
if not ready then
  return {2, 0}
end
-- A Redis that lacks what the caller has published (a replica that lagged has taken over) would look whole under the
-- new version. Until the board is rebuilt it keeps its old one.
if (tonumber(last) or 0) < tonumber(ARGV[6]) then
  redis.call('SET', KEYS[1], 'doubtful')
  return {rebuilding and 2 or 0, 0}
end
-- What was lost of the period (somebody evicts keys) would look whole with this in it: the board is to be rebuilt. A
-- key of another type (somebody wrote there) answers with an error, which equals no number, and is as good as lost.
local held = redis.pcall('ZCARD', KEYS[5])
if held ~= redis.pcall('HLEN', KEYS[6]) or (held == 0
    and (redis.pcall('SISMEMBER', KEYS[4], ARGV[2]) ~= 0 or redis.call('EXISTS', KEYS[4]) == 0)) then
  redis.call('SET', KEYS[1], 'doubtful')
  return {rebuilding and 2 or 0, 0}
end
if write(KEYS[4], KEYS[5], KEYS[6], false) then
  -- Who watches the version (publish_many.rs) must see every change. It is one of the fold's, so that it never comes
  -- twice, even when Redis has lost its last second; and more than the last one, whatever comes late.
  local board = string.format('%.0f', math.max(last and last + 1 or 0, ARGV[5]))
  redis.call('SET', KEYS[2], board)
  redis.call('PUBLISH', ARGV[4], ARGV[1] .. ' ' .. board)
  return {1, tonumber(board)}
end
return {1, 0}
