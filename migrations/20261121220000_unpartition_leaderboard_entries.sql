-- Entries stand in one table. The four hash partitions that they stood in pruned nothing: every fold touches all of
-- them, and finding the partition of each row cost a sixth of what folding costs Postgres (ADR 0004). Players compare by
-- bytes whatever the database's collation is: cheaper, and the order in which a fold walks the index.
--
-- Folds wait meanwhile (a second or two per million entries) and go on by themselves.
LOCK TABLE leaderboard_entries IN ACCESS EXCLUSIVE MODE;

CREATE TABLE entries_in_one_table (LIKE leaderboard_entries) WITH (fillfactor = 80);
ALTER TABLE entries_in_one_table ALTER COLUMN player_id TYPE text COLLATE "C";

INSERT INTO entries_in_one_table SELECT * FROM leaderboard_entries;
DROP TABLE leaderboard_entries;
ALTER TABLE entries_in_one_table RENAME TO leaderboard_entries;
ALTER TABLE leaderboard_entries ADD CONSTRAINT leaderboard_entries_pkey PRIMARY KEY (period_id, player_id);
