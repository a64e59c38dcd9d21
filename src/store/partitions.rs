//! Monthly partitions of `events` (docs/rules.md#partitions-are-made-ahead).
//!
//! DDL takes no parameters, so these statements are built as text, from a [`Month`] only: a fixed prefix, digits and
//! underscores. That is why they may be asserted safe.

use crate::store::{Pool, StoreError};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::domain::clock::Micros;
use crate::domain::month::Month;

/// A partition of `events` as the catalogue has it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Partition {
    /// `events_YYYY_MM`.
    pub name: String,
    /// Inclusive.
    pub range_start: Micros,
    /// Exclusive.
    pub range_end: Micros,
    /// A concurrent detach began and did not finish.
    pub detach_pending: bool,
    /// The planner's estimate of its rows.
    pub estimated_rows: i64,
}

impl Partition {
    /// The month it holds.
    pub fn month(&self) -> Month {
        Month::of(self.range_start)
    }
}

/// Partitions attached to `events`, oldest first. Waits for nobody who locks one of them.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Partition>, StoreError> {
    let rows: Vec<(String, bool, i64)> = sqlx::query_as(
        "SELECT c.relname::text, i.inhdetachpending, c.reltuples::bigint
           FROM pg_inherits i
           JOIN pg_class c ON c.oid = i.inhrelid
          WHERE i.inhparent = 'events'::regclass
          ORDER BY c.relname",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(name, detach_pending, estimated_rows)| {
            let month = Month::from_partition_name(&name)?;
            let (range_start, range_end) = (month.starts_at(), month.ends_at());
            Some(Partition { name, range_start, range_end, detach_pending, estimated_rows })
        })
        .collect())
}

/// Likewise, each with its bytes, indexes included: for people. Whoever locks one of them is waited for.
pub async fn list_with_bytes(connection: &mut PgConnection) -> Result<Vec<(Partition, i64)>, StoreError> {
    let all = list(connection).await?;
    let names: Vec<&str> = all.iter().map(|partition| partition.name.as_str()).collect();
    // One that was dropped meanwhile has none.
    let bytes: Vec<i64> = sqlx::query_scalar(
        "SELECT coalesce(pg_total_relation_size(to_regclass(name)), 0)
           FROM unnest($1::text[]) WITH ORDINALITY AS n (name, place) ORDER BY place",
    )
    .bind(names)
    .fetch_all(connection)
    .await?;
    Ok(all.into_iter().zip(bytes).collect())
}

/// Tables that hold a month of events and are not attached: detached and waiting to be dropped, oldest first.
pub async fn list_detached(connection: &mut PgConnection) -> Result<Vec<Month>, StoreError> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c
          WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relname ~ '^events_[0-9]{4}_[0-9]{2}$'
            AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass)
          ORDER BY c.relname",
    )
    .fetch_all(connection)
    .await?;
    Ok(names.iter().filter_map(|name| Month::from_partition_name(name)).collect())
}

/// The advisory lock under which partitions are made: held to the end of the transaction, so no session state.
const MAKING: i64 = 0x5c04_0001;

/// Makes one month's partition unless it is there. `Ok(false)`: a table of that name exists but takes no events,
/// because it is detached or being detached; try again when it is gone.
///
/// `LIKE`, `CHECK` and `ATTACH` instead of `CREATE … PARTITION OF`, which queues every insert behind it. The check
/// spares `ATTACH` its scan and goes again at once: inserts need not pay for it.
///
/// # Errors
/// [`StoreError`]; `55P03` when a lock was not free within a second.
pub async fn create(pool: &Pool, month: Month) -> Result<bool, StoreError> {
    let name = month.partition_name();
    let (from, to) = (month.starts_at(), month.ends_at());
    let mut transaction = pool.begin().await?;
    sqlx::query("SET LOCAL lock_timeout = '1s'").execute(&mut *transaction).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MAKING).execute(&mut *transaction).await?;
    let attached: Option<bool> = sqlx::query_scalar(
        "SELECT c.relispartition AND NOT coalesce(i.inhdetachpending, false)
               FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
              WHERE c.oid = to_regclass($1::text)",
    )
    .bind(&name)
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(attached) = attached {
        return Ok(attached);
    }
    let ddl = format!(
        "CREATE TABLE {name} (LIKE events INCLUDING ALL,
             CONSTRAINT {name}_range CHECK (occurred_at >= '{from}' AND occurred_at < '{to}'))
             WITH (autovacuum_vacuum_insert_threshold = 1000000, autovacuum_vacuum_insert_scale_factor = 0.2,
                   autovacuum_analyze_threshold = 100000);
         ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}');
         ALTER TABLE {name} DROP CONSTRAINT {name}_range;"
    );
    (&mut *transaction).execute(AssertSqlSafe(ddl)).await?;
    // A month that was dropped and is needed again begins anew.
    sqlx::query(
        "UPDATE baseline_progress
            SET cursor_game_id = NULL, cursor_event_id = NULL, cursor_occurred_at = NULL, folded_at = NULL,
                dropped_at = NULL
          WHERE partition_name = $1",
    )
    .bind(&name)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(true)
}

