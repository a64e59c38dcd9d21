//! What a look at an outbox tells those who take nothing from it. The ids of its rows grow; those that were taken leave
//! dead ones, over which a look walks that does not begin behind them.

use sqlx::PgConnection;

/// What a look has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// How much waits.
    pub count: i64,
    /// The lowest id that waits behind where the look began.
    pub oldest: Option<i64>,
    /// The highest id that was given out.
    pub issued: i64,
}

fn glance((count, oldest, issued): (i64, Option<i64>, i64)) -> Glance {
    Glance { count, oldest, issued }
}

/// Whether facts of these shards wait behind `after`: the count is 1 or 0.
///
/// # Errors
/// Whatever Postgres says.
pub async fn any_facts(connection: &mut PgConnection, shards: &[i16], after: i64) -> Result<Glance, sqlx::Error> {
    sqlx::query_as(
        "SELECT (oldest IS NOT NULL)::int::bigint, oldest, issued
           FROM (SELECT (SELECT id FROM score_facts WHERE shard = ANY ($1) AND id > $2 ORDER BY id LIMIT 1) AS oldest,
                        (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM score_facts_id_seq) AS issued) AS seen",
    )
    .bind(shards)
    .bind(after)
    .fetch_one(connection)
    .await
    .map(glance)
}

/// Whether markers of these shards wait behind `after`: the count is 1 or 0.
///
/// # Errors
/// Whatever Postgres says.
pub async fn any_markers(connection: &mut PgConnection, shards: &[i16], after: i64) -> Result<Glance, sqlx::Error> {
    sqlx::query_as(
        "SELECT (oldest IS NOT NULL)::int::bigint, oldest, issued
           FROM (SELECT (SELECT id FROM dirty_entries WHERE shard = ANY ($1) AND id > $2 ORDER BY id LIMIT 1) AS oldest,
                        (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM dirty_entries_id_seq) AS issued) AS seen",
    )
    .bind(shards)
    .bind(after)
    .fetch_one(connection)
    .await
    .map(glance)
}

/// How many facts wait to be folded: of at most 10,000 rows behind `after`. Those that were put aside wait for another
/// program.
///
/// # Errors
/// Whatever Postgres says.
pub async fn facts(connection: &mut PgConnection, after: i64) -> Result<Glance, sqlx::Error> {
    sqlx::query_as(
        "WITH few AS MATERIALIZED (
             SELECT id, fact_count FROM score_facts WHERE shard >= 0 AND id > $1 ORDER BY id LIMIT 10000)
         SELECT (SELECT coalesce(sum(fact_count), 0) FROM few)::bigint,
                (SELECT min(id) FROM few),
                (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM score_facts_id_seq)",
    )
    .bind(after)
    .fetch_one(connection)
    .await
    .map(glance)
}

/// How many facts were put aside: of at most 10,000 rows.
///
/// # Errors
/// Whatever Postgres says.
pub async fn facts_aside(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT coalesce(sum(fact_count), 0)::bigint
           FROM (SELECT fact_count FROM score_facts WHERE shard < 0 ORDER BY id LIMIT 10000) AS aside",
    )
    .fetch_one(connection)
    .await
}

/// How many markers wait: of at most 10,000 behind `after`, and of as many that were put aside.
///
/// # Errors
/// Whatever Postgres says.
pub async fn markers(connection: &mut PgConnection, after: i64) -> Result<Glance, sqlx::Error> {
    sqlx::query_as(
        "WITH few AS MATERIALIZED (
             SELECT id FROM dirty_entries WHERE shard >= 0 AND id > $1 ORDER BY id LIMIT 10000),
         aside AS (SELECT id FROM dirty_entries WHERE shard < 0 ORDER BY id LIMIT 10000)
         SELECT (SELECT count(*) FROM few) + (SELECT count(*) FROM aside),
                (SELECT min(id) FROM few),
                (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM dirty_entries_id_seq)",
    )
    .bind(after)
    .fetch_one(connection)
    .await
    .map(glance)
}
