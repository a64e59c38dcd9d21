//! Entries: what the fold writes.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::store::{Pool, StoreError};

use super::sums::Sum;
use crate::domain::board::{Operator, Order};
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::period::Period;
use crate::domain::ranking_key::{Standing, VersionedStanding};

/// An entry as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its state.
    pub state: EntryState,
    /// The version of its standing.
    pub version: i64,
}

/// What is new about an entry.
#[derive(Debug, Clone, Copy)]
pub struct FreshEntry<'a> {
    /// `leaderboard_periods.id`.
    pub period_id: i64,
    /// Whose.
    pub player_id: &'a str,
    /// How its leaderboard counts.
    pub operator: Operator,
    /// Which scores are better.
    pub order: Order,
    /// The state that its new facts alone would give.
    pub state: &'a EntryState,
}

/// Reads entries by key. Returns the position of each that exists in `players`, with the entry.
pub async fn read(
    connection: &mut PgConnection,
    period_ids: &[i64],
    players: &[&str],
) -> Result<Vec<(usize, StoredEntry)>, StoreError> {
    // OFFSET 0 keeps the planner from turning the look-ups into a hash join over the whole table.
    let rows = sqlx::query(
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
    .fetch_all(connection)
    .await?;
    rows.iter().map(stored).collect()
}

fn stored(row: &PgRow) -> Result<(usize, StoredEntry), StoreError> {
    let (sum_score, sum_subscore): (Option<Sum>, Option<Sum>) = (row.try_get(7)?, row.try_get(8)?);
    let sum = |sum: &Option<Sum>, clamped: i64| sum.as_ref().map_or(i128::from(clamped), |sum| sum.0);
    let state = EntryState {
        score: sum(&sum_score, row.try_get(1)?),
        subscore: sum(&sum_subscore, row.try_get(2)?),
        moved: sum_score.is_none() || sum_subscore.is_some(),
        reached_at: row.try_get(3)?,
        event_id: row.try_get(4)?,
        plays: row.try_get(5)?,
        metadata: row.try_get::<Option<&str>, _>(9)?.map(Into::into),
    };
    let n: i64 = row.try_get(0)?;
    Ok(((n - 1) as usize, StoredEntry { state, version: row.try_get(6)? }))
}

/// Merges fresh states into entries, those that do not exist yet are made; says for each whether its standing changed,
/// and to what. One that changed gets `version`, one that was only played again keeps its own. No key may occur
/// twice, and the transaction must keep others from making the same entries, by its lease
/// (docs/rules.md#frozen-processes-keep-no-lock). To be planned as
/// [`markers::next_version`](super::markers::next_version) sees to.
///
/// # Errors
/// [`StoreError`]; the transaction must be rolled back.
pub async fn merge(
    transaction: &mut PgConnection,
    version: i64,
    fresh: &[FreshEntry<'_>],
) -> Result<Vec<Option<Standing>>, StoreError> {
    let mut changed: Vec<Option<Standing>> = fresh.iter().map(|entry| Some(entry.state.published())).collect();
    let mut unknown = vec![true; fresh.len()];
    for kind in Merging::ALL {
        let places: Vec<usize> = (0..fresh.len()).filter(|n| Merging::of(&fresh[*n]) == kind).collect();
        if places.is_empty() {
            continue;
        }
        let columns = Columns::of(places.iter().map(|n| &fresh[*n]));
        let rows = columns.bind_deltas(kind, sqlx::query(kind.statement())).bind(version).fetch_all(&mut *transaction);
        for row in rows.await? {
            let n: i64 = row.try_get(0)?;
            let Some(place) = places.get((n - 1) as usize).copied() else { continue };
            unknown[place] = false;
            if !row.try_get::<bool, _>(1)? {
                changed[place] = None;
            } else if kind == Merging::Sum {
                let (score, subscore, reached_at) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
                changed[place] = Some(Standing { score, subscore, reached_at });
            }
        }
    }
    if unknown.contains(&true) {
        let first = fresh.iter().zip(unknown).filter_map(|(entry, unknown)| unknown.then_some(entry));
        Columns::of(first).bind_whole(sqlx::query(INSERT)).bind(version).execute(transaction).await?;
    }
    Ok(changed)
}

/// How two states become one: [`EntryState::merge`] for rows in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merging {
    Highest,
    Lowest,
    Latest,
    Sum,
}

/// One pass finds an entry, decides and writes it. Reading entries, merging them here and writing them back costs a
/// second look for each row and its way to and fro: measured, a third of the fold.
macro_rules! keep_one {
    ($fresh_wins:literal) => {
        concat!(
            "UPDATE leaderboard_entries AS e
                SET score = CASE WHEN ",
            $fresh_wins,
            " THEN f.score ELSE e.score END,
                    subscore = CASE WHEN ",
            $fresh_wins,
            " THEN f.subscore ELSE e.subscore END,
                    reached_at = CASE WHEN ",
            $fresh_wins,
            " THEN f.reached_at ELSE e.reached_at END,
                    event_id = CASE WHEN ",
            $fresh_wins,
            " THEN f.event_id ELSE e.event_id END,
                    metadata = CASE WHEN ",
            $fresh_wins,
            " THEN f.metadata::json ELSE e.metadata END,
                    version = CASE WHEN ",
            $fresh_wins,
            " THEN $9 ELSE e.version END,
                    plays = e.plays + f.plays
               FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::uuid[],
                           $7::bigint[], $8::text[]) WITH ORDINALITY
                    AS f (period_id, player_id, score, subscore, reached_at, event_id, plays, metadata, n)
              WHERE e.period_id = f.period_id AND e.player_id = f.player_id
          RETURNING f.n, e.version = $9"
        )
    };
}

