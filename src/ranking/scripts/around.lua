-- The entries around some players: each stands in the middle unless an end of the board is near.
-- KEYS ready, version, periods, rank, member
-- ARGV period, limit, tie ('o', 'c'), players…
-- -> {ready (2: a part was lost), version, total, published, {{before, tied, members}, …}} in the players'
--    order (page.lua says what these are); no members when a player has no entry
local total, version = readable(KEYS[4], KEYS[5])
if not total then
  return {version, 0, 0, 0, {}}
end
local rank, limit = KEYS[4], tonumber(ARGV[2])
local values = redis.call('HMGET', KEYS[5], unpack(ARGV, 4))
local parts = {}
for n = 1, #values do
  local members, before = {}, 0
  local at = values[n] and redis.call('ZRANK', rank, key_of(ARGV[3 + n], values[n]))
  if at then
    before = math.max(0, math.min(at - math.floor(limit / 2), total - limit))
    members = between(rank, before, before + limit - 1)
  end
  local tied = before
  if ARGV[3] == 'c' and before > 0 then
    tied = redis.call('ZLEXCOUNT', rank, '-', '(' .. scores(members[1]))
  end
  parts[n] = {before, tied, members}
end
return {1, version, total, published(total), parts}
