//! The steps of a recompute that touch the database (`aggregator/recompute.rs` has their order).

use std::collections::HashSet;

use sqlx::{PgConnection, Row};

use super::baseline::{EntryKey, read_state};
use super::event_scan::ScanKey;
use super::recompute::{ChangeError, lock_game};
use crate::domain::board::{BoardGeneration, GenerationState, LeaderboardSpec};
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::domain::month::Month;

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

/// Whether anything is being built: asked several times a second, so it reads one small table and nothing else.
///
/// # Errors
/// Whatever Postgres says.
pub async fn waiting(connection: &mut PgConnection) -> Result<Vec<BoardGenerationId>, sqlx::Error> {
    let ids: Vec<i32> =
        sqlx::query_scalar("SELECT id FROM leaderboard_generations WHERE state = 'building' ORDER BY id")
            .fetch_all(connection)
            .await?;
    Ok(ids.into_iter().map(BoardGenerationId).collect())
}

type BuildingRow =
    (i32, i32, i32, String, Option<i32>, Option<String>, Option<String>, Option<uuid::Uuid>, Option<Micros>, bool);

/// Loads a generation that is being built; `None` when it no longer is.
///
/// # Errors
/// Whatever Postgres says; a specification that cannot be read is a decode error.
pub async fn load(connection: &mut PgConnection, id: BoardGenerationId) -> Result<Option<Building>, sqlx::Error> {
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
    let parse = |text: &str| serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)));
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
///
/// # Errors
/// Whatever Postgres says.
pub async fn save_cursor(
    transaction: &mut PgConnection,
    id: BoardGenerationId,
    month: Month,
    key: Option<ScanKey>,
    looked_at: i64,
    total: i64,
) -> Result<bool, sqlx::Error> {
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
///
/// # Errors
/// Whatever Postgres says.
pub async fn finish_scan(connection: &mut PgConnection, id: BoardGenerationId, now: Micros) -> Result<(), sqlx::Error> {
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

/// The highest id of a waiting row of facts. Taken after the scan's last commit it is at or above every row that the
/// scan wrote and that is not folded yet, also the rows of a process that died before: all are committed.
///
/// # Errors
/// Whatever Postgres says.
pub async fn fact_watermark(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM score_facts").fetch_one(connection).await
}

/// Whether every row of facts up to `watermark` is folded. A row that was put aside as unreadable (negative shard)
/// counts as waiting for nobody.
///
/// # Errors
/// Whatever Postgres says.
pub async fn is_folded(connection: &mut PgConnection, watermark: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT (SELECT id FROM score_facts WHERE id <= $1 AND shard >= 0 ORDER BY id LIMIT 1) IS NULL")
        .bind(watermark)
        .fetch_one(connection)
        .await
}

/// Copies up to `limit` rows of the live generation's baseline that the new generation lacks, of periods that are not
/// frozen, and returns them: the caller merges them into the entries in the same transaction.
///
/// # Errors
/// Whatever Postgres says.
pub async fn copy_baseline(
    transaction: &mut PgConnection,
    from: BoardGenerationId,
    to: BoardGenerationId,
    limit: i64,
) -> Result<Vec<(EntryKey, EntryState)>, sqlx::Error> {
    let rows = sqlx::query(
        "INSERT INTO entry_baseline
             (generation_id, period_start, player_id, score, subscore, reached_at, event_id, plays, metadata, moved)
         SELECT $2, o.period_start, o.player_id, o.score, o.subscore, o.reached_at, o.event_id, o.plays, o.metadata,
                o.moved
           FROM entry_baseline o
          WHERE o.generation_id = $1
            AND (o.period_start, o.player_id) > (
                SELECT coalesce(max(period_start), '-infinity'),
                       coalesce((SELECT max(n.player_id) FROM entry_baseline n
                                  WHERE n.generation_id = $2 AND n.period_start = max(d.period_start)), '')
                  FROM entry_baseline d WHERE d.generation_id = $2)
            AND NOT EXISTS (SELECT 1 FROM leaderboard_periods p
                             WHERE p.generation_id = $1 AND p.starts_at = o.period_start AND p.state = 'closed')
          ORDER BY o.period_start, o.player_id LIMIT $3
         RETURNING period_start, player_id, score, subscore, reached_at, event_id, plays, metadata::text,
                   moved",
    )
    .bind(from.0)
    .bind(to.0)
    .bind(limit)
    .fetch_all(transaction)
    .await?;
    rows.iter().map(|row| Ok(((to, row.try_get(0)?, row.try_get(1)?), read_state(row, 2)?))).collect()
}

/// Locks a period against folds to the end of the transaction and returns its id.
///
/// # Errors
/// Whatever Postgres says.
pub async fn lock_period(
    transaction: &mut PgConnection,
    generation: BoardGenerationId,
    starts_at: Micros,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT id FROM leaderboard_periods WHERE generation_id = $1 AND starts_at = $2 AND state = 'open' FOR UPDATE",
    )
    .bind(generation.0)
    .bind(starts_at)
    .fetch_optional(transaction)
    .await
}

/// The starts of a generation's closed periods: what a recompute does not touch.
///
/// # Errors
/// Whatever Postgres says.
pub async fn frozen_starts(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
) -> Result<HashSet<Micros>, sqlx::Error> {
    let starts: Vec<Micros> =
        sqlx::query_scalar("SELECT starts_at FROM leaderboard_periods WHERE generation_id = $1 AND state = 'closed'")
            .bind(generation.0)
            .fetch_all(connection)
            .await?;
    Ok(starts.into_iter().collect())
}

/// How an attempt to swap ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// Commit: it is live. The old generation, and the starts of the closed periods that were handed over.
    Done(Option<BoardGenerationId>, Vec<Micros>),
    /// Roll back and try again: a period of the old generation is being closed.
    Closing,
    /// Roll back: a later edit has replaced it.
    Superseded,
}

