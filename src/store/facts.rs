//! The outbox of score facts: rows of packed facts that workers insert and the fold consumes.

use crate::store::{Pool, StoreError};
use sqlx::PgConnection;

use crate::domain::clock::Micros;
use crate::domain::ids::GameId;
use crate::domain::packed_facts::{MAX_ROW_BYTES, PackedFacts};

/// Bytes of facts in one statement, about: what Postgres takes as one message is bounded by this and a row.
const STATEMENT_BYTES: usize = 16 << 20;

/// What stands in one statement.
macro_rules! insert {
    ($query:path, $rows:expr, $returning:literal) => {
        bind!(
            $query(concat!(
                "INSERT INTO score_facts (shard, fact_count, min_received_at, games, facts)
                 SELECT shard, fact_count, min_received_at, games::int[], facts
                   FROM unnest($1::smallint[], $2::int[], $3::timestamptz[], $4::text[], $5::bytea[])
                        AS r (shard, fact_count, min_received_at, games, facts)",
                $returning
            )),
            $rows
        )
    };
}

/// Columns of rows, as the first parameters of a statement.
macro_rules! bind {
    ($query:expr, $rows:expr) => {
        $query
            .bind($rows.iter().map(|r| r.shard).collect::<Vec<_>>())
            .bind($rows.iter().map(|r| r.count).collect::<Vec<_>>())
            .bind($rows.iter().map(|r| r.min_received_at).collect::<Vec<_>>())
            .bind($rows.iter().map(|r| array_text(&r.games)).collect::<Vec<_>>())
            .bind($rows.iter().map(|r| r.bytes.as_slice()).collect::<Vec<_>>())
    };
}

/// Puts rows of facts into the outbox.
pub async fn insert(transaction: &mut PgConnection, rows: &[PackedFacts]) -> Result<(), StoreError> {
    for rows in rows.chunks(STATEMENT_BYTES / MAX_ROW_BYTES) {
        insert!(sqlx::query, rows, "").execute(&mut *transaction).await?;
    }
    Ok(())
}

/// As [`insert`], and says the ids of the rows.
pub async fn insert_known(transaction: &mut PgConnection, rows: &[PackedFacts]) -> Result<Vec<i64>, StoreError> {
    let mut ids = Vec::with_capacity(rows.len());
    for rows in rows.chunks(STATEMENT_BYTES / MAX_ROW_BYTES) {
        ids.extend(insert!(sqlx::query_scalar::<_, i64>, rows, " RETURNING id").fetch_all(&mut *transaction).await?);
    }
    Ok(ids)
}

/// As [`insert_known`], of the parts of a row that was taken: whoever waits for it knows it by its first id.
pub async fn insert_parts(
    transaction: &mut PgConnection,
    parts: &[PackedFacts],
    first_id: i64,
) -> Result<Vec<i64>, StoreError> {
    let mut ids = Vec::with_capacity(parts.len());
    for parts in parts.chunks(STATEMENT_BYTES / MAX_ROW_BYTES) {
        let insert = sqlx::query_scalar::<_, i64>(
            "INSERT INTO score_facts (shard, fact_count, min_received_at, games, facts, first_id)
             SELECT shard, fact_count, min_received_at, games::int[], facts, $6
               FROM unnest($1::smallint[], $2::int[], $3::timestamptz[], $4::text[], $5::bytea[])
                    AS r (shard, fact_count, min_received_at, games, facts)
             RETURNING id",
        );
        ids.extend(bind!(insert, parts).bind(first_id).fetch_all(&mut *transaction).await?);
    }
    Ok(ids)
}

/// An array as Postgres writes it: a parameter cannot be an array of arrays of different lengths.
fn array_text(games: &[GameId]) -> String {
    let numbers: Vec<String> = games.iter().map(|game| game.0.to_string()).collect();
    format!("{{{}}}", numbers.join(","))
}

/// One consumed row.
#[derive(Debug)]
pub struct TakenFacts {
    /// `score_facts.id`.
    pub id: i64,
    /// The id that it had, or what it was cut from, when it was stored.
    pub first_id: i64,
    /// Its shard.
    pub shard: i16,
    /// How many facts it holds.
    pub count: i32,
    /// The smallest `received_at` among them.
    pub min_received_at: Micros,
    /// The games whose periods must not close before it is folded; `None`: written by a program that did not say.
    pub games: Option<Vec<i32>>,
    /// Packed (`domain::packed_facts::unpack`).
    pub facts: Vec<u8>,
}

/// Most rows of one round; with `max_facts` it bounds the round's work and memory.
pub const MAX_ROWS: i64 = 400;

