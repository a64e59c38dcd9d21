//! Running processes and the connections each may take (docs/rules.md#pools-fit-the-server), and questions about the
//! server itself.

use sqlx::{Executor, Postgres};

use super::StoreError;
use super::rows::from_row;

/// A process is counted while it was seen within this many seconds.
const ALIVE_SECONDS: f64 = 60.0;

/// What the server allows and what the registered processes may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionBudget {
    /// `max_connections` without those reserved for superusers.
    pub allowed: i64,
    /// The sum of `pool_max` over processes that are alive.
    pub claimed: i64,
}

/// Says that this process is alive and may open `pool_max` connections.
pub async fn register<'e>(
    on: impl Executor<'e, Database = Postgres>,
    id: &str,
    role: &str,
    pool_max: u32,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO processes (id, role, pool_max, seen_at) VALUES ($1, $2, $3, clock_timestamp())
         ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, pool_max = excluded.pool_max",
    )
    .bind(id)
    .bind(role)
    .bind(i32::try_from(pool_max).unwrap_or(i32::MAX))
    .execute(on)
    .await?;
    Ok(())
}

/// Signs off, and forgets processes that have not been seen for a day.
pub async fn unregister<'e>(on: impl Executor<'e, Database = Postgres>, id: &str) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM processes WHERE id IN (
             SELECT id FROM processes WHERE id = $1 OR seen_at < clock_timestamp() - interval '1 day'
              ORDER BY id FOR UPDATE SKIP LOCKED)",
    )
    .bind(id)
    .execute(on)
    .await?;
    Ok(())
}

/// Compares what the server allows with what the registered processes may take.
pub async fn connection_budget<'e>(on: impl Executor<'e, Database = Postgres>) -> Result<ConnectionBudget, StoreError> {
    let (allowed, claimed) = sqlx::query_as(
        "SELECT current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint,
                (SELECT coalesce(sum(pool_max), 0)::bigint FROM processes
                  WHERE seen_at > clock_timestamp() - make_interval(secs => $1))",
    )
    .bind(ALIVE_SECONDS)
    .fetch_one(on)
    .await?;
    Ok(ConnectionBudget { allowed, claimed })
}

/// What a server says of itself and of our rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// 150004 for 15.4.
    pub version: i32,
    /// A standby, before it is promoted.
    pub in_recovery: bool,
    /// Transactions that begin now may not write.
    pub read_only: bool,
    /// Rights that were asked for and are not ours, as `INSERT on events`. A table that does not exist is left out.
    pub missing_rights: Vec<String>,
}

from_row!(ServerState { version, in_recovery, read_only, missing_rights });

/// Asks for a sign of life, and whether we may write: `rights` are tables and what is done to them.
pub async fn ask<'e>(
    on: impl Executor<'e, Database = Postgres>,
    rights: &[(&str, &str)],
) -> Result<ServerState, StoreError> {
    sqlx::query_as(
        "SELECT current_setting('server_version_num')::integer AS version,
                pg_is_in_recovery() AS in_recovery,
                current_setting('transaction_read_only')::boolean AS read_only,
                ARRAY(SELECT r.privilege || ' on ' || r.name FROM unnest($1::text[], $2::text[]) AS r (name, privilege)
                       WHERE NOT has_table_privilege(to_regclass(r.name), r.privilege)) AS missing_rights",
    )
    .bind(rights.iter().map(|(table, _)| *table).collect::<Vec<_>>())
    .bind(rights.iter().map(|(_, privilege)| *privilege).collect::<Vec<_>>())
    .fetch_one(on)
    .await
}

/// Whether a commit of this role has waited for a synchronous stand-by for over a second.
pub async fn commits_wait<'e>(on: impl Executor<'e, Database = Postgres>) -> Result<bool, StoreError> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM pg_stat_activity
                         WHERE usename = current_user AND datname = current_database() AND state = 'active'
                           AND wait_event = 'SyncRep' AND clock_timestamp() - query_start > interval '1 second')",
    )
    .fetch_one(on)
    .await
}

/// Whether a process of this role was seen within the last minute.
pub async fn is_running<'e>(on: impl Executor<'e, Database = Postgres>, role: &str) -> Result<bool, StoreError> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM processes WHERE role = $1 AND seen_at > clock_timestamp() - interval '1 minute')",
    )
    .bind(role)
    .fetch_one(on)
    .await
}
