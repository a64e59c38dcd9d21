//! Beginning a recompute: a generation in state `building`, which cron fills and swaps in
//! (docs/rules.md#definitions-change-while-workers-run).

use sqlx::PgConnection;

use crate::domain::board::{BoardGeneration, CompiledBoard, GenerationState, LeaderboardSpec, Operator, SpecError};
use crate::domain::clock::Micros;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::domain::period::Schedule;
use crate::store::StoreError;

/// Why no recompute was begun or swapped in. Roll the transaction back.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The specification is unusable.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// No such game or leaderboard.
    #[error("no such game or leaderboard")]
    NotFound,
    /// [`StoreError`].
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

/// Begins a recompute of a leaderboard as it is defined now: a new generation in state `building`, replacing one that
/// is being built. The definition is read under the game's lock, so no edit is undone and nothing deleted comes back.
///
/// Holds the game's row `FOR UPDATE` to the end of the transaction and increments its definitions generation: events
/// stamped before it come through the recompute, later ones through the workers, and none through both.
///
/// # Errors
/// [`ChangeError`]; of a deleted leaderboard [`ChangeError::NotFound`].
pub async fn begin(transaction: &mut PgConnection, leaderboard_id: i32) -> Result<BoardGeneration, ChangeError> {
    let game = lock_game(transaction, leaderboard_id).await?;
    let written: Option<String> =
        sqlx::query_scalar("SELECT spec::text FROM leaderboards WHERE id = $1 AND deleted_at IS NULL FOR UPDATE")
            .bind(leaderboard_id)
            .fetch_optional(&mut *transaction)
            .await?;
    let spec: LeaderboardSpec = serde_json::from_str(&written.ok_or(ChangeError::NotFound)?)
        .map_err(|error| StoreError::Decode(Box::new(error)))?;
    let since_generation: i32 = sqlx::query_scalar(
        "UPDATE games SET definitions_generation = definitions_generation + 1 WHERE id = $1
         RETURNING definitions_generation",
    )
    .bind(game.0)
    .fetch_one(&mut *transaction)
    .await?;
    let retire = "UPDATE leaderboard_generations SET state = 'retired', retired_at = now()
                   WHERE leaderboard_id = $1 AND state = 'building'";
    sqlx::query(retire).bind(leaderboard_id).execute(&mut *transaction).await?;
    let id: i32 = sqlx::query_scalar(
        "INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state)
         SELECT id, $2, spec, 'building' FROM leaderboards WHERE id = $1 RETURNING id",
    )
    .bind(leaderboard_id)
    .bind(since_generation)
    .fetch_one(&mut *transaction)
    .await?;
    let generation = BoardGeneration {
        id: BoardGenerationId(id),
        leaderboard_id,
        game_id: game,
        since_generation,
        state: GenerationState::Building,
        spec,
    };
    // What does not compile must not get in: nobody could count by it.
    CompiledBoard::compile(generation.clone())?;
    super::board_versions::begin(transaction, generation.id).await?;
    super::directory::changed(transaction).await?;
    Ok(generation)
}

