-- A page of one period.
-- KEYS ready, version, periods, rank, member
-- ARGV period, limit, direction ('f' towards higher ranks' end, 'b' back), from (sort key, '' for the end),
--      tie ('o', 'c')
-- -> {ready (2: a part was lost), version, total, published, before, tied, members}: `before` entries precede the
--    first member, `tied` of them have a score other than its own.
local total, version = readable(KEYS[4], KEYS[5])
if not total then
  return {version, 0, 0, 0, 0, 0, {}}
end
local rank, limit, from = KEYS[4], tonumber(ARGV[2]), ARGV[4]
local members, before
if ARGV[3] == 'f' then
  if from == '' then
    before = 0
    members = between(rank, 0, limit - 1)
  else
    before = redis.call('ZLEXCOUNT', rank, '-', '[' .. from)
    members = redis.call('ZRANGE', rank, '(' .. from, '+', 'BYLEX', 'LIMIT', 0, limit)
  end
else
  local stop = total
  if from ~= '' then
    stop = redis.call('ZLEXCOUNT', rank, '-', '(' .. from)
  end
  before = math.max(0, stop - limit)
  members = stop > 0 and between(rank, before, stop - 1) or {}
end
local tied = before
if ARGV[5] == 'c' and before > 0 and #members > 0 then
  tied = redis.call('ZLEXCOUNT', rank, '-', '(' .. scores(members[1]))
end
return {1, version, total, published(total), before, tied, members}
