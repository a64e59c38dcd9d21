#!lua flags=allow-oom
-- Some dead letters, in no order, each with a name of this death: the same for whoever takes it, and another one once
-- the job was replayed and has died again.
-- KEYS  1 dead  2 deaths  3 jobs
-- ARGV  1 most letters (<= 250)  2 a name that was never given
-- Returns id, letter, name and bytes of its job by turns. Cost O(letters).
local found = redis.call('HRANDFIELD', KEYS[1], ARGV[1], 'WITHVALUES')
if not found[1] then
    -- What a mover of before left over, which does not know of names.
    redis.call('UNLINK', KEYS[2])
    return {}
end
local ids, taken = {}, {}
for i = 1, #found, 2 do
    redis.call('HSETNX', KEYS[2], found[i], ARGV[2])
    ids[#ids + 1] = found[i]
end
local names = redis.call('HMGET', KEYS[2], unpack(ids))
for n, id in ipairs(ids) do
    taken[#taken + 1] = id
    taken[#taken + 1] = found[2 * n]
    taken[#taken + 1] = names[n]
    taken[#taken + 1] = redis.call('HSTRLEN', KEYS[3], id)
end
return taken