/// Makes a generation the one that players see. Closed periods of the old one become its own: frozen standings
/// outlive edits.
///
/// # Errors
/// [`ChangeError`].
pub async fn swap(
    transaction: &mut PgConnection,
    building: &BoardGeneration,
    now: Micros,
) -> Result<Swap, ChangeError> {
    let game = lock_game(transaction, building.leaderboard_id).await?;
    let (id, leaderboard) = (building.id.0, building.leaderboard_id);
    let is_building: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM leaderboard_generations WHERE id = $1 AND state = 'building')",
    )
    .bind(id)
    .fetch_one(&mut *transaction)
    .await?;
    if !is_building {
        return Ok(Swap::Superseded);
    }
    let old: Option<i32> = sqlx::query_scalar("SELECT live_generation_id FROM leaderboards WHERE id = $1")
        .bind(leaderboard)
        .fetch_one(&mut *transaction)
        .await?;
    let Some(closed) = hand_over_closed(transaction, old, id, now).await? else { return Ok(Swap::Closing) };
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
        .bind(game.0)
        .execute(&mut *transaction)
        .await?;
    super::directory::changed(transaction).await?;
    Ok(Swap::Done(old.map(BoardGenerationId), closed))
}

/// `None`: one is being closed right now.
async fn hand_over_closed(
    transaction: &mut PgConnection,
    old: Option<i32>,
    new: i32,
    now: Micros,
) -> Result<Option<Vec<Micros>>, sqlx::Error> {
    let Some(old) = old else { return Ok(Some(Vec::new())) };
    // Locks every period of the old one: none is frozen from here on.
    let closed: Vec<(Micros, bool)> = sqlx::query_as(
        "WITH locked AS (SELECT starts_at, state, closed_at FROM leaderboard_periods
                          WHERE generation_id = $1 ORDER BY id FOR UPDATE)
         SELECT starts_at, closed_at IS NOT NULL FROM locked WHERE state = 'closed' ORDER BY starts_at",
    )
    .bind(old)
    .fetch_all(&mut *transaction)
    .await?;
    if closed.iter().any(|(_, complete)| !complete) {
        return Ok(None);
    }
    let starts: Vec<Micros> = closed.into_iter().map(|(start, _)| start).collect();
    // Whatever was counted for a frozen period gives way; mostly nothing, because a recompute leaves those out. The
    // lock waits for folds in flight, which would otherwise leave entries without a period.
    for statement in [
        "SELECT 1 FROM leaderboard_periods WHERE generation_id = $1 AND starts_at = ANY ($2) ORDER BY id FOR UPDATE",
        "DELETE FROM leaderboard_entries e USING leaderboard_periods p
          WHERE p.generation_id = $1 AND p.starts_at = ANY ($2) AND e.period_id = p.id",
        "DELETE FROM leaderboard_periods WHERE generation_id = $1 AND starts_at = ANY ($2)",
    ] {
        sqlx::query(statement).bind(new).bind(&starts).execute(&mut *transaction).await?;
    }
    // Postgres answers for them: the keys in Redis are the old generation's.
    sqlx::query(
        "UPDATE leaderboard_periods SET generation_id = $2, unpublished_at = coalesce(unpublished_at, $3)
          WHERE generation_id = $1 AND state = 'closed'",
    )
    .bind(old)
    .bind(new)
    .bind(now)
    .execute(transaction)
    .await?;
    Ok(Some(starts))
}
