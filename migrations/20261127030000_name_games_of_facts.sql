-- Whose periods must not close before a row of facts is folded. NULL: a program that did not say wrote it, so all wait.
-- Empty: none, because a recompute made its facts from events that were counted before.
ALTER TABLE score_facts ADD COLUMN games integer[];
