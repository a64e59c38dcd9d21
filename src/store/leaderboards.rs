//! Writing leaderboard definitions (docs/rules.md#definitions-change-while-workers-run).
//!
//! A change of what counts makes a new generation, stamped with the game's definitions generation, which it
//! increments under `FOR UPDATE`: every insert of events that has read the old one has committed by then, and every
//! later one must read the new one. So whatever a `SELECT` sees after taking that lock is all that the recompute will
//! have to read, and where a game has no events at all there is nothing to recompute: the generation is live at once.

use crate::store::{Pool, StoreError};
use sqlx::PgConnection;

use super::audit_log::{Actor, Change, record};
use super::recompute::{self, ChangeError};
use crate::domain::board::{GenerationState, LeaderboardSpec, SpecError};
use crate::domain::clock::Micros;
use crate::domain::ids::{BoardGenerationId, GameId};

/// A leaderboard as stored, with its newest generation.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredLeaderboard {
    /// `leaderboards.id`.
    pub id: i32,
    /// As last written.
    pub spec: LeaderboardSpec,
    /// What players see.
    pub live: Option<BoardGenerationId>,
    /// The generation that is being computed.
    pub building: Option<Building>,
    /// When it was created.
    pub created_at: Micros,
    /// When it was last written.
    pub updated_at: Micros,
}

/// How far the recompute of a generation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Building {
    /// `leaderboard_generations.id`.
    pub generation: BoardGenerationId,
    /// Stored events read so far.
    pub events_scanned: i64,
    /// Stored events to read, once counted.
    pub events_total: Option<i64>,
}

/// What writing a leaderboard did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// It is new.
    Created,
    /// What counts has changed: a new generation replaces the old one when it is computed.
    Recomputing,
    /// Only how it is shown has changed.
    Shown,
    /// It was exactly so already.
    Unchanged,
}

/// Why a leaderboard was not written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// No such game.
    #[error("there is no such game")]
    NoGame,
    /// Retention has dropped events that open periods count, and what remains of them does not fit the edit.
    #[error("events that count in this leaderboard's open periods are no longer stored, so the edit would lose them")]
    HistoryIncomplete,
    /// The specification does not compile; what [`crate::domain::board_text`] read does.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// [`StoreError`].
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

impl From<ChangeError> for ApplyError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Spec(error) => Self::Spec(error),
            ChangeError::NotFound => Self::NoGame,
            ChangeError::Postgres(error) => Self::Postgres(error),
        }
    }
}

struct Existing {
    id: i32,
    written: LeaderboardSpec,
    live: Option<(i32, LeaderboardSpec)>,
}

/// Creates or edits a leaderboard whose specification has been checked (it compiles). `accept_incomplete_history`:
/// count from the kept events only, where older ones were dropped by retention.
///
/// # Errors
/// [`ApplyError`]; the transaction must then be rolled back.
pub async fn apply(
    transaction: &mut PgConnection,
    game: GameId,
    spec: &LeaderboardSpec,
    accept_incomplete_history: bool,
    actor: Actor,
) -> Result<Applied, ApplyError> {
    let locked: Option<i32> = sqlx::query_scalar("SELECT id FROM games WHERE id = $1 FOR UPDATE")
        .bind(game.0)
        .fetch_optional(&mut *transaction)
        .await?;
    locked.ok_or(ApplyError::NoGame)?;
    let existing = existing(transaction, game, spec).await?;
    let applied = match &existing {
        None => Applied::Created,
        Some(e) if e.written == *spec => Applied::Unchanged,
        Some(e) if counts_alike(&e.written, spec) => Applied::Shown,
        Some(_) => Applied::Recomputing,
    };
    if applied == Applied::Unchanged {
        return Ok(applied);
    }
    let id = match &existing {
        None => insert(transaction, game, spec).await?,
        Some(e) => {
            update(transaction, e.id, spec).await?;
            e.id
        }
    };
    if matches!(applied, Applied::Created | Applied::Recomputing) {
        let accept = accept_incomplete_history || applied == Applied::Created;
        new_generation(transaction, game, id, existing.as_ref(), spec, accept).await?;
    }
    let action = if existing.is_none() { "leaderboard.create" } else { "leaderboard.edit" };
    let detail = serde_json::json!({ "result": applied, "spec": spec });
    record(transaction, &Change { actor, action, game: Some(game), subject: spec.slug.as_str(), detail }).await?;
    super::directory::changed(transaction).await?;
    Ok(applied)
}

