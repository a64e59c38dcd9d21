//! Periods as the fold sees them: found or created, and locked against being closed until the fold commits.

use sqlx::PgConnection;

use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::store::StoreError;

/// A generation and one of its periods.
pub type Place = (BoardGenerationId, Period);

/// A period for which facts came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldPeriod {
    /// `leaderboard_periods.id`.
    pub id: i64,
    /// From when to when.
    pub period: Period,
    /// Whether its standings are frozen.
    pub closed: bool,
    /// Whether it is the generation's own; else an earlier one's, which is final.
    pub own: bool,
}

/// How firmly a fold's periods are locked: all of them alike, in one statement, in the order of their ids. Two
/// strengths in one fold, or two statements, would be two orders, and two folds could wait for each other for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Against being closed; other folds may hold them too.
    Shared,
    /// Alone, because late facts will be counted in some of them.
    Alone,
}

/// Whose periods are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The generation's own.
    Generation,
    /// And those that other generations of its leaderboard closed.
    Leaderboard,
}

type Row = (i64, i64, Micros, Option<Micros>, bool, bool);

macro_rules! own {
    ($lock:literal) => {
        concat!(
            "SELECT w.n, p.id, p.starts_at, p.ends_at, p.state = 'closed', true
               FROM unnest($1::integer[], $2::timestamptz[], $3::timestamptz[])
                    WITH ORDINALITY AS w (generation_id, starts_at, ends_at, n)
               JOIN leaderboard_generations g ON g.id = w.generation_id AND g.state <> 'retired'
               JOIN leaderboard_periods p ON p.generation_id = g.id AND p.starts_at = w.starts_at
              ORDER BY p.id ",
            $lock
        )
    };
}

macro_rules! of_leaderboard {
    ($lock:literal) => {
        concat!(
            "SELECT w.n, p.id, p.starts_at, p.ends_at, p.state = 'closed', p.generation_id = g.id
               FROM unnest($1::integer[], $2::timestamptz[], $3::timestamptz[])
                    WITH ORDINALITY AS w (generation_id, starts_at, ends_at, n)
               JOIN leaderboard_generations g ON g.id = w.generation_id AND g.state <> 'retired'
               JOIN leaderboard_generations owner ON owner.leaderboard_id = g.leaderboard_id
               JOIN leaderboard_periods p ON p.generation_id = owner.id AND p.starts_at = w.starts_at
                AND (owner.id = g.id OR p.state = 'closed' AND p.ends_at = w.ends_at)
              ORDER BY p.id ",
            $lock
        )
    };
}

/// Places as three columns.
pub(super) fn columns(places: &[Place]) -> (Vec<i32>, Vec<Micros>, Vec<Option<Micros>>) {
    let generations = places.iter().map(|(generation, _)| generation.0).collect();
    let starts = places.iter().map(|(_, period)| period.starts_at).collect();
    (generations, starts, places.iter().map(|(_, period)| period.ends_at).collect())
}

/// Finds periods by their start and locks them for the transaction: one that is found open stays open until it ends.
/// Each comes with the index of its place; of generations that are retired none is found. A generation's own is found
/// whenever it ends, one of another generation only if it ends when it should.
pub async fn lock(
    transaction: &mut PgConnection,
    hold: Hold,
    of: Of,
    places: &[Place],
) -> Result<Vec<(usize, FoldPeriod)>, StoreError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let statement = match (of, hold) {
        (Of::Generation, Hold::Shared) => own!("FOR SHARE OF p"),
        (Of::Generation, Hold::Alone) => own!("FOR NO KEY UPDATE OF p"),
        (Of::Leaderboard, Hold::Shared) => of_leaderboard!("FOR SHARE OF p"),
        (Of::Leaderboard, Hold::Alone) => of_leaderboard!("FOR NO KEY UPDATE OF p"),
    };
    let (generations, starts, ends) = columns(places);
    let rows: Vec<Row> =
        sqlx::query_as(statement).bind(generations).bind(starts).bind(ends).fetch_all(transaction).await?;
    let found = |(n, id, starts_at, ends_at, closed, own): Row| {
        let index = usize::try_from(n - 1).unwrap_or(usize::MAX);
        (index, FoldPeriod { id, period: Period { starts_at, ends_at }, closed, own })
    };
    Ok(rows.into_iter().map(found).collect())
}

/// Creates periods that are missing, unless their generation is retired or gone, or the leaderboard has final standings
/// of the period already, by an earlier definition.
///
/// It holds the generations against a swap, until the transaction ends: whoever makes a generation live waits for it,
/// and then sees what it made. A transaction that also locks periods creates them first: a new one may have a lower id
/// than one that is locked.
pub async fn create(transaction: &mut PgConnection, places: &[Place]) -> Result<(), StoreError> {
    let (generations, starts, ends) = columns(places);
    // In a statement of its own, so that the next one sees what was committed before the lock was given.
    sqlx::query(
        "SELECT 1 FROM leaderboard_generations WHERE id = ANY ($1) AND state <> 'retired' ORDER BY id FOR KEY SHARE",
    )
    .bind(&generations)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at)
         SELECT g.id, w.starts_at, w.ends_at
           FROM unnest($1::integer[], $2::timestamptz[], $3::timestamptz[]) AS w (generation_id, starts_at, ends_at)
           JOIN leaderboard_generations g ON g.id = w.generation_id AND g.state <> 'retired'
          WHERE NOT EXISTS (
                SELECT 1 FROM leaderboard_generations owner
                  JOIN leaderboard_periods p ON p.generation_id = owner.id AND p.starts_at = w.starts_at
                   AND p.ends_at = w.ends_at AND p.state = 'closed'
                 WHERE owner.leaderboard_id = g.leaderboard_id AND owner.id <> g.id)
          ORDER BY g.id, w.starts_at
         ON CONFLICT DO NOTHING",
    )
    .bind(&generations)
    .bind(starts)
    .bind(ends)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Counts facts that came too late for their period, which may be named more than once: places of one start may share a
/// row, and an UPDATE takes one row of those that it joins. The fold has locked them with [`Hold::Alone`].
pub async fn count_late(transaction: &mut PgConnection, ids: &[i64], counts: &[i64]) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE leaderboard_periods p SET late_count = p.late_count + late.count
           FROM (SELECT locked.id, late.count
                   FROM leaderboard_periods locked
                   JOIN (SELECT id, sum(count)::bigint AS count
                           FROM unnest($1::bigint[], $2::bigint[]) AS counted (id, count) GROUP BY id) AS late
                     ON late.id = locked.id
                  ORDER BY locked.id FOR NO KEY UPDATE OF locked) AS late
          WHERE p.id = late.id",
    )
    .bind(ids)
    .bind(counts)
    .execute(transaction)
    .await?;
    Ok(())
}
