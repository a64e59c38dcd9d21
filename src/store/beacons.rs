//! Beacons: marks in the history of this database. Redis keeps the last one that it was told of; a database that does not
//! have it has gone back in time.

use sqlx::Error;
use uuid::Uuid;

use crate::store::pool::Pool;

/// A mark in the database's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    /// Grows, and goes back with the database.
    pub sequence: i64,
    /// Never comes twice.
    pub mark: Uuid,
}

/// Writes a new beacon. It is durable when this returns, like every commit. A day of them is kept.
///
/// # Errors
/// Whatever Postgres says.
pub async fn write(pool: &Pool) -> Result<Beacon, Error> {
    let on_this_timeline = sqlx::query_as(
        "WITH old AS (DELETE FROM beacons b USING
                         (SELECT sequence FROM beacons WHERE sequence < (SELECT max(sequence) FROM beacons) - 20000
                           ORDER BY sequence FOR UPDATE SKIP LOCKED) AS o WHERE b.sequence = o.sequence)
         INSERT INTO beacons (mark, timeline)
         VALUES (gen_random_uuid(), left(pg_walfile_name(pg_current_wal_lsn()), 8)) RETURNING sequence, mark",
    );
    let (sequence, mark) = match on_this_timeline.fetch_one(pool).await {
        // A hosted server that does not show its log: there the mark alone has to do.
        Err(Error::Database(_)) => {
            sqlx::query_as(
                "INSERT INTO beacons (mark, timeline) VALUES (gen_random_uuid(), '') RETURNING sequence, mark",
            )
            .fetch_one(pool)
            .await?
        }
        written => written?,
    };
    Ok(Beacon { sequence, mark })
}

/// Whether this database has the beacon and was not promoted since: what was committed before it was written is there.
///
/// # Errors
/// Whatever Postgres says.
pub async fn stands(pool: &Pool, beacon: &Beacon) -> Result<bool, Error> {
    let on_this_timeline = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM beacons WHERE sequence = $1 AND mark = $2
                                                AND timeline IN (left(pg_walfile_name(pg_current_wal_lsn()), 8), ''))",
    );
    match on_this_timeline.bind(beacon.sequence).bind(beacon.mark).fetch_one(pool).await {
        Err(Error::Database(_)) => {
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM beacons WHERE sequence = $1 AND mark = $2)")
                .bind(beacon.sequence)
                .bind(beacon.mark)
                .fetch_one(pool)
                .await
        }
        answered => answered,
    }
}
