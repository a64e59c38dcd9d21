#!lua
-- One call per request: receipts, limits, admission and push, all or nothing. It does not declare allow-oom: over
-- maxmemory Redis refuses it before it begins.
--
-- KEYS  address window, address block                       when ARGV[1] > 0
--       one hash per quota                                  ARGV[3] of them
--       jobs, high, low, counters, shares                   when ARGV[4] = 1
--       receipt, its budget, the budget of all, the count that older programs kept   when ARGV[5] = 1
-- ARGV  1 requests a window per address (0: not asked), 2 block in ms, 3 quotas, 4 enqueue, 5 idempotency,
--       per quota: limit, counted elsewhere already, new;
--       when enqueueing: most jobs, wake channel, high and low bytes, what follows received_at in their ids, game,
--       what they add to its share (as jobs * 2^40 + bytes), most percent of the queue that a game alone may fill
--       (100: all), and as the caller saw a moment ago: bytes that jobs may take in all (0: no bound), how many were
--       free, how many the game had; the latest stamp that the caller knows;
--       with idempotency: receipt (empty: only look), the one that the caller knows (empty: none), its time to live in
--       ms, most receipts of its budget, most of all
--
-- Answers {0, received_at µs, address left, address reset ms, then per quota: used, reset ms}, {1, blocked for ms},
-- {2, then per quota that is over: index, left, retry after ms},
-- {3, receipt, address left, address reset ms, blocked for ms (0: it is not)},
-- {4, jobs, address left, address reset ms}, {5, 1 when the budget of all is spent, retry after ms, address left,
-- address reset ms}, {6, jobs of the game, address left, address reset ms}. All but 1 and 2 counted the address.
-- Cost  O(1) per batch: O(quotas), and with idempotency O(the 14 fields of a budget). Where shares are counted anew,
-- O(jobs), at most 8,000: only once as many were counted in vain.
local WINDOW = 60000
local BUCKET = 7200000
-- A game's jobs and their bytes are counted in one number: so many times its jobs, and its bytes.
local JOB = 2 ^ 40
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local received_at = time[1] .. string.format('%06d', time[2])

local per_address, block_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local quotas, enqueue, idempotent = tonumber(ARGV[3]), ARGV[4] == '1', ARGV[5] == '1'
local quota_keys = per_address > 0 and 2 or 0
local queue_keys = quota_keys + quotas
local queue_args = 5 + 3 * quotas
local receipt_keys = queue_keys + (enqueue and 5 or 0)
local receipt_args = queue_args + (enqueue and 13 or 0)

-- A window of the times of the last requests: exact, and bounded by the limit.
local blocked_ms = 0
if per_address > 0 then
  blocked_ms = math.max(0, redis.call('PTTL', KEYS[2]))
  local first = blocked_ms == 0 and redis.call('LINDEX', KEYS[1], -per_address)
  if first and now - first < WINDOW then
    blocked_ms = math.max(block_ms, WINDOW - (now - first))
    if block_ms > 0 then redis.call('SET', KEYS[2], now + block_ms, 'PX', block_ms) end
  end
end

local function count_address()
  if per_address == 0 or blocked_ms > 0 then return -1, 0 end
  local length = redis.call('RPUSH', KEYS[1], now)
  local oldest = tonumber(redis.call('LINDEX', KEYS[1], 0))
  for _ = 1, 3 do
    if length <= per_address and now - oldest < WINDOW then break end
    redis.call('LPOP', KEYS[1])
    length = length - 1
    oldest = tonumber(redis.call('LINDEX', KEYS[1], 0))
  end
  redis.call('PEXPIRE', KEYS[1], WINDOW)
  return per_address - length, WINDOW - (now - oldest)
end

-- A receipt that stands is told before anything is refused: its batch is queued.
local receipt
if idempotent then
  receipt = redis.call('GET', KEYS[receipt_keys + 1])
  if receipt and receipt ~= ARGV[receipt_args + 2] then
    local left, reset = count_address()
    return {3, receipt, left, reset, blocked_ms}
  end