/// The better score; of equal ones the earlier.
const KEEP_HIGHEST: &str =
    keep_one!("(f.score, f.subscore, e.reached_at, e.event_id) > (e.score, e.subscore, f.reached_at, f.event_id)");
const KEEP_LOWEST: &str =
    keep_one!("(e.score, e.subscore, e.reached_at, e.event_id) > (f.score, f.subscore, f.reached_at, f.event_id)");
const KEEP_LATEST: &str = keep_one!("(f.reached_at, f.event_id) > (e.reached_at, e.event_id)");

/// Whether the fresh facts decide `reached_at`, event and metadata of a sum; as [`EntryState::merge`] has it. Nothing
/// but zeros so far is a `sum_subscore` of NULL beside a `sum_score`, in the entry and in what is merged into it.
macro_rules! sum_wins {
    () => {
        "CASE WHEN e.sum_score IS NOT NULL AND e.sum_subscore IS NULL
              THEN f.subscore IS NOT NULL OR (f.reached_at, f.event_id) < (e.reached_at, e.event_id)
              ELSE f.subscore IS NOT NULL AND (f.reached_at, f.event_id) > (e.reached_at, e.event_id) END"
    };
}

/// Exact sums, and beside them what is published: clamped to `bigint`.
const ADD: &str = concat!(
    "
    UPDATE leaderboard_entries AS e
       SET score = greatest(-9223372036854775808, least(9223372036854775807,
                            coalesce(e.sum_score, e.score) + f.score))::bigint,
           subscore = greatest(-9223372036854775808, least(9223372036854775807,
                               coalesce(e.sum_subscore, e.subscore) + coalesce(f.subscore, 0)))::bigint,
           sum_score = coalesce(e.sum_score, e.score) + f.score,
           sum_subscore = CASE WHEN f.subscore IS NULL AND e.sum_score IS NOT NULL THEN e.sum_subscore
                               ELSE coalesce(e.sum_subscore, e.subscore) + coalesce(f.subscore, 0) END,
           reached_at = CASE WHEN ",
    sum_wins!(),
    " THEN f.reached_at ELSE e.reached_at END,
           event_id = CASE WHEN ",
    sum_wins!(),
    " THEN f.event_id ELSE e.event_id END,
           metadata = CASE WHEN ",
    sum_wins!(),
    " THEN f.metadata::json ELSE e.metadata END,
           version = CASE WHEN f.score <> 0 OR f.subscore <> 0 OR ",
    sum_wins!(),
    " THEN $9 ELSE e.version END,
           plays = e.plays + f.plays
      FROM unnest($1::bigint[], $2::text[], $3::numeric[], $4::numeric[], $5::timestamptz[], $6::uuid[],
                  $7::bigint[], $8::text[]) WITH ORDINALITY
           AS f (period_id, player_id, score, subscore, reached_at, event_id, plays, metadata, n)
     WHERE e.period_id = f.period_id AND e.player_id = f.player_id
 RETURNING f.n, e.version = $9, e.score, e.subscore, e.reached_at"
);

const INSERT: &str = "
    INSERT INTO leaderboard_entries (period_id, player_id, score, subscore, reached_at, event_id, plays, metadata,
                                     sum_score, sum_subscore, version)
    SELECT f.period_id, f.player_id, f.score, f.subscore, f.reached_at, f.event_id, f.plays, f.metadata::json,
           f.sum_score, f.sum_subscore, $11
      FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::uuid[],
                  $7::bigint[], $8::text[], $9::numeric[], $10::numeric[])
           AS f (period_id, player_id, score, subscore, reached_at, event_id, plays, metadata,
                 sum_score, sum_subscore)";

impl Merging {
    const ALL: [Self; 4] = [Self::Highest, Self::Lowest, Self::Latest, Self::Sum];

    fn of(entry: &FreshEntry<'_>) -> Self {
        match (entry.operator, entry.order) {
            (Operator::Best, Order::Descending) => Self::Highest,
            (Operator::Best, Order::Ascending) => Self::Lowest,
            (Operator::Set, _) => Self::Latest,
            (Operator::Incr | Operator::Decr, _) => Self::Sum,
        }
    }

