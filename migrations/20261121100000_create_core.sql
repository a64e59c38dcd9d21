-- Tenants, keys and the version of what ingest must know of them (published to Redis as the directory).
CREATE TABLE games (
    id                      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug                    text NOT NULL UNIQUE,
    name                    text NOT NULL,
    -- Incremented under FOR UPDATE by every change of a definition; read FOR SHARE by every insert of events.
    definitions_generation  integer NOT NULL DEFAULT 1,
    -- NULL: the process's default. 0: off.
    limit_player_events     integer,
    limit_game_events       integer,
    created_at              timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    id           integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    game_id      integer NOT NULL REFERENCES games,
    kind         text NOT NULL CHECK (kind IN ('client', 'server')),
    -- SHA-256 of the key; the key itself is shown once and stored nowhere.
    key_sha256   bytea NOT NULL UNIQUE CHECK (octet_length(key_sha256) = 32),
    -- The first characters, so that people can tell keys apart.
    hint         text NOT NULL,
    label        text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    revoked_at   timestamptz
);
CREATE INDEX api_keys_game ON api_keys (game_id);  -- "keys of a game"

-- One row. Incremented in the transaction of every change to games, keys or leaderboards; the directory in Redis
-- carries the version it was made from, so that a lost or missed publication is noticed and repaired.
CREATE TABLE directory_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint NOT NULL DEFAULT 1
);
INSERT INTO directory_version DEFAULT VALUES;

-- Every accepted event, once. The primary key is the only de-duplication that correctness relies on (invariant 2).
-- No index on the player: it costs a fifth of the insert, and no hot path reads by player (docs/adr/0002).
CREATE TABLE events (
    game_id                integer NOT NULL,
    event_id               uuid NOT NULL,
    occurred_at            timestamptz NOT NULL,
    received_at            timestamptz NOT NULL,
    definitions_generation integer NOT NULL,
    schema_version         integer,
    from_server            boolean NOT NULL,
    type                   text NOT NULL,
    player_id              text NOT NULL,
    session_id             text,
    payload                json NOT NULL,
    PRIMARY KEY (game_id, event_id, occurred_at)
) PARTITION BY RANGE (occurred_at);

-- Outbox: what new events mean to leaderboards. One row per (insert transaction, fold shard), packed
-- (src/domain/fact.rs). Rows live for milliseconds, so vacuum must come early and often.
CREATE TABLE score_facts (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard           smallint NOT NULL,
    fact_count      integer NOT NULL,
    min_received_at timestamptz NOT NULL,
    facts           bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0,
        toast.autovacuum_vacuum_threshold = 10000, toast.autovacuum_vacuum_cost_delay = 0);
-- Packed facts do not compress well enough to be worth the CPU.
ALTER TABLE score_facts ALTER COLUMN facts SET STORAGE EXTERNAL;

CREATE TABLE leaderboards (
    id                 integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    game_id            integer NOT NULL REFERENCES games,
    slug               text NOT NULL,
    -- The whole specification as last written (src/domain/board.rs, LeaderboardSpec).
    spec               jsonb NOT NULL,
    -- What players see. NULL until the first recompute has finished.
    live_generation_id integer,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    -- A deleted leaderboard frees its name at once; its generations are retired and removed by cron.
    deleted_at         timestamptz
);
CREATE UNIQUE INDEX leaderboards_slug ON leaderboards (game_id, slug) WHERE deleted_at IS NULL;  -- "this board"

-- One definition of a leaderboard. An edit that changes what counts makes a new row; a recompute fills it, one
-- update of leaderboards.live_generation_id swaps it in.
CREATE TABLE leaderboard_generations (
    id                integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    leaderboard_id    integer NOT NULL REFERENCES leaderboards ON DELETE CASCADE,
    -- games.definitions_generation that created it: events stamped below it arrive through the recompute.
    since_generation  integer NOT NULL,
    spec              jsonb NOT NULL,
    state             text NOT NULL CHECK (state IN ('building', 'live', 'retired')),
    -- Progress of the recompute: partition and key reached, counts for the progress bar. NULL partition: not begun.
    cursor_partition  text,
    cursor_event_id   uuid,
    cursor_occurred_at timestamptz,
    events_scanned    bigint NOT NULL DEFAULT 0,
    events_total      bigint,
    scan_finished_at  timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    live_at           timestamptz,
    retired_at        timestamptz
);
CREATE INDEX leaderboard_generations_board ON leaderboard_generations (leaderboard_id);
CREATE UNIQUE INDEX leaderboard_generations_one_live ON leaderboard_generations (leaderboard_id) WHERE state = 'live';
ALTER TABLE leaderboards ADD FOREIGN KEY (live_generation_id) REFERENCES leaderboard_generations;

CREATE TABLE leaderboard_periods (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    generation_id integer NOT NULL REFERENCES leaderboard_generations ON DELETE CASCADE,
    starts_at     timestamptz NOT NULL,
    ends_at       timestamptz,
    state         text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
    -- Events that came after the grace: stored, counted here, never in the standings.
    late_count    bigint NOT NULL DEFAULT 0,
    -- Set at closing.
    entry_count   bigint,
    closed_at     timestamptz,
    -- When the Redis keys of a closed period were removed.
    unpublished_at timestamptz,
    UNIQUE (generation_id, starts_at)
);
CREATE INDEX leaderboard_periods_due ON leaderboard_periods (ends_at) WHERE state = 'open';  -- "which are due to close"

