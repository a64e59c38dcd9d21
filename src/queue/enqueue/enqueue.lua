#!lua
-- One call per request: limits, idempotency, admission and push, all or nothing (fine print 8 and 16). It does not
-- declare allow-oom: over maxmemory Redis refuses it before it begins (fine print 17).
--
-- KEYS  address window, address block                       when ARGV[1] > 0
--       one hash per quota                                  ARGV[3] of them
--       jobs, high, low, counters                           when ARGV[4] = 1
--       receipt, receipts of the game                       when ARGV[5] = 1
-- ARGV  1 requests a window per address (0: not asked), 2 block in ms, 3 quotas, 4 enqueue, 5 idempotency,
--       per quota: limit, counted elsewhere already, new;
--       when enqueueing: most jobs, wake channel, batch id, high bytes, low bytes, the latest stamp that the caller knows;
--       with idempotency: receipt, its time to live in ms, most receipts
--
-- Answers {0, received_at µs, address left, address reset ms, then per quota: used, reset ms}, {1, blocked for ms},
-- {2, then per quota that is over: index, left, retry after ms}, {3, receipt, address left, address reset ms}, {4, jobs},
-- {5}. Only 0 and 3 counted the address.
local WINDOW = 60000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local received_at = time[1] .. string.format('%06d', time[2])

local per_address, block_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local quotas, enqueue, idempotent = tonumber(ARGV[3]), ARGV[4] == '1', ARGV[5] == '1'
local quota_keys = per_address > 0 and 2 or 0
local queue_keys = quota_keys + quotas
local queue_args = 5 + 3 * quotas
local receipt_keys = queue_keys + (enqueue and 4 or 0)
local receipt_args = queue_args + (enqueue and 6 or 0)

-- A window of the times of the last requests: exact, and bounded by the limit.
if per_address > 0 then
  local blocked = redis.call('PTTL', KEYS[2])
  if blocked > 0 then return {1, blocked} end
  local first = redis.call('LINDEX', KEYS[1], -per_address)
  if first and now - first < WINDOW then
    if block_ms <= 0 then return {1, WINDOW - (now - first)} end
    redis.call('SET', KEYS[2], now + block_ms, 'PX', block_ms)
    return {1, block_ms}
  end
end

local function count_address()
  if per_address == 0 then return -1, 0 end
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

if idempotent then
  local receipt = redis.call('GET', KEYS[receipt_keys + 1])
  if receipt then
    local left, reset = count_address()
    return {3, receipt, left, reset}
  end
end

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
  local left = math.max(0, math.floor(limit - used - held))
  if new > left then
    over = over or {2}
    -- When one more event fits: as the previous window fades, or else as this one does.
    local room, wait = limit - held - 1, 0
    if previous > 0 and current <= room then
      wait = start + WINDOW * (1 - (room - current) / previous) - now
    elseif current > 0 then
      wait = start + WINDOW + WINDOW * math.max(0, 1 - math.max(0, room) / current) - now
    else
      wait = WINDOW
    end
    over[#over + 1] = i
    over[#over + 1] = left
    over[#over + 1] = math.max(1, math.ceil(wait))
  end
  states[i] = {start, current + held + new, previous, math.ceil(used + held + new)}
end
if over then return over end

if enqueue then
  local jobs = redis.call('HLEN', KEYS[queue_keys + 1])
  if jobs >= tonumber(ARGV[queue_args + 1]) then return {4, jobs} end
end

if idempotent then
  local receipts = KEYS[receipt_keys + 2]
  local expired = redis.call('ZRANGE', receipts, '-inf', now, 'BYSCORE', 'LIMIT', 0, 64)
  if #expired > 0 then redis.call('ZREM', receipts, unpack(expired)) end
  if redis.call('ZCARD', receipts) >= tonumber(ARGV[receipt_args + 3]) then return {5} end
  local ttl = tonumber(ARGV[receipt_args + 2])
  redis.call('SET', KEYS[receipt_keys + 1], ARGV[receipt_args + 1], 'PX', ttl)
  redis.call('ZADD', receipts, now + ttl, KEYS[receipt_keys + 1])
end

if enqueue then
  -- Stamps never go back, whatever the server's clock does, or another server that took over: lanes stand in the order of
  -- receipt, and what was said to be received before a moment stays all that was.
  local counters = KEYS[queue_keys + 4]
  local last = math.max(tonumber(redis.call('HGET', counters, 'stamp') or 0), tonumber(ARGV[queue_args + 6]))
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
    local bytes = ARGV[queue_args + 3 + lane]
    if bytes ~= '' then
      local id = received_at .. '-' .. ARGV[queue_args + 3] .. (lane == 1 and '-h' or '-l')
      redis.call('HSET', KEYS[queue_keys + 1], id, bytes)
      wake = redis.call('RPUSH', KEYS[queue_keys + 1 + lane], id) == 1 or wake
      redis.call('HINCRBY', KEYS[queue_keys + 4], 'pushed', 1)
    end
  end
  if wake then redis.call('PUBLISH', ARGV[queue_args + 2], '1') end
end
return answer
