//! Two transactions that want the same two rows, made to meet so that opposite orders deadlock every time.

use std::time::Duration;

use futures_util::future::BoxFuture;
use scoreline::store::pool::Pool;
use tokio::task::JoinHandle;

use crate::support::eventually;
use crate::support::postgres::TestDatabase;

/// What meets: a transaction of its own, whole.
pub type Party = BoxFuture<'static, Result<(), sqlx::Error>>;

/// Locks both rows, each by a transaction of its own; begins both parties; lets the first row go, and the second when
/// both stand where that has brought them. Whoever has the first row then waits for the second behind who came from
/// there. Returns how they ended.
pub async fn meet(pool: &Pool, gates: [&'static str; 2], parties: [Party; 2]) -> Vec<Result<(), sqlx::Error>> {
    let mut held = Vec::new();
    for gate in gates {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query(gate).execute(&mut *transaction).await.unwrap();
        held.push((backend(&mut transaction).await, transaction));
    }
    let tasks = parties.map(tokio::spawn);
    for (gate, transaction) in held {
        settled(pool, &tasks, None).await;
        transaction.rollback().await.unwrap();
        settled(pool, &tasks, Some(gate)).await;
    }
    ended(tasks).await
}

/// Waits until each party has ended or waits for a lock, though not for one that `gone` held.
async fn settled(pool: &Pool, tasks: &[JoinHandle<Result<(), sqlx::Error>>; 2], gone: Option<i32>) {
    eventually("each party waits or has ended", Duration::from_secs(20), || async {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND wait_event_type = 'Lock'
                AND ($1::integer IS NULL OR $1 <> ALL (pg_blocking_pids(pid)))",
        )
        .bind(gone)
        .fetch_one(pool)
        .await
        .unwrap();
        waiting as usize + tasks.iter().filter(|task| task.is_finished()).count() >= tasks.len()
    })
    .await;
}

/// As [`meet`], for rows that are not there yet: whoever inserts two rows into this table stops between them, until
/// each party stands there or waits for another.
pub async fn meet_inserting(
    database: &TestDatabase,
    table: &'static str,
    parties: [Party; 2],
) -> Vec<Result<(), sqlx::Error>> {
    let mut gate = database.superuser().await;
    let statements = format!(
        "CREATE OR REPLACE FUNCTION stop_between() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('meeting.inserts', true) = '1' THEN
                 PERFORM pg_advisory_xact_lock_shared(1);
             END IF;
             PERFORM set_config('meeting.inserts', '1', true);
             RETURN NEW;
         END $$;
         CREATE OR REPLACE TRIGGER stop_between BEFORE INSERT ON {table}
             FOR EACH ROW EXECUTE FUNCTION stop_between();
         SELECT pg_advisory_lock(1)"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut gate).await.unwrap();
    let tasks = parties.map(tokio::spawn);
    settled(&database.pool, &tasks, None).await;
    sqlx::query("SELECT pg_advisory_unlock(1)").execute(&mut gate).await.unwrap();
    ended(tasks).await
}

async fn ended(tasks: [JoinHandle<Result<(), sqlx::Error>>; 2]) -> Vec<Result<(), sqlx::Error>> {
    let mut ended = Vec::new();
    for task in tasks {
        ended.push(task.await.unwrap());
    }
    ended
}

async fn backend(connection: &mut sqlx::PgConnection) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection).await.unwrap()
}

/// Whether one of them was ended because it and the other waited for each other.
pub fn deadlocked(ended: &[Result<(), sqlx::Error>]) -> bool {
    let code = |error: &sqlx::Error| error.as_database_error().and_then(|e| e.code().map(|code| code == "40P01"));
    ended.iter().any(|end| end.as_ref().is_err_and(|error| code(error) == Some(true)))
}

/// Statements of one transaction, one after the other.
pub fn statements(pool: &Pool, all: &'static [&'static str]) -> Party {
    let pool = pool.clone();
    Box::pin(async move {
        let mut transaction = pool.begin().await?;
        for statement in all {
            sqlx::query(*statement).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    })
}
