//! Beacons: marks in the history of this database. Redis keeps the last one that it was told of; a database that does
//! not have it has gone back in time.

use uuid::Uuid;

use crate::domain::ids::BoardGenerationId;
use crate::store::failure::is_not_shown;
use crate::store::{Pool, StoreError};

/// A mark in the database's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    /// Grows, and goes back with the database.
    pub sequence: i64,
    /// Never comes twice.
    pub mark: Uuid,
}

/// Writes a new beacon. It is durable when this returns, like every commit.
pub async fn write(pool: &Pool) -> Result<Beacon, StoreError> {
    let on_this_timeline = sqlx::query_as(
        "INSERT INTO beacons (mark, timeline)
         VALUES (gen_random_uuid(), left(pg_walfile_name(pg_current_wal_lsn()), 8)) RETURNING sequence, mark",
    );
    let (sequence, mark) = match on_this_timeline.fetch_one(pool).await {
        // A hosted server that does not show its log: there the mark alone has to do. Not where it fails otherwise: a
        // stand-by that is just being promoted cannot say its timeline, and would pass for the server that it follows.
        Err(error) if is_not_shown(&error) => {
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

/// Writes a new beacon if this one stands, as [`write`] and [`stands`]. One statement, so that both are of one server:
/// asked just before a replica takes over, it would stand, and the new one would cover up what the replica lacks.
/// `None`: it does not stand. The last 20,000 are kept: a day's, or those of
/// some hours in which boards were rebuilt all the time.
pub async fn write_after(pool: &Pool, known: &Beacon) -> Result<Option<Beacon>, StoreError> {
    let on_this_timeline = sqlx::query_as(
        "WITH old AS (DELETE FROM beacons b USING
                         (SELECT sequence FROM beacons WHERE sequence < (SELECT max(sequence) FROM beacons) - 20000
                           ORDER BY sequence FOR UPDATE SKIP LOCKED) AS o WHERE b.sequence = o.sequence)
         INSERT INTO beacons (mark, timeline)
         SELECT gen_random_uuid(), left(pg_walfile_name(pg_current_wal_lsn()), 8)
          WHERE EXISTS (SELECT 1 FROM beacons WHERE sequence = $1 AND mark = $2
                                                AND timeline IN (left(pg_walfile_name(pg_current_wal_lsn()), 8), ''))
         RETURNING sequence, mark",
    );
    let written: Option<(i64, Uuid)> =
        match on_this_timeline.bind(known.sequence).bind(known.mark).fetch_optional(pool).await {
            Err(error) if is_not_shown(&error) => {
                sqlx::query_as(
                    "WITH old AS (DELETE FROM beacons b USING
                                     (SELECT sequence FROM beacons
                                       WHERE sequence < (SELECT max(sequence) FROM beacons) - 20000
                                       ORDER BY sequence FOR UPDATE SKIP LOCKED) AS o WHERE b.sequence = o.sequence)
                     INSERT INTO beacons (mark, timeline) SELECT gen_random_uuid(), ''
                      WHERE EXISTS (SELECT 1 FROM beacons WHERE sequence = $1 AND mark = $2) RETURNING sequence, mark",
                )
                .bind(known.sequence)
                .bind(known.mark)
                .fetch_optional(pool)
                .await?
            }
            written => written?,
        };
    Ok(written.map(|(sequence, mark)| Beacon { sequence, mark }))
}

/// Whether this database has the beacon and was not promoted since: what was committed before it was written is there.
///
/// # Errors
/// [`StoreError`]. A replica that has not taken over yet cannot answer.
pub async fn stands(pool: &Pool, beacon: &Beacon) -> Result<bool, StoreError> {
    let on_this_timeline = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM beacons WHERE sequence = $1 AND mark = $2
                                                AND timeline IN (left(pg_walfile_name(pg_current_wal_lsn()), 8), ''))",
    );
    match on_this_timeline.bind(beacon.sequence).bind(beacon.mark).fetch_one(pool).await {
        Err(error) if is_not_shown(&error) => {
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM beacons WHERE sequence = $1 AND mark = $2)")
                .bind(beacon.sequence)
                .bind(beacon.mark)
                .fetch_one(pool)
                .await
        }
        answered => answered,
    }
}

/// Whether a board is one of a history that was lost: this database has the beacon, as [`stands`] says, and does not
/// know the board. One statement, so that both are of one server: a connection of before may lead to one that was left
/// behind, which does not know the newest boards.
///
/// # Errors
/// As [`stands`].
pub async fn is_lost(pool: &Pool, generation: BoardGenerationId, beacon: &Beacon) -> Result<bool, StoreError> {
    let on_this_timeline = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM beacons WHERE sequence = $1 AND mark = $2
                                                AND timeline IN (left(pg_walfile_name(pg_current_wal_lsn()), 8), ''))
                AND NOT EXISTS (SELECT 1 FROM leaderboard_generations WHERE id = $3)",
    );
    match on_this_timeline.bind(beacon.sequence).bind(beacon.mark).bind(generation.0).fetch_one(pool).await {
        Err(error) if is_not_shown(&error) => {
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM beacons WHERE sequence = $1 AND mark = $2)
                        AND NOT EXISTS (SELECT 1 FROM leaderboard_generations WHERE id = $3)",
            )
            .bind(beacon.sequence)
            .bind(beacon.mark)
            .bind(generation.0)
            .fetch_one(pool)
            .await
        }
        answered => answered,
    }
}

/// How many ids of each kind are left out after the database went back: more than it can have lost.
const LEFT_OUT: i64 = 100_000;

/// Leaves ids out that this database may have given in the future that it lost. Redis may still know what they named:
/// jobs and receipts name games and keys by number, boards their generation. Doing it twice leaves out more.
pub async fn leave_out_lost_ids(pool: &Pool) -> Result<(), StoreError> {
    // Not near the end of what an integer holds: ids that run out would be worse than one that comes twice.
    sqlx::query(
        "SELECT (SELECT setval('games_id_seq', last_value + $1) FROM games_id_seq WHERE last_value < 2000000000),
                (SELECT setval('api_keys_id_seq', last_value + $1) FROM api_keys_id_seq WHERE last_value < 2000000000),
                (SELECT setval('leaderboards_id_seq', last_value + $1)
                   FROM leaderboards_id_seq WHERE last_value < 2000000000),
                (SELECT setval('leaderboard_generations_id_seq', last_value + $1)
                   FROM leaderboard_generations_id_seq WHERE last_value < 2000000000)",
    )
    .bind(LEFT_OUT)
    .execute(pool)
    .await?;
    Ok(())
}