CREATE TABLE leaderboard_entries (
    period_id    bigint NOT NULL,
    player_id    text NOT NULL,
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
    metadata     json,
    PRIMARY KEY (period_id, player_id)
) PARTITION BY HASH (player_id);
CREATE TABLE leaderboard_entries_0 PARTITION OF leaderboard_entries FOR VALUES WITH (MODULUS 4, REMAINDER 0) WITH (fillfactor = 80);
CREATE TABLE leaderboard_entries_1 PARTITION OF leaderboard_entries FOR VALUES WITH (MODULUS 4, REMAINDER 1) WITH (fillfactor = 80);
CREATE TABLE leaderboard_entries_2 PARTITION OF leaderboard_entries FOR VALUES WITH (MODULUS 4, REMAINDER 2) WITH (fillfactor = 80);
CREATE TABLE leaderboard_entries_3 PARTITION OF leaderboard_entries FOR VALUES WITH (MODULUS 4, REMAINDER 3) WITH (fillfactor = 80);

-- Version of entries: one value per fold transaction.
CREATE SEQUENCE entry_version;

-- What Redis has not been told yet: one row per fold transaction, packed absolute values (src/aggregator/marker.rs).
CREATE TABLE dirty_entries (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard   smallint NOT NULL,
    entries bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE dirty_entries ALTER COLUMN entries SET STORAGE EXTERNAL;

-- Final ranks of closed periods: what the api reads when Redis no longer has them. Never updated.
CREATE TABLE period_standings (
    period_id  bigint NOT NULL REFERENCES leaderboard_periods ON DELETE CASCADE,
    -- Ordinal rank; the competition rank stands beside it.
    rank       bigint NOT NULL,
    competition_rank bigint NOT NULL,
    player_id  text NOT NULL,
    score      bigint NOT NULL,
    subscore   bigint NOT NULL,
    reached_at timestamptz NOT NULL,
    plays      bigint NOT NULL,
    metadata   json,
    PRIMARY KEY (period_id, rank)
);
CREATE UNIQUE INDEX period_standings_player ON period_standings (period_id, player_id);  -- "my rank then"

-- State of entries whose events were dropped by retention (fine print 4).
CREATE TABLE entry_baseline (
    generation_id integer NOT NULL REFERENCES leaderboard_generations ON DELETE CASCADE,
    period_start  timestamptz NOT NULL,
    player_id     text NOT NULL,
    score         numeric NOT NULL,
    subscore      numeric NOT NULL,
    reached_at    timestamptz NOT NULL,
    event_id      uuid NOT NULL,
    plays         bigint NOT NULL,
    metadata      json,
    PRIMARY KEY (generation_id, period_start, player_id)
);

-- How far the baseline reaches: per dropped or half-folded partition.
CREATE TABLE baseline_progress (
    partition_name     text PRIMARY KEY,
    range_start        timestamptz NOT NULL,
    range_end          timestamptz NOT NULL,
    cursor_game_id     integer,
    cursor_event_id    uuid,
    cursor_occurred_at timestamptz,
    folded_at          timestamptz,
    dropped_at         timestamptz
);

-- Lease rows instead of advisory locks: a frozen process keeps its session, not its lease (fine print 11).
CREATE TABLE leases (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    token      bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE SEQUENCE lease_token;

-- How each scheduled job last ended, whichever process ran it.
CREATE TABLE scheduled_runs (
    job      text PRIMARY KEY,
    ended_at timestamptz NOT NULL,
    outcome  text NOT NULL CHECK (outcome IN ('done', 'failed', 'panicked')),
    -- What it did, counted in its own unit (an audit: entries that differed and were repaired).
    did      bigint NOT NULL
);

-- Jobs that will not be retried by themselves.
CREATE TABLE dead_letters (
    id           uuid PRIMARY KEY,
    job_id       text NOT NULL UNIQUE,
    queue        text NOT NULL,
    lane         text NOT NULL,
    kind         text NOT NULL,
    game_id      integer,
    reason       text NOT NULL,
    error        text NOT NULL,
    attempts     integer NOT NULL,
    crashes      integer NOT NULL,
    -- The job's bytes as they stood in Redis; `body` is the same for people, NULL when undecodable.
    payload      bytea NOT NULL,
    body         json,
    received_at  timestamptz NOT NULL,
    died_at      timestamptz NOT NULL DEFAULT now(),
    state        text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'replayed', 'discarded')),
    decided_at   timestamptz
);
CREATE INDEX dead_letters_waiting ON dead_letters (received_at) WHERE state = 'waiting';  -- low-water mark, list

CREATE TABLE audit_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL,
    action  text NOT NULL,
    game_id integer,
    subject text NOT NULL,
    detail  jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_at ON audit_log (at);  -- retention, "what changed lately"

-- Running processes and the connections each may take, so that a start can tell when the sum exceeds the server.
CREATE TABLE processes (
    id       text PRIMARY KEY,
    role     text NOT NULL,
    pool_max integer NOT NULL,
    seen_at  timestamptz NOT NULL DEFAULT now()
);
