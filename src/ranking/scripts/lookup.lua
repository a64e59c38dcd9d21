-- The standings of some players.
-- KEYS ready, version, periods, rank, member
-- ARGV period, tie ('o', 'c'), players…
-- -> {ready, version, total, published, ranks (before each, 0-based), members}; players without an entry are left out
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {0, 0, 0, 0, {}, {}}
end
local rank = KEYS[4]
local players = {unpack(ARGV, 3)}
local values = redis.call('HMGET', KEYS[5], unpack(players))
local ranks, members = {}, {}
for n = 1, #players do
  local value = values[n]
  if value then
    local member = key_of(players[n], value)
    local at
    if ARGV[2] == 'c' then
      at = redis.call('ZLEXCOUNT', rank, '-', '(' .. scores(member))
    else
      at = redis.call('ZRANK', rank, member)
    end
    if at then
      ranks[#ranks + 1] = at
      members[#members + 1] = member
    end
  end
end
return {
  1, redis.call('GET', KEYS[2]) or 0, redis.call('ZCARD', rank), redis.call('SISMEMBER', KEYS[3], ARGV[1]), ranks, members
}