/// Whether all that could count in periods of the new specification that are not final is still stored, for a game that
/// existed when something was dropped: those that are open now, and the one by the new schedule that began before the
/// first moment of which all is kept. The baseline stands still until the transaction ends. A month whose baseline is
/// complete is as good as dropped; one that is half in the baseline is read whole ([`starts_from_baseline`]).
///
/// # Errors
/// [`StoreError`]; a schedule that does not compile is told elsewhere, and has no such period.
pub async fn history_is_complete(
    connection: &mut PgConnection,
    leaderboard_id: i32,
    new: &LeaderboardSpec,
) -> Result<bool, StoreError> {
    super::baseline::stand_still(connection).await?;
    let (kept_from, open): (Option<Micros>, bool) = sqlx::query_as(
        "SELECT max(b.range_end),
                coalesce(bool_or(EXISTS (SELECT 1 FROM leaderboard_periods p
                          WHERE p.generation_id = l.live_generation_id AND p.state = 'open'
                            AND b.range_end > p.starts_at)), false)
           FROM leaderboards l
           JOIN games g ON g.id = l.game_id
           JOIN baseline_progress b
             ON b.dropped_at > g.created_at OR b.folded_at > g.created_at
          WHERE l.id = $1",
    )
    .bind(leaderboard_id)
    .fetch_one(&mut *connection)
    .await?;
    let Some(kept_from) = kept_from else { return Ok(true) };
    let Ok(schedule) = Schedule::compile(&new.definition.reset, &new.definition.time_zone) else { return Ok(!open) };
    let cut = schedule.period_at(kept_from);
    if open || cut.starts_at >= kept_from {
        return Ok(!open);
    }
    // What is final stays as it is, whatever is no longer stored of it; one that is over and of which nothing is stored
    // is not computed at all.
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM leaderboard_generations g JOIN leaderboard_periods p ON p.generation_id = g.id
                         WHERE g.leaderboard_id = $1 AND p.starts_at = $2 AND p.ends_at = $3 AND p.state = 'closed')
             OR (coalesce($3 <= now(), false) AND NOT EXISTS (
                   SELECT 1 FROM events e
                    WHERE e.game_id = (SELECT game_id FROM leaderboards WHERE id = $1)
                      AND e.occurred_at >= $4 AND e.occurred_at < $3))",
    )
    .bind(leaderboard_id)
    .bind(cut.starts_at)
    .bind(cut.ends_at)
    .bind(kept_from)
    .fetch_one(connection)
    .await
}

/// Whether what dropped events left in the baseline means the same under the new specification: then a recompute may
/// start from it.
pub fn baseline_survives(old: &LeaderboardSpec, new: &LeaderboardSpec) -> bool {
    let mut definition = old.definition.clone();
    if definition.operator != Operator::Best {
        // Sums and latest values do not depend on which end ranks first.
        definition.order = new.definition.order;
    }
    definition == new.definition && old.server_only == new.server_only
}

/// Whether a recompute begins with what the live generation has in its baseline, and so leaves out what is there
/// already. One that does not reads such events as well, as long as their month is not wholly in the baseline.
pub fn starts_from_baseline(live: Option<&LeaderboardSpec>, new: &LeaderboardSpec) -> bool {
    live.is_some_and(|live| baseline_survives(live, new))
}

/// How far a recompute is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Of which generation.
    pub generation: BoardGenerationId,
    /// `building`, `live` (done) or `retired` (replaced by a later edit).
    pub state: String,
    /// Stored events looked at.
    pub events_scanned: i64,
    /// The planner's estimate of how many there are.
    pub events_total: Option<i64>,
    /// All events were looked at; what remains is folding, publishing and the swap.
    pub scan_finished: bool,
}

/// How far the recompute of a generation is; `None`: no such generation.
pub async fn progress(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
) -> Result<Option<Progress>, StoreError> {
    let row: Option<(String, i64, Option<i64>, bool)> = sqlx::query_as(
        "SELECT state, events_scanned, events_total, scan_finished_at IS NOT NULL
           FROM leaderboard_generations WHERE id = $1",
    )
    .bind(generation.0)
    .fetch_optional(connection)
    .await?;
    let progress = |(state, events_scanned, events_total, scan_finished)| Progress {
        generation,
        state,
        events_scanned,
        events_total,
        scan_finished,
    };
    Ok(row.map(progress))
}

pub(super) async fn lock_game(transaction: &mut PgConnection, leaderboard_id: i32) -> Result<GameId, ChangeError> {
    let game: Option<i32> = sqlx::query_scalar(
        "SELECT g.id FROM games g JOIN leaderboards l ON l.game_id = g.id WHERE l.id = $1 FOR UPDATE OF g",
    )
    .bind(leaderboard_id)
    .fetch_optional(transaction)
    .await?;
    game.map(GameId).ok_or(ChangeError::NotFound)
}
