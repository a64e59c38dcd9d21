//! Periods as the fold sees them: found or created, and locked against being closed until the fold commits.

use sqlx::PgConnection;

use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;

/// A period for which facts came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldPeriod {
    /// `leaderboard_periods.id`.
    pub id: i64,
    /// Whose.
    pub generation: BoardGenerationId,
    /// From when to when.
    pub period: Period,
    /// Whether its standings are frozen.
    pub closed: bool,
}

/// How firmly a fold's periods are locked: all of them alike, in one statement, in the order of their ids. Two strengths in
/// one fold, or two statements, would be two orders, and two folds could wait for each other for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Against being closed; other folds may hold them too.
    Shared,
    /// Alone, because late facts will be counted in some of them.
    Alone,
}

type Row = (i64, i32, Micros, Option<Micros>, bool);

macro_rules! find {
    ($lock:literal) => {
        concat!(
            "SELECT p.id, p.generation_id, p.starts_at, p.ends_at, p.state = 'closed'
               FROM leaderboard_periods p
               JOIN leaderboard_generations g ON g.id = p.generation_id
              WHERE (p.generation_id, p.starts_at) IN (SELECT * FROM unnest($1::integer[], $2::timestamptz[]))
                AND g.state <> 'retired' ORDER BY p.id ",
            $lock
        )
    };
}

/// Finds the periods (generation, start) that exist, of generations that are not retired, and locks them for the
/// transaction: a period that is found open stays open until it ends.
///
/// # Errors
/// Whatever Postgres says.
pub async fn lock(
    transaction: &mut PgConnection,
    hold: Hold,
    generations: &[i32],
    starts: &[Micros],
) -> Result<Vec<FoldPeriod>, sqlx::Error> {
    if generations.is_empty() {
        return Ok(Vec::new());
    }
    let statement = match hold {
        Hold::Shared => find!("FOR SHARE OF p"),
        Hold::Alone => find!("FOR NO KEY UPDATE OF p"),
    };
    let rows: Vec<Row> = sqlx::query_as(statement).bind(generations).bind(starts).fetch_all(transaction).await?;
    let period = |(id, generation, starts_at, ends_at, closed)| FoldPeriod {
        id,
        generation: BoardGenerationId(generation),
        period: Period { starts_at, ends_at },
        closed,
    };
    Ok(rows.into_iter().map(period).collect())
}

/// Creates periods that are missing, unless their generation is retired or gone. Says how many of them there are now.
/// A transaction that also locks periods creates them first: a new one may have a lower id than one that is locked.
///
/// # Errors
/// Whatever Postgres says.
pub async fn create(
    transaction: &mut PgConnection,
    generations: &[i32],
    starts: &[Micros],
    ends: &[Option<Micros>],
) -> Result<u64, sqlx::Error> {
    let wanted: i64 = sqlx::query_scalar(
        "WITH wanted AS (
             SELECT g.id, w.starts_at, w.ends_at
               FROM unnest($1::integer[], $2::timestamptz[], $3::timestamptz[]) AS w (generation_id, starts_at, ends_at)
               JOIN leaderboard_generations g ON g.id = w.generation_id AND g.state <> 'retired'),
         made AS (
             INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at)
             SELECT id, starts_at, ends_at FROM wanted ORDER BY id, starts_at
             ON CONFLICT (generation_id, starts_at) DO NOTHING)
         SELECT count(*) FROM wanted",
    )
    .bind(generations)
    .bind(starts)
    .bind(ends)
    .fetch_one(transaction)
    .await?;
    Ok(wanted.unsigned_abs())
}

/// Counts facts that came too late for their period. The fold has locked them with [`Hold::Alone`].
///
/// # Errors
/// Whatever Postgres says.
pub async fn count_late(transaction: &mut PgConnection, ids: &[i64], counts: &[i64]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE leaderboard_periods p SET late_count = p.late_count + late.count
           FROM (SELECT locked.id, late.count
                   FROM leaderboard_periods locked
                   JOIN unnest($1::bigint[], $2::bigint[]) AS late (id, count) ON late.id = locked.id
                  ORDER BY locked.id FOR NO KEY UPDATE OF locked) AS late
          WHERE p.id = late.id",
    )
    .bind(ids)
    .bind(counts)
    .execute(transaction)
    .await?;
    Ok(())
}
