//! What one game may have, and how often it may change it: what one game has costs all of them something.

use sqlx::PgConnection;

use crate::domain::game_bounds::GameBounds;
use crate::domain::ids::GameId;
use crate::store::{Pool, StoreError};

/// Why a game may not have more, or not yet. Roll the transaction back.
#[derive(Debug, thiserror::Error)]
pub enum OverBound {
    /// It has as many leaderboards as it may.
    #[error("a game may have at most {0} leaderboards")]
    Leaderboards(u32),
    /// As many of them count one type of event as may.
    #[error("at most {0} leaderboards of a game may count events of one type")]
    OfOneEventType(u32),
    /// Their definitions are as large as they may be together.
    #[error("the definitions of a game's leaderboards may have at most {0} bytes together")]
    DefinitionBytes(u32),
    /// It has as many keys that hold as it may.
    #[error("a game may have at most {0} keys; revoke those that are not used")]
    Keys(u32),
    /// It has changed so much lately that the next change must wait.
    #[error("a game may change its leaderboards and keys at most {per_minute} times a minute")]
    Changes {
        /// Most changes a minute.
        per_minute: u32,
        /// Milliseconds until it may change something again.
        retry_after_ms: u64,
    },
    /// The leaderboard is being computed anew already.
    #[error("this leaderboard is being computed anew already")]
    Recomputing,
    /// [`StoreError`].
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

/// What a game has of leaderboards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    leaderboards: i64,
    of_event_type: i64,
    definition_bytes: i64,
}

/// What a game has; `event_type`: whose leaderboards are counted apart.
pub async fn holdings(connection: &mut PgConnection, game: GameId, event_type: &str) -> Result<Holdings, StoreError> {
    let (leaderboards, of_event_type, definition_bytes) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE spec->>'event_type' = $2),
                coalesce(sum(octet_length(spec::text)), 0)::bigint
           FROM leaderboards WHERE game_id = $1 AND deleted_at IS NULL",
    )
    .bind(game.0)
    .bind(event_type)
    .fetch_one(connection)
    .await?;
    Ok(Holdings { leaderboards, of_event_type, definition_bytes })
}

impl Holdings {
    /// Whether a change from `before` to this is within the bounds. Whoever has more than is allowed now keeps it, but
    /// does not get more.
    ///
    /// # Errors
    /// [`OverBound`].
    pub fn check(&self, before: &Self, bounds: &GameBounds) -> Result<(), OverBound> {
        let over = |now: i64, before: i64, most: u32| now > before && now > i64::from(most);
        if over(self.leaderboards, before.leaderboards, bounds.max_leaderboards) {
            return Err(OverBound::Leaderboards(bounds.max_leaderboards));
        }
        if over(self.of_event_type, before.of_event_type, bounds.max_leaderboards_per_event_type) {
            return Err(OverBound::OfOneEventType(bounds.max_leaderboards_per_event_type));
        }
        if over(self.definition_bytes, before.definition_bytes, bounds.max_definition_bytes) {
            return Err(OverBound::DefinitionBytes(bounds.max_definition_bytes));
        }
        Ok(())
    }
}

/// Whether a game may have one more key.
///
/// # Errors
/// [`OverBound`].
pub async fn check_keys(transaction: &mut PgConnection, game: GameId, bounds: &GameBounds) -> Result<(), OverBound> {
    let locked = "SELECT id FROM games WHERE id = $1 FOR NO KEY UPDATE";
    sqlx::query(locked).bind(game.0).execute(&mut *transaction).await?;
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM api_keys WHERE game_id = $1 AND revoked_at IS NULL")
        .bind(game.0)
        .fetch_one(transaction)
        .await?;
    if keys < i64::from(bounds.max_keys) { Ok(()) } else { Err(OverBound::Keys(bounds.max_keys)) }
}

