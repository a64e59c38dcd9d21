//! Making a generation the one that players see.
//!
//! Rows are locked in one order: the game, its leaderboard's generations by id, periods by id. Freezing a period holds
//! its generation, so none of a generation that is no longer live is frozen; making a period holds its generation as
//! well, so whoever holds it alone sees all there are. A period that is frozen and not ranked yet stays with its
//! generation and is ranked there: nobody waits for that here.

use sqlx::PgConnection;

use super::final_periods;
use super::recompute::{ChangeError, lock_game};
use crate::domain::board::BoardGeneration;
use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::store::{Pool, StoreError};

/// How an attempt to swap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// Commit: it is live.
    Done,
    /// Roll back, and make way first ([`make_way`]): a period of it was closed by the definition that players see.
    InTheWay,
    /// Roll back: a later edit has replaced it, or the leaderboard is deleted.
    Superseded,
}

/// Locks the game and the leaderboard's generations; whether this one is still being built.
async fn lock_building(transaction: &mut PgConnection, building: &BoardGeneration) -> Result<bool, ChangeError> {
    lock_game(transaction, building.leaderboard_id).await?;
    let locked: Vec<(i32, String)> = sqlx::query_as(
        "SELECT id, state FROM leaderboard_generations
          WHERE leaderboard_id = $1 AND state <> 'retired' ORDER BY id FOR UPDATE",
    )
    .bind(building.leaderboard_id)
    .fetch_all(transaction)
    .await?;
    Ok(locked.iter().any(|(id, state)| *id == building.id.0 && state == "building"))
}

/// Makes a generation the one that players see. Closed periods stay with the generations that counted them: final
/// standings outlive edits.
///
/// # Errors
/// [`ChangeError`].
pub async fn swap(
    transaction: &mut PgConnection,
    building: &BoardGeneration,
    now: Micros,
) -> Result<Swap, ChangeError> {
    if !lock_building(transaction, building).await? {
        return Ok(Swap::Superseded);
    }
    if !final_periods::in_the_way(transaction, building.id).await?.is_empty() {
        return Ok(Swap::InTheWay);
    }
    let (id, leaderboard) = (building.id.0, building.leaderboard_id);
    sqlx::query(
        "UPDATE leaderboard_generations SET state = 'retired', retired_at = now()
          WHERE leaderboard_id = $1 AND state = 'live'",
    )
    .bind(leaderboard)
    .execute(&mut *transaction)
    .await?;
    sqlx::query("UPDATE leaderboard_generations SET state = 'live', live_at = $2 WHERE id = $1")
        .bind(id)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
    sqlx::query("UPDATE leaderboards SET live_generation_id = $2, updated_at = $3 WHERE id = $1")
        .bind(leaderboard)
        .bind(id)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
    // Workers reload: facts for the retired generation would go nowhere.
    sqlx::query("UPDATE games SET definitions_generation = definitions_generation + 1 WHERE id = $1")
        .bind(building.game_id.0)
        .execute(&mut *transaction)
        .await?;
    super::directory::changed(transaction).await?;
    Ok(Swap::Done)
}

/// Waits until the folds have ended that count in a generation which is retired since: their entries had their version
/// before. Folds that lock a period of it later note no version (`board_versions::note`). A statement of its own: it
/// holds neither game nor generation.
pub async fn let_folds_end(pool: &Pool, retired: BoardGenerationId) -> Result<(), StoreError> {
    sqlx::query(
        "SELECT count(*) FROM (SELECT 1 FROM leaderboard_periods WHERE generation_id = $1 AND state = 'open'
                                ORDER BY id FOR NO KEY UPDATE) AS locked",
    )
    .bind(retired.0)
    .execute(pool)
    .await
    .map(drop)
}

/// Removes periods of a generation that is being built whose standings became final by another one meanwhile, with what
/// was counted for them, and returns them. Nobody makes them again.
///
/// # Errors
/// [`ChangeError`].
pub async fn make_way(transaction: &mut PgConnection, building: &BoardGeneration) -> Result<Vec<Period>, ChangeError> {
    if !lock_building(transaction, building).await? {
        return Ok(Vec::new());
    }
    let found = final_periods::in_the_way(transaction, building.id).await?;
    let (ids, periods): (Vec<i64>, Vec<Period>) = found.into_iter().unzip();
    final_periods::remove(transaction, &ids).await?;
    Ok(periods)
}
