//! Closing periods: which are due, freezing them, their final standings (docs/rules.md#closing-waits-for-stragglers).
//!
//! How closing and folding keep apart: a fold locks the rows of its periods `FOR SHARE` and treats facts of a closed
//! one as late (`fold_periods`). [`freeze`] updates the row, so it waits for folds in flight, and folds that begin
//! after it see the period closed. Standings are then written from entries that nobody changes any more.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use crate::domain::board::{LeaderboardSpec, Order};
use crate::domain::clock::Micros;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::domain::period::Period;
use crate::store::{Pool, StoreError};

/// A period that is over, or whose closing was interrupted.
#[derive(Debug, Clone)]
pub struct DuePeriod {
    /// `leaderboard_periods.id`.
    pub id: i64,
    /// Whose.
    pub game: GameId,
    /// Of which generation.
    pub generation: BoardGenerationId,
    /// Until when scores for it count: its end and grace.
    pub until: Micros,
    /// Its standings are frozen and not all written.
    pub frozen: bool,
    /// What it was last seen to wait for.
    pub waits_for: Vec<String>,
}

/// Most periods of one generation in one answer of [`due`].
const PER_GENERATION: i32 = 50;
/// Most periods in one answer of [`due`].
const PER_ANSWER: i32 = 5_000;

type DueRow = (i64, i32, i32, Micros, bool, Option<Vec<String>>);

/// Periods of live generations whose end and grace are past at `now`, and those whose closing was interrupted (of any
/// generation: what is frozen stays its leaderboard's); first one of each game, then the second of each, so that no
/// game stands in another's way.
pub async fn due(connection: &mut PgConnection, now: Micros) -> Result<Vec<DuePeriod>, StoreError> {
    let rows: Vec<DueRow> = sqlx::query_as(
        "WITH over AS (
             SELECT p.id, g.id AS generation_id, g.leaderboard_id,
                    p.ends_at + make_interval(secs => g.grace_seconds) AS until, false AS frozen, p.waits_for
               FROM leaderboard_generations g
              CROSS JOIN LATERAL (
                  SELECT id, ends_at, waits_for FROM leaderboard_periods
                   WHERE generation_id = g.id AND state = 'open' AND ends_at < $1::timestamptz - make_interval(secs => g.grace_seconds)
                   ORDER BY ends_at LIMIT $2) AS p
              WHERE g.state = 'live'
             UNION ALL
             SELECT p.id, g.id, g.leaderboard_id, p.ends_at, true, NULL
               FROM leaderboard_periods p JOIN leaderboard_generations g ON g.id = p.generation_id
              WHERE p.state = 'closed' AND p.closed_at IS NULL)
         SELECT o.id, o.generation_id, l.game_id, o.until, o.frozen, o.waits_for
           FROM over o JOIN leaderboards l ON l.id = o.leaderboard_id
          ORDER BY row_number() OVER (PARTITION BY l.game_id ORDER BY o.frozen DESC, o.until, o.id), o.until, o.id
          LIMIT $3",
    )
    .bind(now)
    .bind(PER_GENERATION)
    .bind(PER_ANSWER)
    .fetch_all(connection)
    .await?;
    let read = |(id, generation, game, until, frozen, waits_for): DueRow| DuePeriod {
        id,
        game: GameId(game),
        generation: BoardGenerationId(generation),
        until,
        frozen,
        waits_for: waits_for.unwrap_or_default(),
    };
    Ok(rows.into_iter().map(read).collect())
}

/// Most frozen periods that one answer of [`large`] looks at.
const LOOKED_AT: i32 = 100;

/// Whether a period has more entries than `most`.
pub async fn is_larger(connection: &mut PgConnection, id: i64, most: i64) -> Result<bool, StoreError> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM leaderboard_entries WHERE period_id = $1 OFFSET $2)")
        .bind(id)
        .bind(most)
        .fetch_one(connection)
        .await
}