/// Refuses a second recompute of a leaderboard while one is under way. Holds the game's row to the end of the
/// transaction, as [`super::recompute::begin`] does.
///
/// # Errors
/// [`OverBound`].
pub async fn check_not_recomputing(
    transaction: &mut PgConnection,
    game: GameId,
    leaderboard: i32,
) -> Result<(), OverBound> {
    sqlx::query("SELECT id FROM games WHERE id = $1 FOR UPDATE").bind(game.0).execute(&mut *transaction).await?;
    let building: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM leaderboard_generations WHERE leaderboard_id = $1 AND state = 'building')",
    )
    .bind(leaderboard)
    .fetch_one(transaction)
    .await?;
    if building { Err(OverBound::Recomputing) } else { Ok(()) }
}

/// Whether a game may change something now, without holding anything: whoever asks too often is refused before a lock
/// is taken that others wait for.
///
/// # Errors
/// [`OverBound`].
pub async fn may_change(pool: &Pool, game: GameId, bounds: &GameBounds) -> Result<(), OverBound> {
    if bounds.max_changes_per_minute == 0 {
        return Ok(());
    }
    let wait: Option<f64> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM changes_paid_until - clock_timestamp()) - (60.0 - 60.0 / $2))::float8
           FROM games WHERE id = $1",
    )
    .bind(game.0)
    .bind(f64::from(bounds.max_changes_per_minute))
    .fetch_optional(pool)
    .await?;
    match wait {
        Some(seconds) if seconds > 0.0 && seconds <= LONGEST_WAIT_SECONDS => Err(too_often(bounds, seconds)),
        _ => Ok(()),
    }
}

/// Nobody has paid for longer: a later moment is from before a clock was set back.
const LONGEST_WAIT_SECONDS: f64 = 60.0;

fn too_often(bounds: &GameBounds, seconds: f64) -> OverBound {
    let retry_after_ms = (seconds * 1_000.0).ceil().clamp(1.0, 60_000.0) as u64;
    OverBound::Changes { per_minute: bounds.max_changes_per_minute, retry_after_ms }
}

/// Counts a change. A minute's worth may come at once; after that one at a time, evenly.
///
/// # Errors
/// [`OverBound`].
pub async fn count_change(connection: &mut PgConnection, game: GameId, bounds: &GameBounds) -> Result<(), OverBound> {
    if bounds.max_changes_per_minute == 0 {
        return Ok(());
    }
    let counted = sqlx::query(
        "UPDATE games SET changes_paid_until =
                CASE WHEN changes_paid_until > clock_timestamp() + interval '61 seconds' THEN clock_timestamp()
                     ELSE greatest(changes_paid_until, clock_timestamp()) END + make_interval(secs => 60.0 / $2)
          WHERE id = $1 AND (changes_paid_until <= clock_timestamp() + make_interval(secs => 60.0 - 60.0 / $2)
                             OR changes_paid_until > clock_timestamp() + interval '61 seconds')",
    )
    .bind(game.0)
    .bind(f64::from(bounds.max_changes_per_minute))
    .execute(connection)
    .await?;
    let one_more = 60.0 / f64::from(bounds.max_changes_per_minute);
    if counted.rows_affected() == 1 { Ok(()) } else { Err(too_often(bounds, one_more)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_too_much_already_keeps_it_and_gets_no_more() {
        let bounds = GameBounds { max_leaderboards: 2, max_leaderboards_per_event_type: 2, ..GameBounds::default() };
        let has = |leaderboards, of_event_type| Holdings { leaderboards, of_event_type, definition_bytes: 10 };
        assert!(has(2, 2).check(&has(1, 1), &bounds).is_ok());
        assert!(matches!(has(3, 1).check(&has(2, 1), &bounds), Err(OverBound::Leaderboards(2))));
        assert!(matches!(has(2, 3).check(&has(2, 2), &bounds), Err(OverBound::OfOneEventType(2))));
        assert!(has(9, 9).check(&has(9, 9), &bounds).is_ok() && has(8, 8).check(&has(9, 9), &bounds).is_ok());
    }
}
