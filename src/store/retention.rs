//! Clean-ups in bounded chunks. Each function removes at most `limit` rows and says how many went, so that its caller
//! repeats it until nothing is left and no transaction lives long. What Postgres stamped it compares with its own time:
//! a cron whose clock is ahead must not remove what lives.

use std::time::Duration;

use sqlx::PgConnection;

use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::store::{Pool, StoreError};

/// Postgres's clock.
pub async fn now(pool: &Pool) -> Result<Micros, StoreError> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool).await
}

async fn delete(
    connection: &mut PgConnection,
    statement: &'static str,
    age: Duration,
    limit: i64,
) -> Result<u64, StoreError> {
    Ok(sqlx::query(statement).bind(age.as_secs_f64()).bind(limit).execute(connection).await?.rows_affected())
}

/// Dead letters that were decided `age` ago. Undecided ones stay for ever.
pub async fn dead_letters(connection: &mut PgConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM dead_letters WHERE id = ANY (ARRAY(
        SELECT id FROM dead_letters WHERE state <> 'waiting' AND decided_at < now() - make_interval(secs => $1)
         ORDER BY received_at, id LIMIT $2 FOR UPDATE SKIP LOCKED))";
    delete(connection, SQL, age, limit).await
}

/// Audit log entries older than `age`.
pub async fn audit_log(connection: &mut PgConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM audit_log WHERE id IN (
        SELECT id FROM audit_log WHERE at < now() - make_interval(secs => $1)
         ORDER BY at, id LIMIT $2 FOR UPDATE SKIP LOCKED)";
    delete(connection, SQL, age, limit).await
}

/// Most revoked keys of a game that are kept: what studios look at, and what their list of keys is made of.
pub const MOST_REVOKED_KEYS: i64 = 200;

/// Keys that were revoked `age` ago, and of each game those that are not among its last [`MOST_REVOKED_KEYS`]. A key
/// that is gone is refused like one that never was.
pub async fn revoked_keys(connection: &mut PgConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    let removed = sqlx::query(
        "DELETE FROM api_keys WHERE id = ANY (ARRAY(
             SELECT id FROM api_keys
              WHERE revoked_at < now() - make_interval(secs => $1)
                 OR id IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY game_id
                                                                         ORDER BY revoked_at DESC, id DESC) AS place
                                             FROM api_keys WHERE revoked_at IS NOT NULL) AS revoked
                            WHERE place > $3)
              ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED))",
    )
    .bind(age.as_secs_f64())
    .bind(limit)
    .bind(MOST_REVOKED_KEYS)
    .execute(connection)
    .await?;
    Ok(removed.rows_affected())
}

/// Processes that were last seen `age` ago: they died without signing off.
pub async fn processes(connection: &mut PgConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM processes WHERE id IN (
        SELECT id FROM processes WHERE seen_at < now() - make_interval(secs => $1)
         ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)";
    delete(connection, SQL, age, limit).await
}

/// Leases that ended `age` ago and are made for one purpose only: those of recomputes.
pub async fn recompute_leases(connection: &mut PgConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM leases WHERE name IN (
        SELECT name FROM leases WHERE name LIKE 'recompute-%' AND expires_at < now() - make_interval(secs => $1)
         ORDER BY name LIMIT $2 FOR UPDATE SKIP LOCKED)";
    delete(connection, SQL, age, limit).await
}

/// Generations after `after` that were retired `age` ago and may still have something to remove; at most 100.
pub async fn retired_generations(
    connection: &mut PgConnection,
    age: Duration,
    after: BoardGenerationId,
) -> Result<Vec<BoardGenerationId>, StoreError> {
    let ids: Vec<i32> = sqlx::query_scalar(
        "SELECT id FROM leaderboard_generations
          WHERE state = 'retired' AND cleaned_at IS NULL AND retired_at < now() - make_interval(secs => $1) AND id > $2
          ORDER BY id LIMIT 100",
    )
    .bind(age.as_secs_f64())
    .bind(after.0)
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(BoardGenerationId).collect())
}

