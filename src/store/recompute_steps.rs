//! The steps of a recompute that touch the database (`aggregator/recompute.rs` has their order).

use std::collections::HashMap;

use sqlx::{PgConnection, Row};

use super::StoreError;
use super::baseline::read_state;
use super::event_scan::ScanKey;
use super::fold_periods::{Place, columns};
use super::recompute;
use crate::domain::board::{BoardGeneration, GenerationState, LeaderboardSpec};
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::domain::month::Month;
use crate::domain::period::Period;

/// A generation that is being built, and how far it is.
#[derive(Debug, Clone)]
pub struct Building {
    /// What is built.
    pub generation: BoardGeneration,
    /// The generation that players see meanwhile, with what it counts.
    pub live: Option<(BoardGenerationId, LeaderboardSpec)>,
    /// The month that was reached and the last event looked at in it; `None`: not begun.
    pub cursor: Option<(Month, Option<ScanKey>)>,
    /// All events were looked at.
    pub scan_finished: bool,
}

impl Building {
    /// As [`recompute::starts_from_baseline`].
    pub fn starts_from_baseline(&self) -> bool {
        recompute::starts_from_baseline(self.live.as_ref().map(|(_, spec)| spec), &self.generation.spec)
    }
}

/// What is being built, and of which games: asked several times a second, so it reads two small tables
/// and nothing else.
pub async fn waiting(connection: &mut PgConnection) -> Result<Vec<(GameId, BoardGenerationId)>, StoreError> {
    let rows: Vec<(i32, i32)> = sqlx::query_as(
        "SELECT l.game_id, g.id FROM leaderboard_generations g JOIN leaderboards l ON l.id = g.leaderboard_id
          WHERE g.state = 'building' ORDER BY g.id",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(game, id)| (GameId(game), BoardGenerationId(id))).collect())
}

type BuildingRow =
    (i32, i32, i32, String, Option<i32>, Option<String>, Option<String>, Option<uuid::Uuid>, Option<Micros>, bool);

/// Loads a generation that is being built; `None` when it no longer is.
///
/// # Errors
/// [`StoreError`]; a specification that cannot be read is a decode error.
pub async fn load(connection: &mut PgConnection, id: BoardGenerationId) -> Result<Option<Building>, StoreError> {
    let row: Option<BuildingRow> = sqlx::query_as(
        "SELECT g.leaderboard_id, l.game_id, g.since_generation, g.spec::text, l.live_generation_id, live.spec::text,
                g.cursor_partition, g.cursor_event_id, g.cursor_occurred_at, g.scan_finished_at IS NOT NULL
           FROM leaderboard_generations g
           JOIN leaderboards l ON l.id = g.leaderboard_id
           LEFT JOIN leaderboard_generations live ON live.id = l.live_generation_id
          WHERE g.id = $1 AND g.state = 'building'",
    )
    .bind(id.0)
    .fetch_optional(connection)
    .await?;
    let Some((leaderboard_id, game, since_generation, spec, live, live_spec, month, event_id, occurred_at, finished)) =
        row
    else {
        return Ok(None);
    };
    let parse = |text: &str| serde_json::from_str(text).map_err(|error| StoreError::Decode(Box::new(error)));
    let game_id = GameId(game);
    let key = event_id.zip(occurred_at).map(|(event_id, occurred_at)| ScanKey { game_id, event_id, occurred_at });
    let spec = parse(&spec)?;
    Ok(Some(Building {
        generation: BoardGeneration {
            id,
            leaderboard_id,
            game_id,
            since_generation,
            state: GenerationState::Building,
            spec,
        },
        live: live
            .zip(live_spec)
            .map(|(live, text)| parse(&text).map(|spec| (BoardGenerationId(live), spec)))
            .transpose()?,
        cursor: month.and_then(|name| Month::from_partition_name(&name)).map(|month| (month, key)),
        scan_finished: finished,
    }))
}

/// Moves the cursor; `false` when the generation is no longer being built, and the transaction must be rolled back.
pub async fn save_cursor(
    transaction: &mut PgConnection,
    id: BoardGenerationId,
    month: Month,
    key: Option<ScanKey>,
    looked_at: i64,
    total: i64,
) -> Result<bool, StoreError> {
    let saved = sqlx::query(
        "UPDATE leaderboard_generations
            SET cursor_partition = $2, cursor_event_id = $3, cursor_occurred_at = $4,
                events_scanned = events_scanned + $5, events_total = greatest($6, events_scanned + $5)
          WHERE id = $1 AND state = 'building'",
    )
    .bind(id.0)
    .bind(month.partition_name())
    .bind(key.map(|key| key.event_id))
    .bind(key.map(|key| key.occurred_at))
    .bind(looked_at)
    .bind(total)
    .execute(transaction)
    .await?;
    Ok(saved.rows_affected() == 1)
}

/// Records that all events were looked at.
pub async fn finish_scan(connection: &mut PgConnection, id: BoardGenerationId, now: Micros) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE leaderboard_generations
            SET scan_finished_at = coalesce(scan_finished_at, $2), events_total = events_scanned WHERE id = $1",
    )
    .bind(id.0)
    .bind(now)
    .execute(connection)
    .await
    .map(|_| ())
}

