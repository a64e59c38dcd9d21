-- "The periods of a board that belong in Redis": the others become more for ever. Not CONCURRENTLY: a second `migrate` that
-- waits for its turn would keep it waiting for ever. The index is small; writers wait for one look at the table.
SET LOCAL lock_timeout = '3s';

CREATE INDEX leaderboard_periods_in_redis ON leaderboard_periods (generation_id, starts_at) WHERE unpublished_at IS NULL;
