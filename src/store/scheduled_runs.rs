//! How each scheduled job of cron last ended.

use super::{Pool, StoreError};
use crate::domain::clock::Micros;

/// The last run of a job.
#[derive(Debug, Clone)]
pub struct ScheduledRun {
    /// When it ended, RFC 3339.
    pub ended_at: Micros,
    /// `done`, `failed` or `panicked`.
    pub outcome: String,
    /// What it did, in its own unit.
    pub did: i64,
}

/// Records the end of a run.
pub async fn record(pool: &Pool, job: &str, run: &ScheduledRun) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO scheduled_runs (job, ended_at, outcome, did) VALUES ($1, $2, $3, $4)
         ON CONFLICT (job) DO UPDATE SET ended_at = excluded.ended_at, outcome = excluded.outcome, did = excluded.did",
    )
    .bind(job)
    .bind(run.ended_at)
    .bind(&run.outcome)
    .bind(run.did)
    .execute(pool)
    .await
    .map(drop)
}

/// The last run of a job; `None`: it has not run yet.
pub async fn last(pool: &Pool, job: &str) -> Result<Option<ScheduledRun>, StoreError> {
    let row: Option<(Micros, String, i64)> =
        sqlx::query_as("SELECT ended_at, outcome, did FROM scheduled_runs WHERE job = $1")
            .bind(job)
            .fetch_optional(pool)
            .await?;
    Ok(row.map(|(ended_at, outcome, did)| ScheduledRun { ended_at, outcome, did }))
}
