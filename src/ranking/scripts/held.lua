-- What Redis holds of some players' entries.
-- KEYS ready, version, periods, rank, member
-- ARGV period, players…
-- -> {ready (2: a part was lost), for each player: what the hash holds ('<entry version>:<place>', '' for none), and 1
--    if the entry stands in its place}
local total, state = readable(KEYS[4], KEYS[5])
local values = redis.call('HMGET', KEYS[5], unpack(ARGV, 2))
local found = {}
for n = 1, #values do
  local value, player = values[n] or '', ARGV[1 + n]
  -- Every score is 0, so that members stand in their own order; another one stands somewhere else.
  local score = value ~= '' and redis.call('ZSCORE', KEYS[4], key_of(player, value))
  found[n] = {value, score and tonumber(score) == 0 and 1 or 0}
end
return {total and 1 or state, found}
