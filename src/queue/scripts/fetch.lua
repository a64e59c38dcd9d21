#!lua flags=allow-oom
-- Gives a worker the next jobs and records that it holds them.
-- KEYS  1 fetches  2 paused  3 delayed  4 suspect  5 trouble  6 high:again  7 high  8 low:again  9 low
--       10 held:<worker>  11 alone  12 aside
-- ARGV  1 worker  2 number of this fetch (grows)  3 most jobs (<= 250)  4 '1': low before high this time
--       5 '1': the hands are empty, hand out suspects if there are any, and nothing else with them
--       6 the longest delay there is, in ms  7 most suspects of a company
--       8 the error of a job whose worker died while it ran in a company
--       9 most jobs that were set aside  10 '1': they have the first choice this time, otherwise the last
-- Returns {state, ms to the next due job or -1, suspects waiting, suspects given, ids, troubles}; state: 0 the worker
--       is not registered (or was given up), 1 paused, 2 served, 3 this number was served or refused before: what it
--       brought must be asked for. `troubles` is empty when no job has any. The bytes are asked for with a plain HMGET:
--       passing 7 kB jobs through Lua doubled what a job costs Redis (20 against 11 µs).
-- Cost  O(jobs handed out + due jobs moved (<= 250), each O(log delayed ones)), whatever waits behind them.
local last = redis.call('HGET', KEYS[1], ARGV[1])
if not last then return {0, -1, 0, 0, {}, {}} end
if tonumber(ARGV[2]) <= tonumber(last) then return {3, -1, 0, 0, {}, {}} end
if redis.call('EXISTS', KEYS[2]) == 1 then return {1, -1, 0, 0, {}, {}} end

-- Attempts that are due go before fresh jobs of their lane; one that crashed a worker goes back among the suspects.
-- One that is set aside goes before nobody: one game may have most of the queue of them, and each comes for ever.
-- When it is due it stays among the delayed, moved below zero. From there a few are taken at a time: those of a game in
-- the order in which they were due, and games by turns, so that who has few does not wait for who has most.
-- An older program that finds it there takes it as due.
local due_in, parked, turn = -1, false, -2 ^ 43
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if first[2] then
    parked = tonumber(first[2]) < 0
    if parked then
        turn = tonumber(first[2])
        first = redis.call('ZRANGE', KEYS[3], 0, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
    end
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    -- Nothing is delayed for longer than ARGV[6]: what seems to be was delayed before the clock went back.
    local longest = now + tonumber(ARGV[6])
    local stranded = tonumber(redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')[2]) > longest
    if stranded or first[2] and tonumber(first[2]) <= now then
        local due = redis.call('ZRANGE', KEYS[3], 0, now, 'BYSCORE', 'LIMIT', 0, 250)
        if stranded and #due < 250 then
            local more = redis.call('ZRANGE', KEYS[3], '(' .. longest, '+inf', 'BYSCORE', 'LIMIT', 0, 250 - #due)
            for _, id in ipairs(more) do due[#due + 1] = id end
        end
        local troubles = redis.call('HMGET', KEYS[5], unpack(due))
        local again, aside = {{}, {}, {}}, {}
        for i, id in ipairs(due) do
            local to = (string.sub(id, -1) == 'h') and 1 or 2
            if troubles[i] and not string.find(troubles[i], '^%d+ 0 ') then to = 3 end
            if troubles[i] and string.find(troubles[i], '^%d+ 0 blocked ') then
                aside[#aside + 1] = id
            else
                table.insert(again[to], id)
            end
        end
        if again[1][1] then redis.call('RPUSH', KEYS[6], unpack(again[1])) end
        if again[2][1] then redis.call('RPUSH', KEYS[8], unpack(again[2])) end
        if again[3][1] then redis.call('RPUSH', KEYS[4], unpack(again[3])) end
        local below = {}
        if aside[1] then
            -- The last place of each game; a new one begins where the first of all stands.
            if not parked then redis.call('DEL', KEYS[12]) end
            local places = {}
            for i, id in ipairs(aside) do
                local game = string.match(id, '@(%d+)%.%d+%-[hl]$') or ''
                local place = places[game] or tonumber(redis.call('HGET', KEYS[12], game) or turn)
                places[game] = math.max(place, turn) + 1
                below[2 * i - 1], below[2 * i] = string.format('%.0f', places[game]), id
            end
            for game, place in pairs(places) do redis.call('HSET', KEYS[12], game, string.format('%.0f', place)) end
            redis.call('EXPIRE', KEYS[12], 600)
            parked = true
        end
        redis.call('ZREM', KEYS[3], unpack(due))
        if below[1] then redis.call('ZADD', KEYS[3], unpack(below)) end
        first = redis.call('ZRANGE', KEYS[3], 0, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
    end
    if first[2] then due_in = math.max(0, tonumber(first[2]) - now) end
end

-- Suspects come a few together, so that the hundreds that a busy worker leaves behind get on. One that was in the
-- company of a death comes alone from then on, and so does one to which a crash is charged.
local function comes_alone(trouble)
    local crashes, err = string.match(trouble or '', '^%d+ (%d+) (.*)$')
    return crashes and (crashes ~= '0' or err == ARGV[8])
end

local ids, troubled, suspect = {}, false, 0
if ARGV[5] == '1' then
    local waiting = redis.call('LRANGE', KEYS[4], 0, tonumber(ARGV[7]) - 1)
    if waiting[1] then
        local troubles, company = redis.call('HMGET', KEYS[5], unpack(waiting)), 0
        while company < #waiting and not comes_alone(troubles[company + 1]) do company = company + 1 end
        ids, troubled, suspect = redis.call('LPOP', KEYS[4], math.max(1, company)), true, 1
        redis.call('HSET', KEYS[11], ARGV[1], (#ids == 1) and ids[1] or 'company')
    end
end
if suspect == 0 then
    local order = (ARGV[4] == '1') and {8, 9, 6, 7} or {6, 7, 8, 9}
    local wanted = tonumber(ARGV[3])
    local function take_aside()
        local most = math.min(wanted, tonumber(ARGV[9]))
        if not parked or most <= 0 then return {} end
        local taken = redis.call('ZRANGE', KEYS[3], '-inf', '(0', 'BYSCORE', 'LIMIT', 0, most)
        if taken[1] then redis.call('ZREM', KEYS[3], unpack(taken)) end
        if redis.call('ZCOUNT', KEYS[3], '-inf', '(0') == 0 then redis.call('DEL', KEYS[12]) end
        wanted = wanted - #taken
        return taken
    end
    local aside = (ARGV[10] == '1') and take_aside() or nil
    for _, list in ipairs(order) do
        if wanted <= 0 then break end
        local taken = redis.call('LPOP', KEYS[list], wanted)
        if taken then
            wanted = wanted - #taken
            if list == 6 or list == 8 then troubled = true end
            if #ids == 0 then ids = taken else
                for _, id in ipairs(taken) do ids[#ids + 1] = id end
            end
        end
    end
    for _, id in ipairs(aside or take_aside()) do
        ids[#ids + 1] = id
        troubled = true
    end
end

local suspects = redis.call('LLEN', KEYS[4])
if #ids == 0 then return {2, due_in, suspects, 0, {}, {}} end
local members, n = {}, 0
for _, id in ipairs(ids) do
    members[n + 1] = string.match(id, '^%d+')
    members[n + 2] = id
    n = n + 2
end
redis.call('ZADD', KEYS[10], unpack(members))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local troubles = {}
if troubled then troubles = redis.call('HMGET', KEYS[5], unpack(ids)) end
return {2, due_in, suspects, suspect, ids, troubles}
