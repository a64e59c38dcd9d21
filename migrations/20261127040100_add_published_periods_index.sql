-- no-transaction
-- "The periods of a board that belong in Redis": the others become more for ever.
CREATE INDEX CONCURRENTLY IF NOT EXISTS leaderboard_periods_published
    ON leaderboard_periods (generation_id, starts_at) WHERE unpublished_at IS NULL;
