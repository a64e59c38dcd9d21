-- Until when a game has paid for its changes of leaderboards and keys: each costs a moment, and a minute's worth may be
-- owed. So changes are bounded per game whoever asks, and one that asks without end costs the others nothing.
ALTER TABLE games ADD COLUMN changes_paid_until timestamptz NOT NULL DEFAULT 'epoch';
