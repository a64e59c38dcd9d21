//! Markers: what Redis has not been told yet, one row per fold (`aggregator/marker.rs` knows the inside).

use std::time::Duration;

use crate::store::{Pool, StoreError};
use sqlx::{PgConnection, Row};

/// How far the versions of entries may be behind the clock, in µs: a second.
const BEHIND: i64 = 1_000_000;
/// How often a fold looks whether another has set the sequence, and how long it waits each time.
const CATCH_UP_LOOKS: u32 = 20;
const CATCH_UP_PAUSE: Duration = Duration::from_millis(5);

/// The version of the entries that a fold changes. Taken once per fold, after its leases are locked, so that it grows
/// with every fold of a shard, by [`VERSIONS_PER_FOLD`](crate::domain::board_version::VERSIONS_PER_FOLD) or more. It
/// follows the clock (µs): in a database that has gone back in time it is still more than what was issued in the lost
/// future, which Redis may have seen.
///
/// Also settles how the fold's statements are planned: as look-ups by key. Seeing twenty thousand keys the planner
/// would scan whole tables, and caching look-ups of keys that never repeat costs more than the look-ups. One plan
/// serves all folds, without the arrays' lengths; but while the table is small, or nobody has counted it, each is
/// planned anew: a plan that was made for a small table walks all of it, however large it has become.
pub async fn next_version(transaction: &mut PgConnection) -> Result<i64, StoreError> {
    let row = sqlx::query(
        "SELECT nextval('entry_version'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
                set_config('plan_cache_mode',
                           CASE WHEN reltuples < 10000 THEN 'force_custom_plan' ELSE 'force_generic_plan' END, true),
                set_config('random_page_cost', '0.1', true), set_config('enable_memoize', 'off', true),
                set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
                set_config('enable_seqscan', 'off', true)
           FROM pg_class WHERE oid = 'leaderboard_entries'::regclass",
    )
    .fetch_one(&mut *transaction)
    .await?;
    let (version, now): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if version > now - BEHIND { Ok(version) } else { catch_up(transaction).await }
}

/// Sets the sequence to the clock, once a second. One at a time, and only if it is still behind by more than whoever
/// is between these statements can take: a sequence that is set twice could issue a value twice.
///
/// Nobody waits for the lock: who has it keeps it to the end of its transaction, however slow, but sets the sequence at
/// once, and that is seen without a commit. So the others look whether it has been set.
async fn catch_up(transaction: &mut PgConnection) -> Result<i64, StoreError> {
    for _ in 0..CATCH_UP_LOOKS {
        let alone: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(7305881)").fetch_one(&mut *transaction).await?;
        if alone {
            return sqlx::query_scalar(
                "SELECT CASE WHEN s.last_value < c.now - $1 THEN setval('entry_version', c.now)
                             ELSE nextval('entry_version') END
                   FROM entry_version s, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) c",
            )
            .bind(BEHIND)
            .fetch_one(transaction)
            .await;
        }
        tokio::time::sleep(CATCH_UP_PAUSE).await;
        // Takes none in vain: who sets the sequence relies on few being taken meanwhile.
        let version: Option<i64> = sqlx::query_scalar(
            "SELECT CASE WHEN s.last_value > c.now - $1 THEN nextval('entry_version') END
               FROM entry_version s, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) c",
        )
        .bind(BEHIND)
        .fetch_one(&mut *transaction)
        .await?;
        if let Some(version) = version {
            return Ok(version);
        }
    }
    // It grows all the same. Only who has set it a second ago and not committed since can be met here.
    sqlx::query_scalar("SELECT nextval('entry_version')").fetch_one(transaction).await
}

/// Stores a marker; returns its id. Whoever holds `shard` sees to its publication.
pub async fn insert(transaction: &mut PgConnection, shard: i16, entries: &[u8]) -> Result<i64, StoreError> {
    sqlx::query_scalar("INSERT INTO dirty_entries (shard, entries) VALUES ($1, $2) RETURNING id")
        .bind(shard)
        .bind(entries)
        .fetch_one(transaction)
        .await
}

