-- Closing, unpublishing and cleaning up find what is due by index: these tables grow for ever, and each game's part is
-- looked at on its own. The indexes are small; each table is read once, and writers wait meanwhile.
SET LOCAL lock_timeout = '3s';

-- How long after a period's end its late scores count. Beside the specification, which may be large.
ALTER TABLE leaderboard_generations
    ADD COLUMN grace_seconds double precision
        GENERATED ALWAYS AS (coalesce((spec ->> 'grace_seconds')::double precision, 600)) STORED NOT NULL,
    -- A retired generation from which nothing more is to be removed; it keeps final standings.
    ADD COLUMN cleaned_at timestamptz;

ALTER TABLE leaderboard_periods
    -- What a period that is over waits for, and what it was closed over (src/domain/low_water.rs, Hold).
    ADD COLUMN waits_for text[],
    ADD COLUMN closed_over text[];

CREATE INDEX leaderboard_periods_over ON leaderboard_periods (generation_id, ends_at) WHERE state = 'open';  -- "which periods of a board are over"
CREATE INDEX leaderboard_periods_waiting ON leaderboard_periods (id) WHERE state = 'open' AND waits_for IS NOT NULL;  -- "which are over and wait"
CREATE INDEX leaderboard_periods_unranked ON leaderboard_periods (id) WHERE state = 'closed' AND closed_at IS NULL;  -- "which were frozen and not ranked"
CREATE INDEX leaderboard_periods_published ON leaderboard_periods (closed_at, id) WHERE state = 'closed' AND unpublished_at IS NULL;  -- "which may leave Redis"
CREATE INDEX leaderboard_generations_used ON leaderboard_generations (leaderboard_id) WHERE state <> 'retired';  -- all definitions
CREATE INDEX leaderboard_generations_building ON leaderboard_generations (id) WHERE state = 'building';  -- "is anything being built"
CREATE INDEX leaderboard_generations_uncleaned ON leaderboard_generations (id) WHERE state = 'retired' AND cleaned_at IS NULL;  -- clean-up
CREATE INDEX dead_letters_waiting_of_game ON dead_letters (game_id, received_at) WHERE state = 'waiting';  -- low-water mark of a game
CREATE INDEX dead_letters_decided ON dead_letters (decided_at) WHERE state <> 'waiting';  -- clean-up
CREATE INDEX score_facts_set_aside ON score_facts (id) WHERE shard < 0;  -- "facts that nobody could read"
