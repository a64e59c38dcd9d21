-- A row of facts whose fold takes too long is cut up, and its parts get ids of their own. Whoever waits for the row knows
-- it by its first id. NULL: it has that one still.

ALTER TABLE score_facts ADD COLUMN first_id bigint;
CREATE INDEX score_facts_cut_up ON score_facts (first_id) WHERE first_id IS NOT NULL;  -- "parts of a row that was cut up"