/// Frozen periods that are not ranked and have more entries than `most`: first one of each game, the smaller before the
/// larger, then the second of each. Entries are counted up to four times `most`.
pub async fn large(connection: &mut PgConnection, most: i64) -> Result<Vec<(i64, BoardGenerationId)>, StoreError> {
    let rows: Vec<(i64, i32)> = sqlx::query_as(
        "WITH frozen AS MATERIALIZED (
             SELECT p.id, p.generation_id, l.game_id,
                    row_number() OVER (PARTITION BY l.game_id ORDER BY p.ends_at, p.id) AS turn
               FROM leaderboard_periods p
               JOIN leaderboard_generations g ON g.id = p.generation_id
               JOIN leaderboards l ON l.id = g.leaderboard_id
              WHERE p.state = 'closed' AND p.closed_at IS NULL
              ORDER BY turn, p.id LIMIT $2),
         sized AS MATERIALIZED (
             SELECT f.*, (SELECT count(*) FROM (SELECT 1 FROM leaderboard_entries
                                                 WHERE period_id = f.id LIMIT 4 * $1) AS few) AS entries
               FROM frozen f)
         SELECT id, generation_id FROM sized WHERE entries > $1 ORDER BY turn, entries, id",
    )
    .bind(most)
    .bind(LOOKED_AT)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(id, generation)| (id, BoardGenerationId(generation))).collect())
}

/// How a generation ranks.
///
/// # Errors
/// [`StoreError`]; a specification that this program cannot read is a decode error.
pub async fn order(connection: &mut PgConnection, generation: BoardGenerationId) -> Result<Order, StoreError> {
    let spec: String = sqlx::query_scalar("SELECT spec::text FROM leaderboard_generations WHERE id = $1")
        .bind(generation.0)
        .fetch_one(connection)
        .await?;
    let spec: LeaderboardSpec = serde_json::from_str(&spec).map_err(|error| StoreError::Decode(Box::new(error)))?;
    Ok(spec.definition.order)
}

/// Freezes a period: when this commits, no fold changes its entries any more. Waits for folds in flight. `over` is what
/// it no longer waits for. Says whether it was open, and of the generation that players see: one of a replaced
/// generation means nothing any more.
pub async fn freeze(connection: &mut PgConnection, id: i64, over: &[&str]) -> Result<bool, StoreError> {
    // Before the period: whoever makes another generation live locks in this order, too (`swap`).
    let live = sqlx::query(
        "SELECT 1 FROM leaderboard_generations
          WHERE id = (SELECT generation_id FROM leaderboard_periods WHERE id = $1) AND state = 'live' FOR SHARE",
    )
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    if live.is_none() {
        return Ok(false);
    }
    let done = sqlx::query(
        "UPDATE leaderboard_periods SET state = 'closed', waits_for = NULL, closed_over = nullif($2::text[], '{}')
          WHERE id = $1 AND state = 'open'",
    )
    .bind(id)
    .bind(over)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Records what a period that is over waits for.
pub async fn set_waits(connection: &mut PgConnection, id: i64, waits_for: &[&str]) -> Result<(), StoreError> {
    sqlx::query("UPDATE leaderboard_periods SET waits_for = $2 WHERE id = $1 AND state = 'open'")
        .bind(id)
        .bind(waits_for)
        .execute(connection)
        .await
        .map(|_| ())
}

/// How many periods are noted as over and waiting, by the first thing that each waits for; counting at most 10,000.
pub async fn waiting(connection: &mut PgConnection) -> Result<Vec<(String, i64)>, StoreError> {
    sqlx::query_as(
        "SELECT few.reason, count(*)
           FROM (SELECT waits_for[1] AS reason FROM leaderboard_periods
                  WHERE state = 'open' AND waits_for IS NOT NULL LIMIT 10000) AS few
          WHERE few.reason IS NOT NULL GROUP BY few.reason",
    )
    .fetch_all(connection)
    .await
}

/// How the closing of a period stands or went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClosingNote {
    /// It is over and waits for these; empty: it does not wait.
    pub waits_for: Vec<String>,
    /// It was closed over these; empty: nothing was under way.
    pub closed_over: Vec<String>,
}

