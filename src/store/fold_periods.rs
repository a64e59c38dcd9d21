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

/// Finds the periods (generation, start) that exist, of generations that are not retired, and locks them for the
/// transaction: a period that is found open stays open until it ends.
///
/// # Errors
/// Whatever Postgres says.
pub async fn lock(
    transaction: &mut PgConnection,
    generations: &[i32],
    starts: &[Micros],
) -> Result<Vec<FoldPeriod>, sqlx::Error> {
    let rows: Vec<(i64, i32, Micros, Option<Micros>, bool)> = sqlx::query_as(
        "SELECT p.id, p.generation_id, p.starts_at, p.ends_at, p.state = 'closed'
           FROM leaderboard_periods p
           JOIN leaderboard_generations g ON g.id = p.generation_id
          WHERE (p.generation_id, p.starts_at) IN (SELECT * FROM unnest($1::integer[], $2::timestamptz[]))
            AND g.state <> 'retired'
          ORDER BY p.id FOR SHARE OF p",
    )
    .bind(generations)
    .bind(starts)
    .fetch_all(transaction)
    .await?;
    let period = |(id, generation, starts_at, ends_at, closed)| FoldPeriod {
        id,
        generation: BoardGenerationId(generation),
        period: Period { starts_at, ends_at },
        closed,
    };
    Ok(rows.into_iter().map(period).collect())
}

/// Creates periods that are missing, unless their generation is retired or gone.
///
/// # Errors
/// Whatever Postgres says.
pub async fn create(
    transaction: &mut PgConnection,
    generations: &[i32],
    starts: &[Micros],
    ends: &[Option<Micros>],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at)
         SELECT g.id, wanted.starts_at, wanted.ends_at
           FROM unnest($1::integer[], $2::timestamptz[], $3::timestamptz[])
                AS wanted (generation_id, starts_at, ends_at)
           JOIN leaderboard_generations g ON g.id = wanted.generation_id AND g.state <> 'retired'
          ORDER BY g.id, wanted.starts_at
         ON CONFLICT (generation_id, starts_at) DO NOTHING",
    )
    .bind(generations)
    .bind(starts)
    .bind(ends)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Counts facts that came too late for their period.
///
/// # Errors
/// Whatever Postgres says.
pub async fn count_late(transaction: &mut PgConnection, ids: &[i64], counts: &[i64]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE leaderboard_periods p SET late_count = p.late_count + late.count
           FROM unnest($1::bigint[], $2::bigint[]) AS late (id, count)
          WHERE p.id = late.id",
    )
    .bind(ids)
    .bind(counts)
    .execute(transaction)
    .await?;
    Ok(())
}
