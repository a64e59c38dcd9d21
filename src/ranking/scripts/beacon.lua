-- Tells of a beacon, unless somebody else has told of another one meanwhile.
-- KEYS beacon
-- ARGV what the caller read there ('' nothing), what shall be there, channel, what to say there ('' nothing)
-- -> 1 told; 0 somebody else was faster
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return 1
