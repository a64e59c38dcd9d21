-- Markers that an older program could not read are looked for at each change of a shard's holder: the outbox may be
-- long, they are few. The index is small; publishers wait for the moment that one look at the table takes.
SET LOCAL lock_timeout = '3s';

CREATE INDEX dirty_entries_set_aside ON dirty_entries (id) WHERE shard < 0;  -- "markers that nobody could read"
