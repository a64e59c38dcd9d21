#!lua flags=no-writes
-- What the scripts that read have before them (src/ranking/read.rs). Keys are those of src/domain/ranking_key.rs.

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