/// Whether two specifications give the same entries: they differ at most in how the leaderboard is shown.
fn counts_alike(a: &LeaderboardSpec, b: &LeaderboardSpec) -> bool {
    a.definition == b.definition && a.server_only == b.server_only
}

async fn existing(
    transaction: &mut PgConnection,
    game: GameId,
    spec: &LeaderboardSpec,
) -> Result<Option<Existing>, StoreError> {
    let rows: Vec<(i32, String, Option<i32>, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT l.id, l.spec::text, b.id, b.state, b.spec::text
           FROM leaderboards l
           LEFT JOIN leaderboard_generations b ON b.leaderboard_id = l.id AND b.state <> 'retired'
          WHERE l.game_id = $1 AND l.slug = $2 AND l.deleted_at IS NULL
          FOR UPDATE OF l",
    )
    .bind(game.0)
    .bind(spec.slug.as_str())
    .fetch_all(transaction)
    .await?;
    let decode = |text: &str| serde_json::from_str(text).map_err(|e| StoreError::Decode(Box::new(e)));
    let mut found: Option<Existing> = None;
    for (id, written, generation, state, generation_spec) in rows {
        if found.is_none() {
            found = Some(Existing { id, written: decode(&written)?, live: None });
        }
        if let (Some(existing), Some(generation), Some(text)) = (&mut found, generation, generation_spec)
            && state.as_deref() == Some("live")
        {
            existing.live = Some((generation, decode(&text)?));
        }
    }
    Ok(found)
}

async fn insert(transaction: &mut PgConnection, game: GameId, spec: &LeaderboardSpec) -> Result<i32, StoreError> {
    sqlx::query_scalar("INSERT INTO leaderboards (game_id, slug, spec) VALUES ($1, $2, $3::text::jsonb) RETURNING id")
        .bind(game.0)
        .bind(spec.slug.as_str())
        .bind(text_of(spec)?)
        .fetch_one(transaction)
        .await
}

async fn update(transaction: &mut PgConnection, id: i32, spec: &LeaderboardSpec) -> Result<(), StoreError> {
    sqlx::query("UPDATE leaderboards SET spec = $2::text::jsonb, updated_at = now() WHERE id = $1")
        .bind(id)
        .bind(text_of(spec)?)
        .execute(transaction)
        .await
        .map(drop)
}

fn text_of(spec: &LeaderboardSpec) -> Result<String, StoreError> {
    serde_json::to_string(spec).map_err(|e| StoreError::Encode(Box::new(e)))
}

/// Begins a recompute, or replaces what is live where there is nothing to compute.
async fn new_generation(
    transaction: &mut PgConnection,
    game: GameId,
    leaderboard: i32,
    existing: Option<&Existing>,
    spec: &LeaderboardSpec,
    accept_incomplete_history: bool,
) -> Result<(), ApplyError> {
    // Back to what is live: the edit under way is called off, and nothing needs computing.
    if existing.and_then(|e| e.live.as_ref()).is_some_and(|(_, live)| counts_alike(live, spec)) {
        increment_definitions(transaction, game).await?;
        retire(transaction, leaderboard, "building").await?;
        return Ok(());
    }
    if let (Some(existing), false) = (existing, accept_incomplete_history) {
        let old = existing.live.as_ref().map_or(&existing.written, |(_, live)| live);
        if !recompute::baseline_survives(old, spec)
            && !recompute::history_is_complete(transaction, leaderboard, spec).await?
        {
            return Err(ApplyError::HistoryIncomplete);
        }
    }
    if has_history(transaction, game, leaderboard).await? {
        // The definition was written above.
        recompute::begin(transaction, leaderboard).await?;
        return Ok(());
    }
    // Final standings stay where they are, as at a swap; nothing else has anything.
    let since_generation = increment_definitions(transaction, game).await?;
    retire(transaction, leaderboard, "building").await?;
    retire(transaction, leaderboard, "live").await?;
    let made: i32 = sqlx::query_scalar(
        "WITH made AS (INSERT INTO leaderboard_generations
                              (leaderboard_id, since_generation, spec, state, live_at, scan_finished_at, events_total)
                       VALUES ($1, $2, $3::text::jsonb, 'live', now(), now(), 0) RETURNING id)
         UPDATE leaderboards SET live_generation_id = made.id FROM made WHERE leaderboards.id = $1 RETURNING made.id",
    )
    .bind(leaderboard)
    .bind(since_generation)
    .bind(text_of(spec)?)
    .fetch_one(&mut *transaction)
    .await?;
    super::board_versions::begin(transaction, BoardGenerationId(made)).await?;
    Ok(())
}

