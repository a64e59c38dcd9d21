#!lua flags=allow-oom
-- Raises the stamp to now, and to what the caller knows of it: nothing is received before the answer from here on. A
-- server whose clock has gone back, or that took over from another and knows less, is told so before it stamps.
-- KEYS  1 counters
-- ARGV  1 the latest stamp that the caller knows (µs)
-- Returns the stamp (µs, as text). Cost O(1).
local time = redis.call('TIME')
local now = tonumber(time[1] .. string.format('%06d', time[2]))
local stamp = math.max(now, tonumber(redis.call('HGET', KEYS[1], 'stamp') or 0), tonumber(ARGV[1]))
local text = string.format('%.0f', stamp)
redis.call('HSET', KEYS[1], 'stamp', text)
return text
