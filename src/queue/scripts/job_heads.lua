#!lua flags=no-writes
-- The first bytes of jobs: what they do and whose they are.
-- KEYS  1 jobs
-- ARGV  1 how many bytes  2 onwards ids (<= 250)
-- Returns for each id its first bytes, nil for a job that is gone. Cost O(bytes of the jobs).
local heads = redis.call('HMGET', KEYS[1], unpack(ARGV, 2))
for i = 1, #heads do heads[i] = heads[i] and string.sub(heads[i], 1, ARGV[1]) end
return heads
