//! Versions of boards, on one scale for Postgres and Redis: microseconds of the database's clock, and always more than
//! the one before. Folds carry them to Redis, so that whoever answers, a version never goes back and never comes twice.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::domain::ids::BoardGenerationId;
use crate::store::{Pool, StoreError};

/// Notes that a fold of this entry version changed these boards, each of which it takes so many calls to tell Redis of.
/// The last statement of its transaction: from here to the commit no other fold can change them, so versions grow in
/// the order in which folds become visible. Locks by id.
///
/// A board has the fold's version. If it has a later one already, because another fold that began later was faster or a
/// rebuild was given the clock's, it has as many more as Redis will count: one a call.
///
/// `false`: roll back. One of them was retired after the fold had looked for its periods, and another generation may
/// have been given a version already that is to be later than all of this one's.
pub async fn note(
    transaction: &mut PgConnection,
    boards: &BTreeMap<i32, i64>,
    version: i64,
) -> Result<bool, StoreError> {
    if boards.is_empty() {
        return Ok(true);
    }
    let counted: Vec<bool> = sqlx::query_scalar(
        "INSERT INTO board_versions AS b (generation_id, version)
         SELECT changed.id, $3 FROM unnest($1::integer[]) AS changed (id) ORDER BY changed.id
         ON CONFLICT (generation_id) DO UPDATE
            SET version = greatest(excluded.version,
                                   b.version + ($2::bigint[])[array_position($1, b.generation_id)])
         RETURNING EXISTS (SELECT 1 FROM leaderboard_generations g
                            WHERE g.id = b.generation_id AND g.state <> 'retired')",
    )
    .bind(boards.keys().copied().collect::<Vec<i32>>())
    .bind(boards.values().copied().collect::<Vec<i64>>())
    .bind(version)
    .fetch_all(transaction)
    .await?;
    Ok(counted.into_iter().all(|counts| counts))
}

/// Whether another generation of its leaderboard has been shown under a later version than this one has.
pub async fn is_behind(pool: &Pool, board: BoardGenerationId) -> Result<bool, StoreError> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM leaderboard_generations mine
                          JOIN leaderboard_generations g ON g.leaderboard_id = mine.leaderboard_id AND g.id <> mine.id
                          JOIN board_versions v ON v.generation_id = g.id
                         WHERE mine.id = $1
                           AND v.version >= coalesce((SELECT version FROM board_versions WHERE generation_id = $1), 0))",
    )
    .bind(board.0)
    .fetch_one(pool)
    .await
}

/// Gives a new generation its row, in the transaction that makes it. Without it the first fold would make the row, and
/// wait for the generation (its foreign key) while a swap has that and waits for the fold's periods.
pub async fn begin(transaction: &mut PgConnection, board: BoardGenerationId) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO board_versions (generation_id, version)
         VALUES ($1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)",
    )
    .bind(board.0)
    .execute(transaction)
    .await
    .map(drop)
}

/// Issues the version of a board that is built anew: more than any generation of its leaderboard ever had.
///
/// # Errors
/// [`StoreError`]; a generation that is gone violates a foreign key.
pub async fn issue(pool: &Pool, board: BoardGenerationId) -> Result<i64, StoreError> {
    sqlx::query_scalar(
        "INSERT INTO board_versions AS b (generation_id, version)
         SELECT $1, greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
                             (SELECT max(v.version) + 1 FROM leaderboard_generations mine
                                JOIN leaderboard_generations g ON g.leaderboard_id = mine.leaderboard_id
                                JOIN board_versions v ON v.generation_id = g.id WHERE mine.id = $1))
         ON CONFLICT (generation_id) DO UPDATE SET version = greatest(excluded.version, b.version + 1)
         RETURNING version",
    )
    .bind(board.0)
    .fetch_one(pool)
    .await
}