/// The oldest markers of these shards with a higher id than `after`.
pub async fn oldest(pool: &Pool, shards: &[i16], after: i64, limit: i64) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    sqlx::query_as("SELECT id, entries FROM dirty_entries WHERE shard = ANY ($1) AND id > $2 ORDER BY id LIMIT $3")
        .bind(shards)
        .bind(after)
        .bind(limit)
        .fetch_all(pool)
        .await
}

/// Removes published markers.
pub async fn delete(pool: &Pool, ids: &[i64]) -> Result<(), StoreError> {
    // Not waiting for the disk: a removal that a crash undoes only publishes the same values again.
    sqlx::query(
        "DELETE FROM dirty_entries USING (SELECT set_config('synchronous_commit', 'off', true)) AS no_wait
          WHERE id = ANY ($1)",
    )
    .bind(ids)
    .execute(pool)
    .await?;
    Ok(())
}

/// Puts a marker that cannot be read aside, under a negative shard: it blocks nothing and is not lost.
pub async fn set_aside(pool: &Pool, id: i64) -> Result<(), StoreError> {
    sqlx::query("UPDATE dirty_entries SET shard = -1 - shard WHERE id = $1 AND shard >= 0")
        .bind(id)
        .execute(pool)
        .await?;
    Ok(())
}

/// Brings some of the markers that were put aside back, for a program that can read them: of these shards and formats
/// (a marker's first byte), with a higher id than `after`. Returns the highest id of them. Others stay: each that came
/// back in vain would have every board rebuilt.
pub async fn bring_back(
    pool: &Pool,
    shards: &[i16],
    formats: &[u8],
    after: i64,
    limit: i64,
) -> Result<Option<i64>, StoreError> {
    let formats: Vec<&[u8]> = formats.chunks(1).collect();
    let ids: Vec<i64> = sqlx::query_scalar(
        "UPDATE dirty_entries d SET shard = -1 - d.shard
           FROM (SELECT id FROM dirty_entries
                  WHERE shard < 0 AND -1 - shard = ANY ($1) AND id > $2 AND substring(entries FROM 1 FOR 1) = ANY ($4)
                  ORDER BY id LIMIT $3 FOR NO KEY UPDATE) AS aside
          WHERE d.id = aside.id RETURNING d.id",
    )
    .bind(shards)
    .bind(after)
    .bind(limit)
    .bind(formats)
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().max())
}

/// The markers that waited at a moment, for whoever waits until they are published. What was published leaves dead rows
/// behind, over which each look from the beginning would walk: each begins at what the last one met.
#[derive(Debug)]
pub struct Awaited {
    published: i64,
    newest: i64,
}

impl Awaited {
    /// Those that wait now.
    pub async fn now(connection: &mut PgConnection) -> Result<Self, StoreError> {
        Ok(Self { published: 0, newest: newest(connection).await? })
    }

    /// Whether one of them still waits.
    pub async fn wait(&mut self, connection: &mut PgConnection) -> Result<bool, StoreError> {
        let first = first_waiting(connection, self.published, self.newest).await?;
        if let Some(first) = first {
            self.published = first - 1;
        }
        Ok(first.is_some())
    }
}

/// The highest id of a marker that waits; 0: none does.
pub async fn newest(connection: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("SELECT coalesce((SELECT id FROM dirty_entries WHERE shard >= 0 ORDER BY id DESC LIMIT 1), 0)")
        .fetch_one(connection)
        .await
}

/// The first marker behind `after` and up to `newest` that waits.
async fn first_waiting(connection: &mut PgConnection, after: i64, newest: i64) -> Result<Option<i64>, StoreError> {
    sqlx::query_scalar("SELECT id FROM dirty_entries WHERE id > $1 AND id <= $2 AND shard >= 0 ORDER BY id LIMIT 1")
        .bind(after)
        .bind(newest)
        .fetch_optional(connection)
        .await
}