/// What is to be said of the closing of these periods; the others closed, or are open, as usual.
pub async fn notes(pool: &Pool, ids: &[i64]) -> Result<HashMap<i64, ClosingNote>, StoreError> {
    let rows: Vec<(i64, Option<Vec<String>>, Option<Vec<String>>)> = sqlx::query_as(
        "SELECT id, waits_for, closed_over FROM leaderboard_periods
          WHERE id = ANY ($1) AND (waits_for IS NOT NULL OR closed_over IS NOT NULL)",
    )
    .bind(ids)
    .fetch_all(pool)
    .await?;
    let note = |(id, waits_for, closed_over): (i64, Option<Vec<String>>, Option<Vec<String>>)| {
        (id, ClosingNote { waits_for: waits_for.unwrap_or_default(), closed_over: closed_over.unwrap_or_default() })
    };
    Ok(rows.into_iter().map(note).collect())
}

/// The statement that ranks. `{o}` is `ASC` or `DESC`, nothing else; a sort key cannot be a parameter.
const RANK: &str = "INSERT INTO period_standings
        (period_id, rank, competition_rank, player_id, score, subscore, reached_at, plays, metadata)
    SELECT period_id, row_number() OVER (ORDER BY score {o}, subscore {o}, reached_at, player_id COLLATE \"C\"),
           rank() OVER (ORDER BY score {o}, subscore {o}), player_id, score, subscore, reached_at, plays, metadata
      FROM leaderboard_entries WHERE period_id = $1";

/// Writes the final standings of a frozen period and marks it closed, in the caller's transaction. The database sorts,
/// on disk when it must. Returns how many entries there are.
pub async fn write_standings(
    connection: &mut PgConnection,
    id: i64,
    order: Order,
    now: Micros,
) -> Result<i64, StoreError> {
    // Ranking a million entries takes longer than a statement may elsewhere.
    sqlx::query("SET LOCAL statement_timeout = '30min'").execute(&mut *connection).await?;
    let _patience = super::sockets::be_patient(connection, Duration::from_secs(30 * 60)).await?;
    let direction = if order == Order::Ascending { "ASC" } else { "DESC" };
    let rank = RANK.replace("{o}", direction);
    let written = sqlx::query(AssertSqlSafe(rank)).bind(id).execute(&mut *connection).await?.rows_affected();
    let count = i64::try_from(written).unwrap_or(i64::MAX);
    sqlx::query("UPDATE leaderboard_periods SET entry_count = $2, closed_at = $3 WHERE id = $1 AND state = 'closed'")
        .bind(id)
        .bind(count)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(count)
}

/// Closed periods that Redis need not hold any longer, closed before `before`, that follow the moment and id of the
/// last one: each with the moment, at most 1,000.
pub async fn to_unpublish(
    connection: &mut PgConnection,
    before: Micros,
    after: (Micros, i64),
) -> Result<Vec<(i64, BoardGenerationId, Period, Micros)>, StoreError> {
    let rows: Vec<(i64, i32, Micros, Option<Micros>, Micros)> = sqlx::query_as(
        "SELECT id, generation_id, starts_at, ends_at, closed_at FROM leaderboard_periods
          WHERE state = 'closed' AND unpublished_at IS NULL AND closed_at < $1 AND (closed_at, id) > ($2, $3)
          ORDER BY closed_at, id LIMIT 1000",
    )
    .bind(before)
    .bind(after.0)
    .bind(after.1)
    .fetch_all(connection)
    .await?;
    let period = |(id, generation, starts_at, ends_at, at)| {
        (id, BoardGenerationId(generation), Period { starts_at, ends_at }, at)
    };
    Ok(rows.into_iter().map(period).collect())
}

/// Records that Postgres answers for a closed period from now on. To be committed before its keys are removed, so that
/// no rebuild brings them back.
pub async fn mark_unpublished(connection: &mut PgConnection, id: i64, now: Micros) -> Result<(), StoreError> {
    sqlx::query("UPDATE leaderboard_periods SET unpublished_at = $2 WHERE id = $1")
        .bind(id)
        .bind(now)
        .execute(connection)
        .await
        .map(|_| ())
}
