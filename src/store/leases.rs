//! Leases: who may act alone. A row with a token instead of an advisory lock, because a frozen process keeps its
//! session but not its lease (docs/rules.md#frozen-processes-keep-no-lock). Times are the database's, so clocks of
//! processes do not matter.

use crate::store::{Pool, StoreError};
use sqlx::PgConnection;

/// How long a lease lasts without renewal. Holders renew each second.
pub const LEASE_SECONDS: f64 = 5.0;

/// A lease that this process was given. Whoever acts under it checks it in the same transaction
/// ([`lock_and_check`]); what it does outside Postgres carries the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for, for example `fold-2`.
    pub name: String,
    /// Unique to this tenure; greater than every earlier one, also of a database that went back in time since.
    pub token: i64,
}

/// Takes the lease if nobody holds it or its holder let it expire. Waits for nobody: a lease under which a transaction
/// still acts is not free, however long ago it expired.
pub async fn acquire(pool: &Pool, name: &str, holder: &str) -> Result<Option<Lease>, StoreError> {
    // One that expires later than any renewal says was renewed before the server's clock went back. The sequence alone
    // would go back with the database, and give the token of a holder that still believes in it to the next one.
    let token: Option<i64> = sqlx::query_scalar(
        "WITH ended AS (
             SELECT name FROM leases
              WHERE name = $1 AND expires_at NOT BETWEEN clock_timestamp()
                                                 AND clock_timestamp() + make_interval(secs => 2 * $3::float8)
                FOR UPDATE SKIP LOCKED),
         taken AS (
             UPDATE leases l SET holder = $2,
                                 token = greatest(nextval('lease_token'), l.token + 1,
                                                  (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
                                 expires_at = clock_timestamp() + make_interval(secs => $3)
               FROM ended WHERE l.name = ended.name
             RETURNING l.token),
         made AS (
             INSERT INTO leases (name, holder, token, expires_at)
             SELECT $1, $2,
                    greatest(nextval('lease_token'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
                    clock_timestamp() + make_interval(secs => $3)
              WHERE NOT EXISTS (SELECT 1 FROM leases WHERE name = $1)
             ON CONFLICT (name) DO NOTHING
             RETURNING token)
         SELECT token FROM taken UNION ALL SELECT token FROM made",
    )
    .bind(name)
    .bind(holder)
    .bind(LEASE_SECONDS)
    .fetch_optional(pool)
    .await?;
    Ok(token.map(|token| Lease { name: name.to_owned(), token }))
}

/// Which of these leases nobody holds: one look for all that a standby waits for.
pub async fn free(pool: &Pool, names: &[String]) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar(
        "SELECT wanted.name FROM unnest($1::text[]) AS wanted (name)
          WHERE NOT EXISTS (
                SELECT 1 FROM leases l
                 WHERE l.name = wanted.name AND l.expires_at BETWEEN clock_timestamp()
                                                AND clock_timestamp() + make_interval(secs => 2 * $2::float8))
          ORDER BY wanted.name",
    )
    .bind(names)
    .bind(LEASE_SECONDS)
    .fetch_all(pool)
    .await
}

/// Renews leases; returns those that are still held. Does not wait for transactions that act under them.
pub async fn renew(pool: &Pool, leases: &[Lease]) -> Result<Vec<Lease>, StoreError> {
    let (names, tokens) = columns(leases);
    let held: Vec<(String, i64)> = sqlx::query_as(
        "UPDATE leases l SET expires_at = clock_timestamp() + make_interval(secs => $3)
           FROM (SELECT name FROM leases
                  WHERE (name, token) IN (SELECT * FROM unnest($1::text[], $2::bigint[]))
                  ORDER BY name FOR NO KEY UPDATE) AS mine
          WHERE l.name = mine.name
         RETURNING l.name, l.token",
    )
    .bind(names)
    .bind(tokens)
    .bind(LEASE_SECONDS)
    .fetch_all(pool)
    .await?;
    Ok(held.into_iter().map(|(name, token)| Lease { name, token }).collect())
}

/// Signs off, so that a hand-over is immediate.
pub async fn release(pool: &Pool, leases: &[Lease]) -> Result<(), StoreError> {
    let (names, tokens) = columns(leases);
    sqlx::query(
        "UPDATE leases l SET expires_at = '-infinity'
           FROM (SELECT name FROM leases
                  WHERE (name, token) IN (SELECT * FROM unnest($1::text[], $2::bigint[]))
                  ORDER BY name FOR NO KEY UPDATE) AS mine
          WHERE l.name = mine.name",
    )
    .bind(names)
    .bind(tokens)
    .execute(pool)
    .await?;
    Ok(())
}

/// Locks the lease rows for the rest of the transaction and says whether all are still ours. Until it ends, nobody
/// can take them over; we go on renewing them, however long it takes.
pub async fn lock_and_check(transaction: &mut PgConnection, leases: &[Lease]) -> Result<bool, StoreError> {
    let (names, tokens) = columns(leases);
    let held: Vec<(String,)> = sqlx::query_as(
        "SELECT l.name FROM leases l
          WHERE (l.name, l.token) IN (SELECT * FROM unnest($1::text[], $2::bigint[]))
          ORDER BY l.name FOR KEY SHARE OF l",
    )
    .bind(names)
    .bind(tokens)
    .fetch_all(transaction)
    .await?;
    Ok(held.len() == leases.len())
}

fn columns(leases: &[Lease]) -> (Vec<&str>, Vec<i64>) {
    leases.iter().map(|l| (l.name.as_str(), l.token)).unzip()
}