/// Whether there is anything to compute from: stored events, or what the baseline keeps of dropped ones.
async fn has_history(transaction: &mut PgConnection, game: GameId, leaderboard: i32) -> Result<bool, StoreError> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM events WHERE game_id = $1)
             OR EXISTS (SELECT 1 FROM entry_baseline b JOIN leaderboard_generations g ON g.id = b.generation_id
                         WHERE g.leaderboard_id = $2)",
    )
    .bind(game.0)
    .bind(leaderboard)
    .fetch_one(transaction)
    .await
}

async fn increment_definitions(transaction: &mut PgConnection, game: GameId) -> Result<i32, StoreError> {
    sqlx::query_scalar(
        "UPDATE games SET definitions_generation = definitions_generation + 1 WHERE id = $1
         RETURNING definitions_generation",
    )
    .bind(game.0)
    .fetch_one(transaction)
    .await
}

async fn retire(transaction: &mut PgConnection, leaderboard: i32, state: &str) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE leaderboard_generations SET state = 'retired', retired_at = now()
          WHERE leaderboard_id = $1 AND state = $2",
    )
    .bind(leaderboard)
    .bind(state)
    .execute(transaction)
    .await
    .map(drop)
}

/// All leaderboards of a game, by name.
pub async fn list(pool: &Pool, game: GameId) -> Result<Vec<StoredLeaderboard>, StoreError> {
    type Row = (i32, String, Option<i32>, Micros, Micros, Option<i32>, Option<i64>, Option<i64>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT l.id, l.spec::text, l.live_generation_id, l.created_at, l.updated_at,
                b.id, b.events_scanned, b.events_total
           FROM leaderboards l
           LEFT JOIN leaderboard_generations b ON b.leaderboard_id = l.id AND b.state = 'building'
          WHERE l.game_id = $1 AND l.deleted_at IS NULL
          ORDER BY l.slug, b.id",
    )
    .bind(game.0)
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|(id, spec, live, created_at, updated_at, building, scanned, total)| {
            Ok(StoredLeaderboard {
                id,
                spec: serde_json::from_str(&spec).map_err(|e| StoreError::Decode(Box::new(e)))?,
                live: live.map(BoardGenerationId),
                building: building.map(|id| Building {
                    generation: BoardGenerationId(id),
                    events_scanned: scanned.unwrap_or_default(),
                    events_total: total,
                }),
                created_at,
                updated_at,
            })
        })
        .collect()
}

/// Removes a leaderboard: it is gone for readers at once, its rows and keys are removed by cron. Says whether there
/// was one.
pub async fn delete(
    transaction: &mut PgConnection,
    game: GameId,
    slug: &str,
    actor: Actor,
) -> Result<bool, StoreError> {
    // Incremented like an edit, so that no insert goes on making facts for it.
    increment_definitions(transaction, game).await?;
    let id: Option<i32> = sqlx::query_scalar(
        "UPDATE leaderboards SET deleted_at = now(), live_generation_id = NULL, updated_at = now()
          WHERE game_id = $1 AND slug = $2 AND deleted_at IS NULL RETURNING id",
    )
    .bind(game.0)
    .bind(slug)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(id) = id else { return Ok(false) };
    retire(transaction, id, "building").await?;
    retire(transaction, id, "live").await?;
    let detail = serde_json::json!({ "leaderboard_id": id });
    let change = Change { actor, action: "leaderboard.delete", game: Some(game), subject: slug, detail };
    record(transaction, &change).await?;
    super::directory::changed(transaction).await?;
    Ok(true)
}

impl StoredLeaderboard {
    /// Where its newest definition stands: `live`, or `building`.
    pub fn state(&self) -> GenerationState {
        if self.building.is_some() { GenerationState::Building } else { GenerationState::Live }
    }
}
