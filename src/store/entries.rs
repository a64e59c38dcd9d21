//! Entries: what the fold reads and writes.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::store::pool::Pool;

use super::place::Place;
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
    /// Where it lies.
    pub at: EntryPlace,
}

/// Where an entry lies: partition and place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPlace {
    partition: Option<i32>,
    place: Place,
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
    /// Where it lies, if it is stored already.
    pub at: Option<EntryPlace>,
}

/// Writing entries failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteEntriesError {
    /// Whatever Postgres says.
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
    /// Somebody else wrote an entry of this shard; the transaction must be rolled back.
    #[error("{0} entries changed between being read and being written")]
    Moved(u64),
}

/// Reads entries by key, in the transaction that will write them. Returns the position of each that exists in
/// `players`, with the entry.
///
/// # Errors
/// Whatever Postgres says.
pub async fn read(
    transaction: &mut PgConnection,
    period_ids: &[i64],
    players: &[&str],
) -> Result<Vec<(usize, StoredEntry)>, sqlx::Error> {
    // OFFSET 0 keeps the planner from turning the look-ups into a hash join over the whole table.
    let rows = sqlx::query(
        "SELECT wanted.n, e.score, e.subscore, e.reached_at, e.event_id, e.plays, e.version,
                e.sum_score, e.sum_subscore, e.metadata,
                CASE e.tableoid WHEN 'leaderboard_entries_0'::regclass THEN 0
                                WHEN 'leaderboard_entries_1'::regclass THEN 1
                                WHEN 'leaderboard_entries_2'::regclass THEN 2
                                WHEN 'leaderboard_entries_3'::regclass THEN 3 END AS partition,
                e.ctid AS place
           FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS wanted (period_id, player_id, n)
          CROSS JOIN LATERAL (
                SELECT score, subscore, reached_at, event_id, plays, version, sum_score, sum_subscore,
                       metadata::text AS metadata, tableoid, ctid
                  FROM leaderboard_entries
                 WHERE period_id = wanted.period_id AND player_id = wanted.player_id
                OFFSET 0) AS e",
    )
    .bind(period_ids)
    .bind(players)
    .fetch_all(transaction)
    .await?;
    rows.iter().map(stored).collect()
}

fn stored(row: &PgRow) -> Result<(usize, StoredEntry), sqlx::Error> {
    let sum = |n: usize, clamped: i64| -> Result<i128, sqlx::Error> {
        Ok(row.try_get::<Option<Sum>, _>(n)?.map_or(i128::from(clamped), |sum| sum.0))
    };
    let state = EntryState {
        score: sum(7, row.try_get(1)?)?,
        subscore: sum(8, row.try_get(2)?)?,
        reached_at: row.try_get(3)?,
        event_id: row.try_get(4)?,
        plays: row.try_get(5)?,
        metadata: row.try_get::<Option<&str>, _>(9)?.map(Into::into),
    };
    let at = EntryPlace { partition: row.try_get(10)?, place: row.try_get(11)? };
    let n: i64 = row.try_get(0)?;
    Ok(((n - 1) as usize, StoredEntry { state, version: row.try_get(6)?, at }))
}

/// Writes entries: those that were read in this transaction where they lie, the others as new. No key may occur twice.
///
/// # Errors
/// [`WriteEntriesError`].
pub async fn write(transaction: &mut PgConnection, writes: &[EntryWrite<'_>]) -> Result<(), WriteEntriesError> {
    let mut elsewhere = Vec::new();
    let mut by_partition: [Vec<EntryWrite<'_>>; UPDATES.len()] = Default::default();
    for write in writes {
        let partition = write.at.and_then(|at| by_partition.get_mut(usize::try_from(at.partition?).ok()?));
        partition.unwrap_or(&mut elsewhere).push(*write);
    }
    for (statement, writes) in UPDATES.iter().zip(&by_partition).filter(|(_, writes)| !writes.is_empty()) {
        let places: Vec<Place> = writes.iter().filter_map(|w| Some(w.at?.place)).collect();
        let done = bind_columns(sqlx::query(*statement), writes).bind(places).execute(&mut *transaction).await?;
        let moved = (writes.len() as u64).saturating_sub(done.rows_affected());
        if moved > 0 {
            return Err(WriteEntriesError::Moved(moved));
        }
    }
    if !elsewhere.is_empty() {
        bind_columns(sqlx::query(UPSERT), &elsewhere).execute(transaction).await?;
    }
    Ok(())
}

/// Going by place spares the second descent of the index and the arbitration that `ON CONFLICT` does for each row:
/// measured, about a fifth of the fold. The key is compared too, so that a place can never hit another row.
macro_rules! update_partition {
    ($partition:literal) => {
        concat!(
            "UPDATE leaderboard_entries_",
            $partition,
            " AS e SET score = w.score, subscore = w.subscore, reached_at = w.reached_at, event_id = w.event_id,
                    plays = w.plays, version = w.version, sum_score = w.sum_score, sum_subscore = w.sum_subscore,
                    metadata = w.metadata::json
               FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::uuid[],
                           $7::bigint[], $8::bigint[], $9::numeric[], $10::numeric[], $11::text[], $12::tid[])
                    AS w (period_id, player_id, score, subscore, reached_at, event_id, plays, version,
                          sum_score, sum_subscore, metadata, place)
              WHERE e.ctid = w.place AND e.period_id = w.period_id AND e.player_id = w.player_id"
        )
    };
}

const UPDATES: [&str; 4] =
    [update_partition!("0"), update_partition!("1"), update_partition!("2"), update_partition!("3")];

const UPSERT: &str = "
    INSERT INTO leaderboard_entries (period_id, player_id, score, subscore, reached_at, event_id, plays, version,
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
           sum_score = excluded.sum_score, sum_subscore = excluded.sum_subscore, metadata = excluded.metadata";

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Binds $1 to $11.
fn bind_columns<'q>(query: Query<'q>, writes: &[EntryWrite<'q>]) -> Query<'q> {
    let column = |value: fn(&EntryWrite<'_>) -> i64| writes.iter().map(value).collect::<Vec<i64>>();
    let players: Vec<&'q str> = writes.iter().map(|w| w.player_id).collect();
    let reached: Vec<Micros> = writes.iter().map(|w| w.state.reached_at).collect();
    let events: Vec<Uuid> = writes.iter().map(|w| w.state.event_id).collect();
    let sum = |value: fn(&EntryState) -> i128| sparse(writes, |w| w.sums.then(|| Sum(value(w.state))));
    let metadata: Vec<Option<&'q str>> = sparse(writes, |w| w.state.metadata.as_deref());
    query
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
}

/// A column that is mostly absent: when it is absent everywhere the array stays empty, and `unnest` fills in NULLs.
fn sparse<'q, T>(writes: &[EntryWrite<'q>], value: impl Fn(&EntryWrite<'q>) -> Option<T>) -> Vec<Option<T>> {
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

/// Whether a generation has any entry, open or closed.
///
/// # Errors
/// Whatever Postgres says.
pub async fn any(pool: &Pool, generation: i32) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM leaderboard_entries WHERE period_id IN
                          (SELECT id FROM leaderboard_periods WHERE generation_id = $1))",
    )
    .bind(generation)
    .fetch_one(pool)
    .await
}
