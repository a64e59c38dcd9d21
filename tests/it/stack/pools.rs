//! What a pool hands from one user to the next.

use clap::Parser;
use scoreline::store::pool::Pool;
use scoreline::store::settings::PostgresConfig;
use sqlx::Connection;

use crate::support;

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    postgres: PostgresConfig,
}

/// A pool as a process makes it, of one connection.
async fn pool() -> (support::postgres::TestDatabase, Pool) {
    let database = support::postgres::database().await;
    let settings = Settings::parse_from(["test", "--database-url", &database.url, "--db-pool-max", "1"]);
    let pool = Pool::lazy(&settings.postgres, "pool").unwrap();
    (database, pool)
}

async fn server_process(pool: &Pool) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_connection_inside_of_a_transaction_is_not_handed_on() {
    let (_database, pool) = pool().await;
    let first = server_process(&pool).await;
    let mut connection = pool.acquire().await.unwrap();
    // Whoever forgets a transaction leaves no roll-back behind; sqlx has counted it.
    std::mem::forget(connection.begin().await.unwrap());
    drop(connection);
    assert_ne!(server_process(&pool).await, first);
}

#[tokio::test]
async fn postgres_tells_of_a_transaction_and_of_limits_that_nobody_counted() {
    for statement in ["BEGIN", "SET lock_timeout = 0", "BEGIN; SELECT 1 / 0"] {
        let (_database, pool) = pool().await;
        let mut connection = pool.acquire().await.unwrap();
        let first: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
        let _ = sqlx::raw_sql(statement).execute(&mut *connection).await;
        drop(connection);
        assert_ne!(server_process(&pool).await, first, "{statement}");
    }
}

#[tokio::test]
async fn a_connection_that_is_as_it_began_is_used_again() {
    let (_database, pool) = pool().await;
    let first = server_process(&pool).await;
    for ended in [true, false] {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("SET LOCAL lock_timeout = '1s'").execute(&mut *transaction).await.unwrap();
        if ended {
            transaction.commit().await.unwrap();
        } else {
            drop(transaction);
        }
        assert_eq!(server_process(&pool).await, first);
    }
}
