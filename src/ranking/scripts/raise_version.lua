-- Gives a board a later version. Nothing of it has changed: what players saw before it had a later one.
-- KEYS ready, version     ARGV version, generation, channel, the version that the caller has given it already (0: none)
-- -> 0 it is not ready, or Redis lacks what the caller has published; otherwise the board's version
local ready, last = unpack(redis.call('MGET', KEYS[1], KEYS[2]))
if not ready or not last or tonumber(last) < tonumber(ARGV[4]) then
  return 0
end
local version = math.max(tonumber(ARGV[1]), tonumber(last) + 1)
redis.call('SET', KEYS[2], string.format('%.0f', version))
redis.call('PUBLISH', ARGV[3], ARGV[2] .. ' ' .. string.format('%.0f', version))
return version
