-- The entries around a player, who stands in the middle unless an end of the board is near.
-- KEYS ready, version, periods, rank, member
-- ARGV period, limit, player, tie ('o', 'c')
-- -> as page.lua; no members when the player has no entry
local version = readable()
if not version then
  return {0, 0, 0, 0, 0, 0, {}}
end
local rank, limit, player = KEYS[4], tonumber(ARGV[2]), ARGV[3]
local total = redis.call('ZCARD', rank)
local members, before = {}, 0
local value = redis.call('HGET', KEYS[5], player)
local at = value and redis.call('ZRANK', rank, key_of(player, value))
if at then
  before = math.max(0, math.min(at - math.floor(limit / 2), total - limit))
  members = between(rank, before, before + limit - 1)
end
local tied = before
if ARGV[4] == 'c' and before > 0 then
  tied = redis.call('ZLEXCOUNT', rank, '-', '(' .. scores(members[1]))
end
return {1, version, total, published(total), before, tied, members}
