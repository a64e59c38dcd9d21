#!lua flags=no-writes
-- The first bytes of jobs: what they do and whose they are. Of as many of the first jobs as are small enough together,
-- and of one at least: a job is copied whole for them.
-- KEYS  1 jobs
-- ARGV  1 how many bytes of each  2 most bytes of the jobs together  3 onwards ids (<= 250)
-- Returns for each of these jobs its first bytes, nil for one that is gone. Cost O(bytes of these jobs).
local ids, together = {}, 0
for i = 3, #ARGV do
    together = together + redis.call('HSTRLEN', KEYS[1], ARGV[i])
    if together > tonumber(ARGV[2]) and ids[1] then break end
    ids[#ids + 1] = ARGV[i]
end
local heads = redis.call('HMGET', KEYS[1], unpack(ids))
for i = 1, #heads do heads[i] = heads[i] and string.sub(heads[i], 1, ARGV[1]) end
return heads
