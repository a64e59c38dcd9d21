#!lua flags=no-writes
-- What the scripts that read have before them (src/ranking/read.rs). Keys are those of src/domain/ranking_key.rs.

-- Entries of the period, and the board's version. Or nothing, and why: 0 the board is not ready; 2 a part of it was
-- lost (somebody evicts keys, or wrote one of another type), and what is left says nothing. One command for both keys:
-- each costs most of a microsecond.
local function readable(rank, member)
  local ready, version = unpack(redis.call('MGET', KEYS[1], KEYS[2]))
  if not ready then
    return nil, 0
  end
  -- A key of another type answers with an error, which equals no number.
  local total = redis.pcall('ZCARD', rank)
  -- Who has entries is among the board's periods, and a board that is ready has a set of them, be it of none.
  local lost = not version or total ~= redis.pcall('HLEN', member) or (total == 0
      and (redis.pcall('SISMEMBER', KEYS[3], ARGV[1]) ~= 0 or redis.call('EXISTS', KEYS[3]) == 0))
  if lost then
    return nil, 2
  end
  return total, version
end

-- Whether Redis holds the period.
local function published(total)
  return total > 0 and 1 or 0
end

-- Entries from position `first` to `last`. Numbers as arguments would be written with 17 digits, which is slow.
local function between(rank, first, last)
  return redis.call('ZRANGE', rank, string.format('%d', first), string.format('%d', last))
end

-- How many bytes the number takes that begins at byte `at` of a key: the first says how many follow. What is no key
-- (someone else wrote it) must not fail the script: it is left out by whoever reads the answer.
local function width(key, at)
  local lead = string.byte(key, at) or 128
  return lead < 128 and 128 - lead or lead - 127
end

-- Score and subscore of a key: what all before them have a better competition rank for.
local function scores(key)
  local first = width(key, 1)
  return string.sub(key, 1, first + width(key, first + 1))
end

-- The key of a player, from what the hash holds: '<entry version>:<place>'.
local function key_of(player, value)
  return string.sub(value, (string.find(value, ':', 1, true) or 0) + 1) .. player
end