/// Detaches a partition without locking inserts out. Runs outside a transaction and waits for those that use the
/// table; when it gives up, the detach is half done and [`finish_detach`] completes it.
pub async fn detach(pool: &Pool, month: Month) -> Result<(), StoreError> {
    let ddl = format!("ALTER TABLE events DETACH PARTITION {} CONCURRENTLY", month.partition_name());
    // A connection of its own: `execute` on the pool would do, but must not share a pipeline with anything.
    pool.acquire().await?.execute(AssertSqlSafe(ddl)).await?;
    Ok(())
}

/// Completes a half-done detach.
pub async fn finish_detach(pool: &Pool, month: Month) -> Result<(), StoreError> {
    let ddl = format!("ALTER TABLE events DETACH PARTITION {} FINALIZE", month.partition_name());
    pool.acquire().await?.execute(AssertSqlSafe(ddl)).await?;
    Ok(())
}

/// Drops a detached month whose events are in the baseline and records it; does nothing to any other table, nor to one
/// of a month that was dropped before: somebody has restored it.
/// Returns whether it was dropped.
pub async fn drop_detached(connection: &mut PgConnection, month: Month, now: Micros) -> Result<bool, StoreError> {
    let name = month.partition_name();
    let mut transaction = connection.begin().await?;
    let recorded = sqlx::query(
        "UPDATE baseline_progress SET dropped_at = $2
          WHERE partition_name = $1 AND folded_at IS NOT NULL AND dropped_at IS NULL
            AND EXISTS (SELECT 1 FROM pg_class WHERE oid = to_regclass($1::text) AND NOT relispartition)",
    )
    .bind(&name)
    .bind(now)
    .execute(&mut *transaction)
    .await?;
    if recorded.rows_affected() == 0 {
        return Ok(false);
    }
    (&mut *transaction).execute(AssertSqlSafe(format!("DROP TABLE {name}"))).await?;
    transaction.commit().await?;
    Ok(true)
}

/// How often making a partition is tried before its caller hears of the failure.
const ATTEMPTS: u32 = 8;

/// Why a partition could not be made. Transient: try again later, it is never an error of the data.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// The month is past retention, and its old table is about to be dropped.
    #[error("the partition {0} is being dropped; it can be made anew when that is done")]
    BeingDropped(String),
    /// [`StoreError`].
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

/// The moments whose months must have partitions before a process is ready: from the oldest event that ingest accepts,
/// less a day for what waits in the queue, to two months ahead.
pub fn window(now: Micros, max_event_age_seconds: u32) -> (Micros, Micros) {
    let from = now.plus_seconds(-i64::from(max_event_age_seconds) - 86_400);
    (from, Month::of(now).next().next().starts_at())
}

/// Makes the partitions of every month from the one of `from` to the one of `to` that are missing; returns those.
/// Several processes may do so at once. Costs one look into the catalogue when nothing is missing.
///
/// # Errors
/// [`EnsureError`].
pub async fn ensure(pool: &Pool, from: Micros, to: Micros) -> Result<Vec<Month>, EnsureError> {
    let present: std::collections::HashSet<String> = {
        let mut connection = pool.acquire().await?;
        list(&mut connection).await?.into_iter().map(|partition| partition.name).collect()
    };
    let missing: Vec<Month> =
        Month::span(from, to).filter(|month| !present.contains(&month.partition_name())).collect();
    for month in &missing {
        make(pool, *month).await?;
        tracing::info!(partition = month.partition_name(), "partition made");
    }
    Ok(missing)
}

/// Makes the partition for one event: what a worker does when Postgres says that there is none, and a backfill for what
/// it brings.
///
/// # Errors
/// [`EnsureError`].
pub async fn ensure_for(pool: &Pool, occurred_at: Micros) -> Result<(), EnsureError> {
    ensure(pool, occurred_at, occurred_at).await.map(|_| ())
}

async fn make(pool: &Pool, month: Month) -> Result<(), EnsureError> {
    let mut attempt = 1;
    loop {
        match create(pool, month).await {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(EnsureError::BeingDropped(month.partition_name())),
            // A lock was not free, a deadlock was resolved against us, or somebody else made it: look again.
            Err(StoreError::Database(error))
                if attempt < ATTEMPTS
                    && matches!(error.code().as_deref(), Some("55P03" | "40P01" | "42P07" | "23505")) =>
            {
                tracing::debug!(partition = month.partition_name(), %error, attempt, "partition not made yet");
                tokio::time::sleep(std::time::Duration::from_millis(u64::from(50 * attempt))).await;
                attempt += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
