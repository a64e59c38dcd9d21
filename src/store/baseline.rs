//! The baseline: what dropped events have left behind in periods that are still counted
//! (docs/rules.md#counted-before-it-is-dropped).
//!
//! What is true of an entry is its baseline merged with its stored events. A stored event is *in the baseline already*
//! when its partition is folded, or it stands at or before the cursor of a partition that is being folded.

use std::collections::{HashMap, HashSet};

use sqlx::{PgConnection, Row};

use super::StoreError;
use super::event_scan::ScanKey;
use super::recompute;
use super::sums::Sum;
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::domain::month::Month;
use crate::domain::period::Period;

/// Names one entry: generation, period, player.
pub type EntryKey = (BoardGenerationId, Period, String);

/// How far the events of one partition are in the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Covered {
    /// None are.
    Nothing,
    /// Those up to and including this key.
    UpTo(ScanKey),
    /// All are.
    Everything,
}

type ProgressRow = (String, Option<i32>, Option<uuid::Uuid>, Option<Micros>, Option<Micros>);

/// How far each partition's events are in the baseline; partitions that are not listed are not at all.
pub async fn coverage(connection: &mut PgConnection) -> Result<HashMap<Month, Covered>, StoreError> {
    let rows: Vec<ProgressRow> = sqlx::query_as(
        "SELECT partition_name, cursor_game_id, cursor_event_id, cursor_occurred_at, folded_at FROM baseline_progress",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(name, game, event_id, occurred_at, folded_at)| {
            let covered = match (folded_at, game, event_id, occurred_at) {
                (Some(_), ..) => Covered::Everything,
                (None, Some(game), Some(event_id), Some(occurred_at)) => {
                    Covered::UpTo(ScanKey { game_id: GameId(game), event_id, occurred_at })
                }
                _ => Covered::Nothing,
            };
            Some((Month::from_partition_name(&name)?, covered))
        })
        .collect())
}

/// Locks one partition's progress for the rest of the transaction, creating it at nothing.
pub async fn lock_progress(connection: &mut PgConnection, month: Month) -> Result<Covered, StoreError> {
    let name = month.partition_name();
    sqlx::query(
        "INSERT INTO baseline_progress (partition_name, range_start, range_end) VALUES ($1, $2, $3)
         ON CONFLICT DO NOTHING",
    )
    .bind(&name)
    .bind(month.starts_at())
    .bind(month.ends_at())
    .execute(&mut *connection)
    .await?;
    sqlx::query("SELECT 1 FROM baseline_progress WHERE partition_name = $1 FOR UPDATE")
        .bind(&name)
        .execute(&mut *connection)
        .await?;
    Ok(coverage(connection).await?.remove(&month).unwrap_or(Covered::Nothing))
}

/// Waits until no chunk is being folded into the baseline, the first of a month included, whose row nobody sees yet;
/// none begins before the transaction ends. Others who wait for it do so one after the other. With a generation in
/// state `building` committed by then, months that it has still to read go on standing still (see [`in_the_way`]).
pub async fn stand_still(connection: &mut PgConnection) -> Result<(), StoreError> {
    // Every chunk writes its month's row first, and this lock goes together with no writer's.
    sqlx::query("LOCK TABLE baseline_progress IN SHARE ROW EXCLUSIVE MODE").execute(connection).await.map(|_| ())
}

/// A recompute that has still to read events of this month: it must find them, and the baseline without them. One that
/// starts from a baseline leaves out what is `covered`, and no other is in the month's way. To be asked under
/// [`lock_progress`], in a transaction that then writes the baseline of [`past`] as well.
pub async fn in_the_way(
    connection: &mut PgConnection,
    month: Month,
    covered: Covered,
) -> Result<Option<(GameId, BoardGenerationId)>, StoreError> {
    let reached = match covered {
        Covered::Everything => return Ok(None),
        Covered::UpTo(key) => key,
        Covered::Nothing => ScanKey::before(GameId(i32::MIN)),
    };
    let found: Vec<(i32, i32, String, Option<String>, bool)> = sqlx::query_as(
        "SELECT l.game_id, g.id, g.spec::text, live.spec::text,
                EXISTS (SELECT 1 FROM events e
                         WHERE e.game_id = l.game_id AND e.occurred_at >= $2 AND e.occurred_at < $3
                           AND (e.game_id, e.event_id, e.occurred_at) > ($4, $5, $6))
           FROM leaderboard_generations g
           JOIN leaderboards l ON l.id = g.leaderboard_id
           LEFT JOIN leaderboard_generations live ON live.id = l.live_generation_id
          WHERE g.state = 'building' AND g.scan_finished_at IS NULL
            AND (g.cursor_partition IS NULL OR g.cursor_partition COLLATE \"C\" <= $1)
            AND EXISTS (SELECT 1 FROM events e
                         WHERE e.game_id = l.game_id AND e.occurred_at >= $2 AND e.occurred_at < $3)
          ORDER BY g.id",
    )
    .bind(month.partition_name())
    .bind(month.starts_at())
    .bind(month.ends_at())
    .bind(reached.game_id.0)
    .bind(reached.event_id)
    .bind(reached.occurred_at)
    .fetch_all(connection)
    .await?;
    // What this program cannot read may have to read everything.
    let starts_from_baseline = |live: Option<&str>, new: &str| {
        let live = live.and_then(|text| serde_json::from_str(text).ok());
        serde_json::from_str(new).is_ok_and(|new| recompute::starts_from_baseline(live.as_ref(), &new))
    };
    let waits = |(_, _, new, live, more): &(i32, i32, String, Option<String>, bool)| {
        *more || !starts_from_baseline(live.as_deref(), new)
    };
    Ok(found.into_iter().find(waits).map(|(game, generation, ..)| (GameId(game), BoardGenerationId(generation))))
}

/// Generations that are being built and have read the whole month: their entries have its events, so what is dropped of
/// it belongs into their baseline, as into that of live ones. One that begins later takes the live one's baseline over.
pub async fn past(connection: &mut PgConnection, month: Month) -> Result<HashSet<BoardGenerationId>, StoreError> {
    let ids: Vec<i32> = sqlx::query_scalar(
        "SELECT id FROM leaderboard_generations
          WHERE state = 'building' AND (scan_finished_at IS NOT NULL OR cursor_partition COLLATE \"C\" > $1)",
    )
    .bind(month.partition_name())
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(BoardGenerationId).collect())
}

/// Moves a partition's cursor; `None`: all its events are in the baseline.
pub async fn advance(
    connection: &mut PgConnection,
    month: Month,
    to: Option<ScanKey>,
    now: Micros,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE baseline_progress
            SET cursor_game_id = coalesce($2, cursor_game_id), cursor_event_id = coalesce($3, cursor_event_id),
                cursor_occurred_at = coalesce($4, cursor_occurred_at),
                folded_at = CASE WHEN $2 IS NULL THEN $5::timestamptz END
          WHERE partition_name = $1",
    )
    .bind(month.partition_name())
    .bind(to.map(|key| key.game_id.0))
    .bind(to.map(|key| key.event_id))
    .bind(to.map(|key| key.occurred_at))
    .bind(now)
    .execute(connection)
    .await
    .map(|_| ())
}

