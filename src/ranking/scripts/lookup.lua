-- The standings of some players.
-- KEYS ready, version, periods, rank, member
-- ARGV period, tie ('o', 'c'), players…
-- -> {ready (2: a part was lost), version, total, published, ranks (before each, 0-based), members}; players without an
--    entry are left out
local total, version = readable(KEYS[4], KEYS[5])
if not total then
  return {version, 0, 0, 0, {}, {}}
end
local rank = KEYS[4]
local values = redis.call('HMGET', KEYS[5], unpack(ARGV, 3))
local ranks, members = {}, {}
for n = 1, #values do
  local value = values[n]
  if value then
    local member = key_of(ARGV[2 + n], value)
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
return {1, version, total, published(total), ranks, members}
