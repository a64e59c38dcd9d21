#!lua flags=allow-oom
-- Says that the suspects which a worker runs wait for another server: should it die meanwhile, no crash is charged.
-- KEYS  1 alone  2 held:<worker>
-- ARGV  1 worker  2 one of these jobs: a call that comes after its settlement says nothing of others
-- Returns whether they are suspects in its hands. Cost O(1).
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 or not redis.call('ZSCORE', KEYS[2], ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], 'waiting')
return 1