    fn statement(self) -> &'static str {
        match self {
            Self::Highest => KEEP_HIGHEST,
            Self::Lowest => KEEP_LOWEST,
            Self::Latest => KEEP_LATEST,
            Self::Sum => ADD,
        }
    }
}

/// The sum of subscores; absent when nothing but zeros was added.
fn moved_subscore(state: &EntryState) -> Option<Sum> {
    state.moved.then_some(Sum(state.subscore))
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Fresh entries as the arrays that statements unnest.
struct Columns<'a>(Vec<&'a FreshEntry<'a>>);

impl<'a> Columns<'a> {
    fn of(entries: impl Iterator<Item = &'a FreshEntry<'a>>) -> Self {
        Self(entries.collect())
    }

    fn column<T>(&self, value: impl Fn(&'a FreshEntry<'a>) -> T) -> Vec<T> {
        self.0.iter().map(|entry| value(entry)).collect()
    }

    /// A column that is mostly absent: when it is absent everywhere the array stays empty, and `unnest` fills in NULLs.
    fn sparse<T>(&self, value: impl Fn(&'a FreshEntry<'a>) -> Option<T>) -> Vec<Option<T>> {
        let column = self.column(value);
        if column.iter().all(Option::is_none) { Vec::new() } else { column }
    }

    /// Binds $1 to $8 of an update.
    fn bind_deltas(&self, kind: Merging, query: Query<'a>) -> Query<'a> {
        let query = self.bind_key(query);
        let query = if kind == Merging::Sum {
            query.bind(self.column(|e| Sum(e.state.score))).bind(self.column(|e| moved_subscore(e.state)))
        } else {
            self.bind_published(query)
        };
        self.bind_rest(query)
    }

    /// Binds $1 to $10 of the insert.
    fn bind_whole(&self, query: Query<'a>) -> Query<'a> {
        let sum = |value: fn(&EntryState) -> Option<Sum>| {
            self.sparse(|e| if Merging::of(e) == Merging::Sum { value(e.state) } else { None })
        };
        let query = self.bind_rest(self.bind_published(self.bind_key(query)));
        query.bind(sum(|state| Some(Sum(state.score)))).bind(sum(moved_subscore))
    }

    fn bind_key(&self, query: Query<'a>) -> Query<'a> {
        query.bind(self.column(|e| e.period_id)).bind(self.column(|e| e.player_id))
    }

    fn bind_published(&self, query: Query<'a>) -> Query<'a> {
        query.bind(self.column(|e| e.state.published_score())).bind(self.column(|e| e.state.published_subscore()))
    }

    fn bind_rest(&self, query: Query<'a>) -> Query<'a> {
        query
            .bind(self.column(|e| e.state.reached_at))
            .bind(self.column(|e| e.state.event_id))
            .bind(self.column(|e| e.state.plays))
            .bind(self.sparse(|e| e.state.metadata.as_deref()))
    }
}

/// The next entries of a period in the order of players, after `after` (exclusive; empty: from the first).
pub async fn chunk(pool: &Pool, period_id: i64, after: &str, limit: i64) -> Result<Vec<VersionedStanding>, StoreError> {
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

/// A generation's periods that belong in Redis: all that have entries, but those that were removed from it
/// after closing.
pub async fn published_periods(pool: &Pool, generation: i32) -> Result<Vec<(i64, Period)>, StoreError> {
    let rows: Vec<(i64, Micros, Option<Micros>)> = sqlx::query_as(
        "SELECT p.id, p.starts_at, p.ends_at FROM leaderboard_periods p
          WHERE p.generation_id = $1 AND p.unpublished_at IS NULL
            AND EXISTS (SELECT 1 FROM leaderboard_entries e WHERE e.period_id = p.id) ORDER BY p.starts_at DESC",
    )
    .bind(generation)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(id, starts_at, ends_at)| (id, Period { starts_at, ends_at })).collect())
}

/// How many entries a generation has that belong in Redis, counting no further than `most`.
pub async fn count_published(pool: &Pool, generation: i32, most: i64) -> Result<i64, StoreError> {
    sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT 1 FROM leaderboard_periods p JOIN leaderboard_entries e ON e.period_id = p.id
                                WHERE p.generation_id = $1 AND p.unpublished_at IS NULL LIMIT $2) AS few",
    )
    .bind(generation)
    .bind(most)
    .fetch_one(pool)
    .await
}

/// Whether a generation has any entry, open or closed.
pub async fn any(pool: &Pool, generation: i32) -> Result<bool, StoreError> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM leaderboard_entries WHERE period_id IN
                          (SELECT id FROM leaderboard_periods WHERE generation_id = $1))",
    )
    .bind(generation)
    .fetch_one(pool)
    .await
}