/// Waiting rows of facts that any recompute made, and those that do not say whose they are, by their first ids. Asked
/// after a scan's last commit, all that the scan wrote and nobody folded is among them, also by a process that died
/// before.
pub async fn rows_of_recomputes(connection: &mut PgConnection) -> Result<Vec<i64>, StoreError> {
    sqlx::query_scalar(
        "SELECT DISTINCT coalesce(first_id, id) FROM score_facts WHERE (games = '{}' OR games IS NULL) AND shard >= 0",
    )
    .fetch_all(connection)
    .await
}

/// Those of these rows of facts that are not folded, as a whole or in parts. A row that was put aside as unreadable
/// (negative shard) counts as waiting for nobody.
pub async fn not_folded(connection: &mut PgConnection, rows: &[i64]) -> Result<Vec<i64>, StoreError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar(
        "SELECT id FROM score_facts WHERE id = ANY ($1) AND shard >= 0
         UNION
         SELECT first_id FROM score_facts WHERE first_id = ANY ($1) AND shard >= 0",
    )
    .bind(rows)
    .fetch_all(connection)
    .await
}

/// Up to `limit` rows of a generation's baseline behind `after` (start of the period, player), in that order; with
/// the period's end where the row says it (`None`: never).
pub async fn baseline_after(
    transaction: &mut PgConnection,
    generation: BoardGenerationId,
    after: Option<&(Micros, String)>,
    limit: i64,
) -> Result<Vec<BaselineRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT period_start, period_end IS NOT NULL, nullif(period_end, 'infinity'), player_id,
                score, subscore, reached_at, event_id, plays, metadata::text, moved
           FROM entry_baseline
          WHERE generation_id = $1 AND ($2::timestamptz IS NULL OR (period_start, player_id) > ($2, $3))
          ORDER BY period_start, player_id LIMIT $4",
    )
    .bind(generation.0)
    .bind(after.map(|(start, _)| *start))
    .bind(after.map_or("", |(_, player)| player.as_str()))
    .bind(limit)
    .fetch_all(transaction)
    .await?;
    let read = |row: &sqlx::postgres::PgRow| {
        let says_end: bool = row.try_get(1)?;
        let ends_at: Option<Micros> = row.try_get(2)?;
        Ok(BaselineRow {
            starts_at: row.try_get(0)?,
            ends_at: says_end.then_some(ends_at),
            player_id: row.try_get(3)?,
            state: read_state(row, 4)?,
        })
    };
    rows.iter().map(read).collect()
}

/// One row of a generation's baseline.
#[derive(Debug, Clone)]
pub struct BaselineRow {
    /// The period's start.
    pub starts_at: Micros,
    /// Its end; `None`: an earlier program wrote the row and did not say it.
    pub ends_at: Option<Option<Micros>>,
    /// Whose.
    pub player_id: String,
    /// What the dropped events left.
    pub state: EntryState,
}

/// The last row of a generation's baseline: start of the period, player.
pub async fn last_of_baseline(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
) -> Result<Option<(Micros, String)>, StoreError> {
    sqlx::query_as(
        "SELECT period_start, player_id FROM entry_baseline
          WHERE generation_id = $1 ORDER BY period_start DESC, player_id DESC LIMIT 1",
    )
    .bind(generation.0)
    .fetch_optional(connection)
    .await
}

/// Locks open periods of a generation against folds to the end of the transaction and returns their ids.
pub async fn lock_periods(transaction: &mut PgConnection, places: &[Place]) -> Result<HashMap<Place, i64>, StoreError> {
    let (generations, starts, ends) = columns(places);
    let rows: Vec<(i32, Micros, Option<Micros>, i64)> = sqlx::query_as(
        "SELECT p.generation_id, p.starts_at, p.ends_at, p.id
           FROM unnest($1::integer[], $2::timestamptz[], $3::timestamptz[]) AS w (generation_id, starts_at, ends_at)
           JOIN leaderboard_periods p ON p.generation_id = w.generation_id AND p.starts_at = w.starts_at
            AND p.ends_at IS NOT DISTINCT FROM w.ends_at AND p.state = 'open'
          ORDER BY p.id FOR UPDATE OF p",
    )
    .bind(generations)
    .bind(starts)
    .bind(ends)
    .fetch_all(transaction)
    .await?;
    let place =
        |(generation, starts_at, ends_at, id)| ((BoardGenerationId(generation), Period { starts_at, ends_at }), id);
    Ok(rows.into_iter().map(place).collect())
}