end
if blocked_ms > 0 then return {1, blocked_ms} end

-- Two buckets, anchored at the first event: exactly `limit` pass in a fresh window.
local states = {}
local over
for i = 1, quotas do
  local limit, held, new = tonumber(ARGV[3 + 3 * i]), tonumber(ARGV[4 + 3 * i]), tonumber(ARGV[5 + 3 * i])
  local stored = redis.call('HMGET', KEYS[quota_keys + i], 's', 'c', 'p')
  local start, current, previous = tonumber(stored[1]), tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
  if not start or now < start or now - start >= 2 * WINDOW then
    start, current, previous = now, 0, 0
  elseif now - start >= WINDOW then
    start, current, previous = start + WINDOW, 0, current
  end
  local used = current + previous * (WINDOW - (now - start)) / WINDOW
  -- The fraction is for sums that should come out whole.
  local left = math.max(0, math.floor(limit - used - held + 0.000001))
  if new > left then
    over = over or {2}
    -- When what is left out fits too, once the rest is counted: as the previous window fades, or else as this one does.
    local counted = current + held + left
    local room = limit - math.min(new - left, limit) - counted
    local wait = 2 * WINDOW
    if previous > 0 and room >= 0 then
      wait = start + WINDOW * (1 - room / previous) - now
    elseif counted > 0 then
      wait = start + WINDOW + WINDOW * math.max(0, 1 - math.max(0, room + counted) / counted) - now
    end
    over[#over + 1] = i
    over[#over + 1] = left
    over[#over + 1] = math.max(1, math.ceil(math.min(wait, 2 * WINDOW)))
  end
  states[i] = {start, current + held + new, previous, math.ceil(used + held + new)}
end
if over then return over end

-- With a share of a half a game alone may hold as much as is left free, and one of n games an n+1st, which is where
-- that rule ends when all of them send too much. So the queue is never full of some games, and who has little in it
-- finds room. The same holds for the bytes.
local pushed = 0
local function give_back()
  if not enqueue then return end
  local shares, game = KEYS[queue_keys + 5], ARGV[queue_args + 7]
  -- A game without jobs must not lessen what the others may have.
  if redis.call('HINCRBY', shares, game, '-' .. ARGV[queue_args + 8]) < JOB then redis.call('HDEL', shares, game) end
end

-- Counts all shares anew: an id says what was counted for it. So many jobs at most, of which the sum is exact.
local RECOUNTED = 8000
local function recount(all, shares)
  local counted = {}
  for _, id in ipairs(redis.call('HKEYS', all)) do
    local of, size = string.match(id, '@(%d+)%.(%d+)%-[hl]$')
    if of then counted[of] = (counted[of] or 0) + JOB + size end
  end
  redis.call('DEL', shares)
  for of, share in pairs(counted) do redis.call('HSET', shares, of, string.format('%.0f', share)) end
end
if enqueue then
  local shares, game = KEYS[queue_keys + 5], ARGV[queue_args + 7]
  local jobs, most = redis.call('HLEN', KEYS[queue_keys + 1]), tonumber(ARGV[queue_args + 1])
  if jobs >= most then return {4, jobs, count_address()} end
  -- What was counted and never taken off, by workers of before that did not know how, ends here.
  if jobs == 0 then redis.call('DEL', shares) end
  pushed = (ARGV[queue_args + 3] ~= '' and 1 or 0) + (ARGV[queue_args + 4] ~= '' and 1 or 0)
  local own = redis.call('HINCRBY', shares, game, ARGV[queue_args + 8])
  -- Where the queue is never empty, it ends when the game would have twice as many jobs as there are. Bytes below zero,
  -- which look like very many, are of a job that was taken off and never counted: an api of before had replayed it.
  if (math.floor(own / JOB) - pushed > 2 * jobs + 10 or own % JOB > JOB / 2) and jobs <= RECOUNTED then
    recount(KEYS[queue_keys + 1], shares)
    own = redis.call('HINCRBY', shares, game, ARGV[queue_args + 8])
  end
  local share, room = tonumber(ARGV[queue_args + 9]), tonumber(ARGV[queue_args + 10])
  if share < 100 and (room > 0 or jobs * 100 >= share * most) then
    local function over(mine, free, in_all)
      return mine * (100 - share) >= share * math.max(0, free)
        and mine * (100 - share + share * redis.call('HLEN', shares)) >= share * in_all
    end
    local own_jobs, own_bytes = math.floor(own / JOB) - pushed, own % JOB
    local grown = math.max(0, own_bytes - tonumber(ARGV[queue_args + 12]))
    if over(own_jobs, most - jobs, most)
      or room > 0 and over(own_bytes, tonumber(ARGV[queue_args + 11]) - grown, room) then
      give_back()
      return {6, own_jobs, count_address()}
    end
  end
end

-- Receipts by the two hours in which the last of them expires. Returns how many may stand, and when the first two hours
-- of them are over.
local function spent(budget)
  local hours, sum, first, over = redis.call('HGETALL', budget), 0, nil, {}
  for i = 1, #hours, 2 do
    local ends = tonumber(hours[i]) * BUCKET
    if ends <= now then over[#over + 1] = hours[i] else
      sum = sum + tonumber(hours[i + 1])
      first = math.min(first or ends, ends)
    end
  end
  if over[1] then redis.call('HDEL', budget, unpack(over)) end
  return sum, first
end

if idempotent and ARGV[receipt_args + 1] ~= '' then
  local ttl = tonumber(ARGV[receipt_args + 3])
  if receipt then
    redis.call('SET', KEYS[receipt_keys + 1], ARGV[receipt_args + 1], 'KEEPTTL')
  else
    for i = 1, 2 do
      local sum, first = spent(KEYS[receipt_keys + 1 + i])
      if sum == 0 and i == 1 then redis.call('DEL', KEYS[receipt_keys + 4]) end
      if sum >= tonumber(ARGV[receipt_args + 3 + i]) then
        give_back()
        return {5, i - 1, (first or now + ttl) - now, count_address()}
      end
    end
    local ends = math.floor((now + ttl) / BUCKET) + 1
    for i = 2, 3 do
      redis.call('HINCRBY', KEYS[receipt_keys + i], ends, 1)
      redis.call('PEXPIREAT', KEYS[receipt_keys + i], ends * BUCKET)
    end
    redis.call('SET', KEYS[receipt_keys + 1], ARGV[receipt_args + 1], 'PX', ttl)
  end
end

if enqueue then
  -- Stamps never go back, whatever the server's clock does, or another server that took over: lanes stand in the order
  -- of receipt, and what was said to be received before a moment stays all that was.
  local counters = KEYS[queue_keys + 4]
  local last = math.max(tonumber(redis.call('HGET', counters, 'stamp') or 0), tonumber(ARGV[queue_args + 13]))
  if last > tonumber(received_at) then received_at = string.format('%.0f', last) end
  redis.call('HSET', counters, 'stamp', received_at)
end

local answer = {0, received_at}
answer[3], answer[4] = count_address()
for i = 1, quotas do
  local state = states[i]
  redis.call('HSET', KEYS[quota_keys + i], 's', state[1], 'c', state[2], 'p', state[3])
  redis.call('PEXPIRE', KEYS[quota_keys + i], 2 * WINDOW)
  answer[#answer + 1] = state[4]
  answer[#answer + 1] = WINDOW - (now - state[1])
end

if enqueue then
  local wake = false
  for lane = 1, 2 do
    local job = ARGV[queue_args + 2 + lane]
    if job ~= '' then
      local id = received_at .. ARGV[queue_args + 4 + lane]
      redis.call('HSET', KEYS[queue_keys + 1], id, job)
      wake = redis.call('RPUSH', KEYS[queue_keys + 1 + lane], id) == 1 or wake
    end
  end
  redis.call('HINCRBY', KEYS[queue_keys + 4], 'pushed', pushed)
  if wake then redis.call('PUBLISH', ARGV[queue_args + 2], '1') end
end
return answer
