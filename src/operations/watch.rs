//! Watching dependencies while a process runs: one task each asks for a sign of life and notes the answer, so that
//! `/readyz` costs no one a question.

use std::time::Duration;

use super::readiness::Readiness;
use crate::lifecycle::Lifecycle;
use crate::queue::server;
use crate::redis_connection::Connection;
use crate::store::pool::Pool;
use crate::store::processes;

/// Time between two questions. Work does not wait for the answer: whoever needs a dependency finds out by using it.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time between two questions to a dependency that is away: with the patience it must stay below the 5 s within which
/// work goes on after it is back.
const INTERVAL_AWAY: Duration = Duration::from_millis(500);
/// Longest wait for an answer before a dependency counts as lost.
const PATIENCE: Duration = Duration::from_secs(3);
/// A process says that it is alive each so many questions.
const REGISTER_EVERY: u32 = 2;

const fn next_pause(there: bool) -> Duration {
    if there { INTERVAL } else { INTERVAL_AWAY }
}

/// Watches a Redis that `dependency` names. `holds_queue`: it keeps jobs, so it must not evict.
pub fn redis(
    dependency: &'static str,
    connection: Connection,
    holds_queue: bool,
    readiness: Readiness,
    lifecycle: &Lifecycle,
) {
    let stop = lifecycle.soft.clone();
    lifecycle.tasks.spawn(async move {
        let mut pause = INTERVAL;
        while tokio::time::timeout(pause, stop.cancelled()).await.is_err() {
            pause = next_pause(check_redis(dependency, &connection, holds_queue, &readiness).await);
        }
    });
}

/// Asks once; says whether it can be used.
pub async fn check_redis(
    dependency: &'static str,
    connection: &Connection,
    holds_queue: bool,
    readiness: &Readiness,
) -> bool {
    let problem = match tokio::time::timeout(PATIENCE, server::inspect(connection)).await {
        Err(_) => "no answer in time".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(report)) => match if holds_queue { report.unsafe_for_queue() } else { report.too_old() } {
            Some(problem) => problem,
            None => {
                readiness.ready(dependency, report.to_string());
                return true;
            }
        },
    };
    readiness.unready(dependency, problem);
    false
}

/// Watches Postgres and keeps this process's row in `processes` fresh.
pub fn postgres(pool: Pool, process_id: String, readiness: Readiness, lifecycle: &Lifecycle) {
    let stop = lifecycle.soft.clone();
    lifecycle.tasks.spawn(async move {
        let (mut round, mut pause) = (0, INTERVAL);
        while tokio::time::timeout(pause, stop.cancelled()).await.is_err() {
            round = (round + 1) % REGISTER_EVERY;
            let (pool, id, readiness) = (pool.clone(), process_id.clone(), readiness.clone());
            // A task of its own: no statement is dropped half way when the patience ends.
            let asking = tokio::spawn(async move {
                let there = check_postgres(&pool, &readiness).await;
                if there && round == 0 {
                    let _ = processes::register(&pool, &id, readiness.role(), pool.state().max).await;
                }
                there
            });
            pause = next_pause(asking.await.unwrap_or(false));
        }
        let _ = processes::unregister(&pool, &process_id).await;
    });
}

/// Asks once; says whether it can be used.
pub async fn check_postgres(pool: &Pool, readiness: &Readiness) -> bool {
    match processes::ping(pool).await {
        Ok(version) if version / 10_000 < 15 => {
            readiness.unready("postgres", format!("Postgres {} is too old: 15 or newer is needed", version / 10_000));
            false
        }
        Ok(version) => {
            readiness.ready("postgres", format!("Postgres {}.{}", version / 10_000, version % 10_000));
            true
        }
        Err(error) => {
            readiness.unready("postgres", error.to_string());
            false
        }
    }
}