/// Deletes and returns the oldest rows of these shards with a higher id than `after` and none of `but`, about
/// `max_facts` facts of them (at least one row).
pub async fn take(
    transaction: &mut PgConnection,
    shards: &[i16],
    max_facts: i64,
    after: i64,
    but: &[i64],
) -> Result<Vec<TakenFacts>, StoreError> {
    // The ids are chosen in a sub-select that becomes an array, so that the delete is always by primary key.
    let rows: Vec<(i64, i64, i16, i32, Micros, Option<Vec<i32>>, Vec<u8>)> = sqlx::query_as(
        "DELETE FROM score_facts WHERE id = ANY (ARRAY(
             SELECT id FROM (
                 SELECT id, sum(fact_count) OVER (ORDER BY id) - fact_count AS before
                   FROM (SELECT id, fact_count FROM score_facts
                          WHERE shard = ANY ($1) AND id > $4 AND id <> ALL ($5) ORDER BY id LIMIT $3) AS oldest
             ) AS counted WHERE before < $2))
         RETURNING id, coalesce(first_id, id), shard, fact_count, min_received_at, games, facts",
    )
    .bind(shards)
    .bind(max_facts)
    .bind(MAX_ROWS)
    .bind(after)
    .bind(but)
    .fetch_all(transaction)
    .await?;
    let taken = |(id, first_id, shard, count, min_received_at, games, facts)| TakenFacts {
        id,
        first_id,
        shard,
        count,
        min_received_at,
        games,
        facts,
    };
    Ok(rows.into_iter().map(taken).collect())
}

/// Puts a row that cannot be read aside, under a negative shard: it blocks nothing, is not lost, and still holds back
/// the closing of periods.
pub async fn set_aside(transaction: &mut PgConnection, row: &TakenFacts) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO score_facts (shard, fact_count, min_received_at, games, facts) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(-1 - row.shard)
    .bind(row.count)
    .bind(row.min_received_at)
    .bind(&row.games)
    .bind(&row.facts)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Facts of one look at what was put aside, about, and their bytes: the rows are read to know whether they can be.
const ASIDE_FACTS: i64 = 5_000;
const ASIDE_BYTES: i64 = 4 << 20;

/// The oldest rows of these shards that were put aside and have a higher id than `after`: about as much as one fold
/// takes, at least one row.
pub async fn aside(pool: &Pool, shards: &[i16], after: i64) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    sqlx::query_as(
        "SELECT id, facts FROM (
             SELECT id, facts, sum(fact_count) OVER (ORDER BY id) - fact_count AS count_before,
                    sum(octet_length(facts)) OVER (ORDER BY id) - octet_length(facts) AS bytes_before
               FROM (SELECT id, fact_count, facts FROM score_facts
                      WHERE shard < 0 AND -1 - shard = ANY ($1) AND id > $2 ORDER BY id LIMIT $3) AS oldest
         ) AS counted WHERE count_before < $4 AND bytes_before < $5 ORDER BY id",
    )
    .bind(shards)
    .bind(after)
    .bind(MAX_ROWS)
    .bind(ASIDE_FACTS)
    .bind(ASIDE_BYTES)
    .fetch_all(pool)
    .await
}

/// Brings rows that were put aside back, for a program that can read them.
pub async fn bring_back(pool: &Pool, ids: &[i64]) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE score_facts f SET shard = -1 - f.shard
           FROM (SELECT id FROM score_facts WHERE id = ANY ($1) AND shard < 0 ORDER BY id FOR NO KEY UPDATE) AS aside
          WHERE f.id = aside.id",
    )
    .bind(ids)
    .execute(pool)
    .await?;
    Ok(())
}

/// Whether one of these rows, or a part of one, waits to be folded.
pub async fn are_waiting(pool: &Pool, ids: &[i64]) -> Result<bool, StoreError> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM score_facts WHERE id = ANY ($1) AND shard >= 0)
             OR EXISTS (SELECT 1 FROM score_facts WHERE first_id = ANY ($1) AND shard >= 0)",
    )
    .bind(ids)
    .fetch_one(pool)
    .await
}

/// Bytes of one look at what waits, about.
pub const WAITING_BYTES: usize = 16 << 20;

/// What [`take`] would take, up to [`WAITING_BYTES`] and a row: ids, how many facts, and these.
pub async fn waiting(
    pool: &Pool,
    shards: &[i16],
    max_facts: i64,
    after: i64,
    but: &[i64],
) -> Result<Vec<(i64, i32, Vec<u8>)>, StoreError> {
    sqlx::query_as(
        "SELECT id, fact_count, facts FROM (
             SELECT id, fact_count, facts, sum(fact_count) OVER (ORDER BY id) - fact_count AS count_before,
                    sum(octet_length(facts)) OVER (ORDER BY id) - octet_length(facts) AS bytes_before
               FROM (SELECT id, fact_count, facts FROM score_facts
                      WHERE shard = ANY ($1) AND id > $4 AND id <> ALL ($5) ORDER BY id LIMIT $3) AS oldest
         ) AS counted WHERE count_before < $2 AND bytes_before < $6 ORDER BY id",
    )
    .bind(shards)
    .bind(max_facts)
    .bind(MAX_ROWS)
    .bind(after)
    .bind(but)
    .bind(WAITING_BYTES as i64)
    .fetch_all(pool)
    .await
}
