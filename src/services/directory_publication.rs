//! Publishing the directory: from Postgres to Redis, where ingest and api follow it ([`crate::directory`]).

use crate::directory::publication::{self, DirectoryError};
use crate::redis_connection::Connection;
use crate::store::{Pool, StoreError, directory as stored};

/// Why the directory was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    /// Redis did not answer, or not as expected.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Postgres did not answer.
    #[error("reading the directory from Postgres: {0}")]
    Postgres(#[from] StoreError),
}

/// Makes Redis hold what Postgres has, if it does not already; says whether it wrote. Called after each change, and
/// by cron each second (a lost publication, a flushed Redis).
///
/// # Errors
/// [`PublicationError`]; the next call repairs.
pub async fn publish_if_stale(pool: &Pool, redis: &mut Connection, prefix: &str) -> Result<bool, PublicationError> {
    // Redis first: what is stored there when Postgres is read afterwards cannot be newer than Postgres.
    let seen = publication::published(redis, prefix).await?;
    let (version, mark) = stored::version(pool).await?;
    if seen.is(version, &mark) {
        return Ok(false);
    }
    let snapshot = stored::snapshot(pool).await?;
    Ok(publication::replace(redis, prefix, &seen, &snapshot).await?)
}
