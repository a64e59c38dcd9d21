//! Entries: what the fold reads and writes.

use crate::store::pool::Pool;
use sqlx::PgConnection;
use uuid::Uuid;

use super::sums::Sum;
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::ranking_key::{Standing, VersionedStanding};

/// An entry as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its state.
    pub state: EntryState,
    /// The version of its standing.
    pub version: i64,
}

/// An entry to store.
#[derive(Debug, Clone, Copy)]
pub struct EntryWrite<'a> {
    /// `leaderboard_periods.id`.
    pub period_id: i64,
    /// Whose.
    pub player_id: &'a str,
    /// Its state.
    pub state: &'a EntryState,
    /// The version of its standing.
    pub version: i64,
    /// Whether the operator sums: then the exact sums are stored beside the clamped values.
    pub sums: bool,
}

/// ordinality, score, subscore, `reached_at`, event, plays, version, exact sums, metadata
type Row = (i64, i64, i64, Micros, Uuid, i64, i64, Option<Sum>, Option<Sum>, Option<String>);

/// Reads entries by key. Returns the position of each that exists in `players`, with the entry.
///
/// # Errors
/// Whatever Postgres says.
pub async fn read(
    transaction: &mut PgConnection,
    period_ids: &[i64],
    players: &[&str],
) -> Result<Vec<(usize, StoredEntry)>, sqlx::Error> {
    // OFFSET 0 keeps the planner from turning the look-ups into a hash join over the whole table.
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT wanted.n, e.score, e.subscore, e.reached_at, e.event_id, e.plays, e.version,
                e.sum_score, e.sum_subscore, e.metadata
           FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS wanted (period_id, player_id, n)
          CROSS JOIN LATERAL (
                SELECT score, subscore, reached_at, event_id, plays, version, sum_score, sum_subscore,
                       metadata::text AS metadata
                  FROM leaderboard_entries
                 WHERE period_id = wanted.period_id AND player_id = wanted.player_id
                OFFSET 0) AS e",
    )
    .bind(period_ids)
    .bind(players)
    .fetch_all(transaction)
    .await?;
    Ok(rows.into_iter().map(stored).collect())
}

fn stored(row: Row) -> (usize, StoredEntry) {
    let (n, score, subscore, reached_at, event_id, plays, version, sum_score, sum_subscore, metadata) = row;
    let state = EntryState {
        score: sum_score.map_or(i128::from(score), |sum| sum.0),
        subscore: sum_subscore.map_or(i128::from(subscore), |sum| sum.0),
        reached_at,
        event_id,
        plays,
        metadata: metadata.map(Into::into),
    };
    ((n - 1) as usize, StoredEntry { state, version })
}

/// Inserts or replaces entries. No key may occur twice.
///
/// # Errors
/// Whatever Postgres says.
pub async fn upsert(transaction: &mut PgConnection, writes: &[EntryWrite<'_>]) -> Result<(), sqlx::Error> {
    let column = |value: fn(&EntryWrite<'_>) -> i64| writes.iter().map(value).collect::<Vec<i64>>();
    let players: Vec<&str> = writes.iter().map(|w| w.player_id).collect();
    let reached: Vec<Micros> = writes.iter().map(|w| w.state.reached_at).collect();
    let events: Vec<Uuid> = writes.iter().map(|w| w.state.event_id).collect();
    let sum = |value: fn(&EntryState) -> i128| sparse(writes, |w| w.sums.then(|| Sum(value(w.state))));
    let metadata: Vec<Option<&str>> = sparse(writes, |w| w.state.metadata.as_deref());
    sqlx::query(
        "INSERT INTO leaderboard_entries (period_id, player_id, score, subscore, reached_at, event_id, plays, version,
                                          sum_score, sum_subscore, metadata)
         SELECT w.period_id, w.player_id, w.score, w.subscore, w.reached_at, w.event_id, w.plays, w.version,
                w.sum_score, w.sum_subscore, w.metadata::json
           FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::uuid[],
                       $7::bigint[], $8::bigint[], $9::numeric[], $10::numeric[], $11::text[])
                AS w (period_id, player_id, score, subscore, reached_at, event_id, plays, version,
                      sum_score, sum_subscore, metadata)
         ON CONFLICT (period_id, player_id) DO UPDATE
            SET score = excluded.score, subscore = excluded.subscore, reached_at = excluded.reached_at,
                event_id = excluded.event_id, plays = excluded.plays, version = excluded.version,
                sum_score = excluded.sum_score, sum_subscore = excluded.sum_subscore, metadata = excluded.metadata",
    )
    .bind(column(|w| w.period_id))
    .bind(players)
    .bind(column(|w| w.state.published_score()))
    .bind(column(|w| w.state.published_subscore()))
    .bind(reached)
    .bind(events)
    .bind(column(|w| w.state.plays))
    .bind(column(|w| w.version))
    .bind(sum(|s| s.score))
    .bind(sum(|s| s.subscore))
    .bind(metadata)
    .execute(transaction)
    .await?;
    Ok(())
}

/// A column that is mostly absent: when it is absent everywhere the array stays empty, and `unnest` fills in NULLs.
fn sparse<'a, T>(writes: &'a [EntryWrite<'a>], value: impl Fn(&EntryWrite<'a>) -> Option<T>) -> Vec<Option<T>> {
    let column: Vec<Option<T>> = writes.iter().map(value).collect();
    if column.iter().all(Option::is_none) { Vec::new() } else { column }
}

/// The next entries of a period in the order of players, after `after` (exclusive; empty: from the first).
///
/// # Errors
/// Whatever Postgres says.
pub async fn chunk(
    pool: &Pool,
    period_id: i64,
    after: &str,
    limit: i64,
) -> Result<Vec<VersionedStanding>, sqlx::Error> {
    let rows: Vec<(String, i64, i64, Micros, i64)> = sqlx::query_as(
        "SELECT player_id, score, subscore, reached_at, version FROM leaderboard_entries
          WHERE period_id = $1 AND player_id > $2 ORDER BY player_id LIMIT $3",
    )
    .bind(period_id)
    .bind(after)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    let entry = |(player_id, score, subscore, reached_at, version)| VersionedStanding {
        player_id,
        standing: Standing { score, subscore, reached_at },
        version,
    };
    Ok(rows.into_iter().map(entry).collect())
}

/// A generation's periods that belong in Redis: all but those that were removed from it after closing.
///
/// # Errors
/// Whatever Postgres says.
pub async fn published_periods(pool: &Pool, generation: i32) -> Result<Vec<(i64, Micros)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, starts_at FROM leaderboard_periods
          WHERE generation_id = $1 AND unpublished_at IS NULL ORDER BY starts_at DESC",
    )
    .bind(generation)
    .fetch_all(pool)
    .await
}
