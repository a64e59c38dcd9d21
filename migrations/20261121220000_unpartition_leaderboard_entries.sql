-- Entries stand in one table. The four hash partitions that they stood in pruned nothing: every fold touches all of
-- them, and finding the partition of each row cost a tenth of the statement that folds (ADR 0004). Players compare by
-- bytes whatever the database's collation is: cheaper, and the order in which a fold walks the index.
--
-- Folds wait meanwhile (a second or two per million entries) and go on by themselves.
LOCK TABLE leaderboard_entries IN ACCESS EXCLUSIVE MODE;

CREATE TABLE entries_in_one_table (
    period_id    bigint NOT NULL,
    player_id    text COLLATE "C" NOT NULL,
    -- Published values; a sum outside bigint is clamped here and exact in sum_*.
    score        bigint NOT NULL,
    subscore     bigint NOT NULL,
    reached_at   timestamptz NOT NULL,
    event_id     uuid NOT NULL,
    plays        bigint NOT NULL,
    -- Grows with every change of the standing, within an entry; guards publication to Redis.
    version      bigint NOT NULL,
    sum_score    numeric,
    sum_subscore numeric,
    metadata     json
) WITH (fillfactor = 80);

INSERT INTO entries_in_one_table SELECT * FROM leaderboard_entries;
DROP TABLE leaderboard_entries;
ALTER TABLE entries_in_one_table RENAME TO leaderboard_entries;
ALTER TABLE leaderboard_entries ADD CONSTRAINT leaderboard_entries_pkey PRIMARY KEY (period_id, player_id);
