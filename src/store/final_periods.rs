//! Final standings outlive edits. A closed period stays with the generation by whose definition it was counted, and is
//! its leaderboard's for good: a later generation that has the same period, by start and end, makes way for it.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::StoreError;
use super::fold_periods::{Place, columns};
use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;

/// Those of the places whose standings are final for the leaderboard, by whichever of its generations.
pub async fn among(connection: &mut PgConnection, places: &[Place]) -> Result<HashSet<Place>, StoreError> {
    if places.is_empty() {
        return Ok(HashSet::new());
    }
    let (generations, starts, ends) = columns(places);
    let rows: Vec<(i32, Micros, Option<Micros>)> = sqlx::query_as(
        "SELECT w.generation_id, w.starts_at, w.ends_at
           FROM unnest($1::integer[], $2::timestamptz[], $3::timestamptz[]) AS w (generation_id, starts_at, ends_at)
           JOIN leaderboard_generations g ON g.id = w.generation_id
          WHERE EXISTS (SELECT 1 FROM leaderboard_generations owner
                          JOIN leaderboard_periods p ON p.generation_id = owner.id AND p.starts_at = w.starts_at
                           AND p.ends_at = w.ends_at AND p.state = 'closed'
                         WHERE owner.leaderboard_id = g.leaderboard_id)",
    )
    .bind(generations)
    .bind(starts)
    .bind(ends)
    .fetch_all(connection)
    .await?;
    let place = |(generation, starts_at, ends_at)| (BoardGenerationId(generation), Period { starts_at, ends_at });
    Ok(rows.into_iter().map(place).collect())
}

/// The periods of a generation that are final by another one of its leaderboard, locked, with their ids. Who holds the
/// generation's row as well knows that nobody makes another one meanwhile.
pub async fn in_the_way(
    transaction: &mut PgConnection,
    generation: BoardGenerationId,
) -> Result<Vec<(i64, Period)>, StoreError> {
    let rows: Vec<(i64, Micros, Option<Micros>)> = sqlx::query_as(
        "SELECT p.id, p.starts_at, p.ends_at
           FROM leaderboard_periods p JOIN leaderboard_generations g ON g.id = p.generation_id
          WHERE p.generation_id = $1
            AND EXISTS (SELECT 1 FROM leaderboard_generations owner
                          JOIN leaderboard_periods final ON final.generation_id = owner.id
                           AND final.starts_at = p.starts_at AND final.ends_at = p.ends_at AND final.state = 'closed'
                         WHERE owner.leaderboard_id = g.leaderboard_id AND owner.id <> g.id)
          ORDER BY p.id FOR UPDATE OF p",
    )
    .bind(generation.0)
    .fetch_all(transaction)
    .await?;
    Ok(rows.into_iter().map(|(id, starts_at, ends_at)| (id, Period { starts_at, ends_at })).collect())
}

/// Removes some entries of the periods that are in the way, at most `limit`, and returns how many. Only these periods
/// are locked, so that neither the game's writers nor other closings wait for millions of entries.
pub async fn remove_some_entries(
    transaction: &mut PgConnection,
    generation: BoardGenerationId,
    limit: i64,
) -> Result<u64, StoreError> {
    let ids: Vec<i64> = in_the_way(transaction, generation).await?.into_iter().map(|(id, _)| id).collect();
    let removed = sqlx::query(
        "DELETE FROM leaderboard_entries e
          USING (SELECT period_id, player_id FROM leaderboard_entries
                  WHERE period_id = ANY ($1) ORDER BY period_id, player_id LIMIT $2) AS few
          WHERE e.period_id = few.period_id AND e.player_id = few.player_id",
    )
    .bind(ids)
    .bind(limit)
    .execute(transaction)
    .await?;
    Ok(removed.rows_affected())
}

/// Removes periods with what is left of their entries; the caller has locked them.
pub async fn remove(transaction: &mut PgConnection, ids: &[i64]) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM leaderboard_entries WHERE period_id = ANY ($1)",
        "DELETE FROM leaderboard_periods WHERE id = ANY ($1)",
    ] {
        sqlx::query(statement).bind(ids).execute(&mut *transaction).await?;
    }
    Ok(())
}