/// Reads an entry's state from a row `score, subscore, reached_at, event_id, plays, metadata::text, moved` beginning at
/// column `at`; the scores are `numeric`.
///
/// # Errors
/// A column does not decode.
pub(super) fn read_state(row: &sqlx::postgres::PgRow, at: usize) -> Result<EntryState, StoreError> {
    Ok(EntryState {
        score: row.try_get::<Sum, _>(at)?.0,
        subscore: row.try_get::<Sum, _>(at + 1)?.0,
        reached_at: row.try_get(at + 2)?,
        event_id: row.try_get(at + 3)?,
        plays: row.try_get(at + 4)?,
        metadata: row.try_get::<Option<String>, _>(at + 5)?.map(Into::into),
        moved: row.try_get(at + 6)?,
    })
}

/// The baseline of the named entries, for merging. One writer at a time: whoever has locked the progress, of a month
/// or, by [`stand_still`], of all.
pub async fn read(
    connection: &mut PgConnection,
    keys: &[EntryKey],
) -> Result<HashMap<EntryKey, EntryState>, StoreError> {
    let generations: Vec<i32> = keys.iter().map(|key| key.0.0).collect();
    let starts: Vec<Micros> = keys.iter().map(|key| key.1.starts_at).collect();
    let players: Vec<&str> = keys.iter().map(|key| key.2.as_str()).collect();
    // A generation has one period of a start.
    let rows = sqlx::query(
        "SELECT k.n, b.score, b.subscore, b.reached_at, b.event_id, b.plays, b.metadata::text, b.moved
           FROM unnest($1::int[], $2::timestamptz[], $3::text[])
                WITH ORDINALITY AS k (generation_id, period_start, player_id, n)
           JOIN entry_baseline b USING (generation_id, period_start, player_id)",
    )
    .bind(generations)
    .bind(starts)
    .bind(players)
    .fetch_all(connection)
    .await?;
    let found = |row: &sqlx::postgres::PgRow| {
        let n: i64 = row.try_get(0)?;
        let key = usize::try_from(n - 1).ok().and_then(|index| keys.get(index)).ok_or(StoreError::RowNotFound)?;
        Ok((key.clone(), read_state(row, 1)?))
    };
    rows.iter().map(found).collect()
}

/// Writes the baseline of entries, replacing what was there.
pub async fn write(connection: &mut PgConnection, states: &[(EntryKey, EntryState)]) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO entry_baseline
             (generation_id, period_start, period_end, player_id,
              score, subscore, reached_at, event_id, plays, metadata, moved)
         SELECT g, s, coalesce(e, 'infinity'), p, score, subscore, reached_at, event_id, plays, metadata::json, moved
           FROM unnest($1::int[], $2::timestamptz[], $11::timestamptz[], $3::text[], $4::numeric[], $5::numeric[],
                       $6::timestamptz[], $7::uuid[], $8::bigint[], $9::text[], $10::boolean[])
                AS n (g, s, e, p, score, subscore, reached_at, event_id, plays, metadata, moved)
         ON CONFLICT (generation_id, period_start, player_id) DO UPDATE
            SET period_end = excluded.period_end, score = excluded.score, subscore = excluded.subscore,
                reached_at = excluded.reached_at, event_id = excluded.event_id, plays = excluded.plays,
                metadata = excluded.metadata, moved = excluded.moved",
    )
    .bind(states.iter().map(|(key, _)| key.0.0).collect::<Vec<_>>())
    .bind(states.iter().map(|(key, _)| key.1.starts_at).collect::<Vec<_>>())
    .bind(states.iter().map(|(key, _)| key.2.as_str()).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| Sum(state.score)).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| Sum(state.subscore)).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| state.reached_at).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| state.event_id).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| state.plays).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| state.metadata.as_deref()).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, state)| state.moved).collect::<Vec<_>>())
    .bind(states.iter().map(|(key, _)| key.1.ends_at).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(|_| ())
}
