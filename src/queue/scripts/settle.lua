#!lua flags=allow-oom
-- Settles many jobs of one worker at once. What the worker does not hold any more is left alone: a late hand does
-- nothing, and a call that is repeated because its answer was lost changes nothing. Nor is a job settled that the
-- worker holds again after it ran elsewhere: attempts or crashes were charged to it that this settlement does not know.
-- KEYS  1 held:<worker>  2 jobs  3 trouble  4 troubled_at  5 alone  6 counters  7 delayed  8 dead  9 named
--       10 high:again  11 low:again  12 shares  13 suspect
-- ARGV  1 worker  2 channel to tell that score facts were committed, or ''
--       3..7 how many: done, to run later, dead, given back, names; then, in this order:
--       done: id · later: id, delay in ms, trouble, '1' when it consumed an attempt · dead: id, dead letter
--       · given back (never run): id · names of done jobs: id, name
-- Returns how many were settled.
-- Cost  O(jobs in the call), <= 250 of them.
local at = 8
local settled = 0

-- The still held ones of `count` items of `width` arguments each, as indices of their first argument.
local function held_ones(count, width)
    local found = {}
    if count == 0 then return found end
    local ids = {}
    for i = 0, count - 1 do ids[i + 1] = ARGV[at + i * width] end
    local scores = redis.call('ZMSCORE', KEYS[1], unpack(ids))
    for i = 1, count do
        if scores[i] then found[#found + 1] = {at + (i - 1) * width, scores[i]} end
    end
    at = at + count * width
    settled = settled + #found
    return found
end

-- Whether a job's troubles are still those of the run that is settled, or those that its settlement gave it. `run` has
-- the attempts and crashes after it, `consumed` how many attempts it consumed.
local function is_of_this_run(trouble, run, consumed)
    local attempts, crashes = string.match(trouble or '0 0 ', '^(%d+) (%d+) ')
    local after, as_many = string.match(run, '^(%d+) (%d+) ')
    if not attempts or not after then return true end
    attempts, after = tonumber(attempts), tonumber(after)
    return crashes == as_many and (attempts == after or attempts == after - consumed)
end

-- Those of `items` that did not run elsewhere since. `run_of` tells an item's troubles after its run, and how many
-- attempts that consumed.
local function of_this_run(items, run_of)
    if not items[1] then return items end
    local ids = {}
    for i, item in ipairs(items) do ids[i] = ARGV[item[1]] end
    local troubles, kept = redis.call('HMGET', KEYS[3], unpack(ids)), {}
    for i, item in ipairs(items) do
        if is_of_this_run(troubles[i], run_of(item[1])) then kept[#kept + 1] = item end
    end
    settled = settled - #items + #kept
    return kept
end

local function leave_hands(ids)
    redis.call('ZREM', KEYS[1], unpack(ids))
    local alone = redis.call('HGET', KEYS[5], ARGV[1])
    if alone then
        for _, id in ipairs(ids) do
            if id == alone then redis.call('HDEL', KEYS[5], ARGV[1]) end
        end
        -- Nothing else is held beside suspects, so their run is over when nothing is.
        if (alone == 'company' or alone == 'waiting') and redis.call('ZCARD', KEYS[1]) == 0 then
            redis.call('HDEL', KEYS[5], ARGV[1])
        end
    end
end

-- As in enqueue.lua: a game's jobs and their bytes are one number.
local JOB = 2 ^ 40

-- Takes jobs that are gone off their games' shares of the queue. An id says what was counted for it; one that an older
-- ingest made says nothing, and was not counted.
local function leave_shares(key, ids)
    local counted = {}
    for _, id in ipairs(ids) do
        local game, size = string.match(id, '@(%d+)%.(%d+)%-[hl]$')
        if game then counted[game] = (counted[game] or 0) + JOB + size end
    end
    for game, off in pairs(counted) do
        if redis.call('HINCRBY', key, game, string.format('%.0f', -off)) < JOB then redis.call('HDEL', key, game) end
    end
end

local count = tonumber(ARGV[3])
if count > 0 then
    local done = {}
    local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV, at, at + count - 1))
    for i = 1, count do
        if scores[i] then done[#done + 1] = ARGV[at + i - 1] end
    end
    at = at + count
    if done[1] then
        settled = settled + #done
        leave_hands(done)
        redis.call('HDEL', KEYS[2], unpack(done))
        leave_shares(KEYS[12], done)
        redis.call('HDEL', KEYS[3], unpack(done))
        redis.call('ZREM', KEYS[4], unpack(done))
        redis.call('HINCRBY', KEYS[6], 'done', #done)
    end
end

local later = of_this_run(held_ones(tonumber(ARGV[4]), 4), function(first)
    return ARGV[first + 2], tonumber(ARGV[first + 3])
end)
if later[1] then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local ids, delays, troubles, received, retried = {}, {}, {}, {}, 0
    for i, item in ipairs(later) do
        local first, id = item[1], ARGV[item[1]]
        ids[i] = id
        delays[2 * i - 1], delays[2 * i] = now + tonumber(ARGV[first + 1]), id
        troubles[2 * i - 1], troubles[2 * i] = id, ARGV[first + 2]
        received[2 * i - 1], received[2 * i] = item[2], id
        retried = retried + tonumber(ARGV[first + 3])
    end
    leave_hands(ids)
    redis.call('ZADD', KEYS[7], unpack(delays))
    redis.call('HSET', KEYS[3], unpack(troubles))
    redis.call('ZADD', KEYS[4], unpack(received))
    redis.call('HINCRBY', KEYS[6], 'retried', retried)
    redis.call('HINCRBY', KEYS[6], 'deferred', #ids - retried)
end

local dead = of_this_run(held_ones(tonumber(ARGV[5]), 2), function(first)
    return string.match(ARGV[first + 1], '^%S+ (.*)$') or '', 1
end)
if dead[1] then
    local ids, letters, received = {}, {}, {}
    for i, item in ipairs(dead) do
        ids[i] = ARGV[item[1]]
        letters[2 * i - 1], letters[2 * i] = ids[i], ARGV[item[1] + 1]
        received[2 * i - 1], received[2 * i] = item[2], ids[i]
    end
    leave_hands(ids)
    redis.call('HSET', KEYS[8], unpack(letters))
    redis.call('HDEL', KEYS[3], unpack(ids))
    redis.call('ZADD', KEYS[4], unpack(received))
    redis.call('HINCRBY', KEYS[6], 'dead', #ids)
end

local back = held_ones(tonumber(ARGV[6]), 1)
if back[1] then
    local alone = redis.call('HGET', KEYS[5], ARGV[1])
    local ids, received = {}, {}
    for i, item in ipairs(back) do
        local id = ARGV[item[1]]
        ids[i] = id
        received[2 * i - 1], received[2 * i] = item[2], id
        local list = (string.sub(id, -1) == 'h') and KEYS[10] or KEYS[11]
        -- A suspect stays one, or whoever runs beside it dies with it, and nobody is charged.
        if id == alone or alone == 'company' or alone == 'waiting' then list = KEYS[13] end
        redis.call('RPUSH', list, id)
    end
    leave_hands(ids)
    redis.call('ZADD', KEYS[4], unpack(received))
    redis.call('HINCRBY', KEYS[6], 'returned', #ids)
end

for i = 0, tonumber(ARGV[7]) - 1 do
    local id, name = ARGV[at + 2 * i], ARGV[at + 2 * i + 1]
    if redis.call('HGET', KEYS[9], name) == id and redis.call('HEXISTS', KEYS[2], id) == 0 then
        redis.call('HDEL', KEYS[9], name)
    end
end
if ARGV[2] ~= '' then redis.call('PUBLISH', ARGV[2], '1') end
return settled
