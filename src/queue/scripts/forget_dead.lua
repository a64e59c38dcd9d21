#!lua flags=allow-oom
-- Removes dead letters that Postgres has stored. One that was replayed meanwhile stays: it is no dead letter, or, where
-- it died again, another one, which nobody has stored.
-- KEYS  1 dead  2 jobs  3 trouble  4 troubled_at  5 named  6 shares  7 deaths
-- ARGV  id and name of the death (take_dead.lua) by turns (<= 250 pairs)
-- Returns how many were removed. Cost O(ids).
local asked, ids = {}, {}
for i = 1, #ARGV, 2 do asked[#asked + 1] = ARGV[i] end
local letters = redis.call('HMGET', KEYS[1], unpack(asked))
local names = redis.call('HMGET', KEYS[7], unpack(asked))
for i, id in ipairs(asked) do
    if letters[i] and names[i] == ARGV[2 * i] then
        ids[#ids + 1] = id
        local name = string.match(id, '^%d+%-n:(.*)%-[hl]$')
        if name and redis.call('HGET', KEYS[5], name) == id then redis.call('HDEL', KEYS[5], name) end
        -- As in settle.lua: off its game's share of the queue.
        local game, size = string.match(id, '@(%d+)%.(%d+)%-[hl]$')
        if game and redis.call('HEXISTS', KEYS[2], id) == 1 then
            local off = string.format('%.0f', -(2 ^ 40 + size))
            if redis.call('HINCRBY', KEYS[6], game, off) < 2 ^ 40 then redis.call('HDEL', KEYS[6], game) end
        end
    end
end
if ids[1] then
    for key = 1, 3 do redis.call('HDEL', KEYS[key], unpack(ids)) end
    redis.call('HDEL', KEYS[7], unpack(ids))
    redis.call('ZREM', KEYS[4], unpack(ids))
end
return #ids
