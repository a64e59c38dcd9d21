-- Whether any fact behind a baseline row moved the standing: an `incr` of nothing but zeros has moved nothing, and a
-- later zero must not lose its tie. In leaderboard_entries the same is said by a NULL sum_subscore beside a sum_score.
SET LOCAL lock_timeout = '10s';
ALTER TABLE entry_baseline ADD COLUMN moved boolean NOT NULL DEFAULT true;