/// Those of these generations that there are not.
pub async fn unknown_generations(
    connection: &mut PgConnection,
    generations: &[BoardGenerationId],
) -> Result<Vec<BoardGenerationId>, StoreError> {
    let ids: Vec<i32> = generations.iter().map(|generation| generation.0).collect();
    let unknown: Vec<i32> = sqlx::query_scalar(
        "SELECT o.id FROM unnest($1::int[]) AS o (id)
          WHERE NOT EXISTS (SELECT 1 FROM leaderboard_generations g WHERE g.id = o.id)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(unknown.into_iter().map(BoardGenerationId).collect())
}

/// Removes some of what a retired generation has left: entries, then periods, baseline and the generation itself. Its
/// closed periods are its leaderboard's for good and stay, with their generation, which is not looked at again.
pub async fn retired_generation(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
    limit: i64,
) -> Result<u64, StoreError> {
    const ENTRIES: &str = "DELETE FROM leaderboard_entries e
        USING (SELECT e.period_id, e.player_id FROM leaderboard_periods p
                 JOIN leaderboard_entries e ON e.period_id = p.id
                WHERE p.generation_id = $1 AND p.state = 'open' LIMIT $2) AS few
        WHERE e.period_id = few.period_id AND e.player_id = few.player_id";
    const BASELINE: &str = "DELETE FROM entry_baseline b
        USING (SELECT generation_id, period_start, player_id FROM entry_baseline WHERE generation_id = $1 LIMIT $2) AS few
        WHERE (b.generation_id, b.period_start, b.player_id)
            = (few.generation_id, few.period_start, few.player_id)";
    const PERIODS: &str = "DELETE FROM leaderboard_periods WHERE id IN (
        SELECT id FROM leaderboard_periods WHERE generation_id = $1 AND state = 'open' LIMIT $2)";
    for statement in [ENTRIES, BASELINE, PERIODS] {
        let removed = sqlx::query(statement).bind(generation.0).bind(limit).execute(&mut *connection).await?;
        if removed.rows_affected() > 0 {
            return Ok(removed.rows_affected());
        }
    }
    let removed = sqlx::query(
        "DELETE FROM leaderboard_generations g WHERE g.id = $1 AND g.state = 'retired'
            AND NOT EXISTS (SELECT 1 FROM leaderboard_periods p WHERE p.generation_id = g.id)",
    )
    .bind(generation.0)
    .execute(&mut *connection)
    .await?;
    if removed.rows_affected() == 0 {
        sqlx::query("UPDATE leaderboard_generations SET cleaned_at = now() WHERE id = $1 AND state = 'retired'")
            .bind(generation.0)
            .execute(connection)
            .await?;
    }
    Ok(removed.rows_affected())
}

/// Baseline of periods that were closed before `before` (cron's time, as `closed_at` is): frozen standings need none.
/// Goes from one period of the baseline to the next by index, because closed periods only become more.
pub async fn closed_baseline(connection: &mut PgConnection, before: Micros, limit: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM entry_baseline b
        USING (WITH RECURSIVE place AS (
                   (SELECT generation_id, period_start FROM entry_baseline ORDER BY 1, 2 LIMIT 1)
                   UNION ALL
                   SELECT n.generation_id, n.period_start FROM place p
                    CROSS JOIN LATERAL (SELECT generation_id, period_start FROM entry_baseline
                                         WHERE (generation_id, period_start) > (p.generation_id, p.period_start)
                                         ORDER BY 1, 2 LIMIT 1) AS n)
               SELECT b.generation_id, b.period_start, b.player_id
                 FROM place JOIN leaderboard_periods p
                   ON p.generation_id = place.generation_id AND p.starts_at = place.period_start
                 JOIN entry_baseline b ON b.generation_id = p.generation_id AND b.period_start = p.starts_at
                  AND (b.period_end IS NULL OR b.period_end = p.ends_at)
                WHERE p.state = 'closed' AND p.closed_at < $1 LIMIT $2) AS few
        WHERE (b.generation_id, b.period_start, b.player_id)
            = (few.generation_id, few.period_start, few.player_id)";
    Ok(sqlx::query(SQL).bind(before).bind(limit).execute(connection).await?.rows_affected())
}
