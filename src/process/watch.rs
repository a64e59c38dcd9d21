//! Watching dependencies while a process runs: one task each asks for a sign of life and notes the answer, so that
//! `/readyz` costs no one a question.

use std::time::Duration;

use super::readiness::Readiness;
use crate::queue::server;
use crate::redis_connection::Connection;
use crate::runtime::lifecycle::Lifecycle;
use crate::store::pool::Pool;
use crate::store::{StoreError, processes};

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

/// A Redis that is watched.
#[derive(Debug, Clone)]
pub struct WatchedRedis {
    /// Its name on `/readyz`.
    pub dependency: &'static str,
    /// How it is reached.
    pub connection: Connection,
    /// It keeps jobs, so it must not evict.
    pub holds_queue: bool,
    /// It keeps leaderboards: one that evicts parts of them degrades who reads or writes them.
    pub keeps_boards: bool,
    /// The role writes to it: a key of the slot that is meant.
    pub writes_to: Option<String>,
}

/// Watches a Redis; `there`: whether it could be used when it was asked last.
pub fn redis(watched: WatchedRedis, there: bool, readiness: Readiness, lifecycle: &Lifecycle) {
    let stop = lifecycle.soft.clone();
    lifecycle.tasks.spawn(async move {
        let mut pause = next_pause(there);
        while tokio::time::timeout(pause, stop.cancelled()).await.is_err() {
            pause = next_pause(check_redis(&watched, &readiness).await);
        }
    });
}

/// What `/readyz` calls whether the ranking Redis keeps whole leaderboards.
const EVICTION: &str = "redis_ranking_eviction";

/// Asks once; says whether it can be used.
pub async fn check_redis(watched: &WatchedRedis, readiness: &Readiness) -> bool {
    let WatchedRedis { dependency, connection, holds_queue, keeps_boards, writes_to } = watched;
    let asking = async {
        match writes_to {
            Some(key) => server::inspect_writable(connection, key).await,
            None => server::inspect(connection).await,
        }
    };
    let problem = match tokio::time::timeout(PATIENCE, asking).await {
        Err(_) => "no answer in time".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(report)) => match if *holds_queue { report.unsafe_for_queue() } else { report.too_old() } {
            Some(problem) => problem,
            None => {
                readiness.ready(dependency, report.to_string());
                match report.unsafe_for_ranking().filter(|_| *keeps_boards) {
                    Some(problem) => readiness.unready(EVICTION, problem),
                    None if *keeps_boards => readiness.ready(EVICTION, report.maxmemory_policy),
                    None => {}
                }
                return true;
            }
        },
    };
    readiness.unready(dependency, problem);
    false
}

/// What a role writes to, as tables and privileges: without them it is of no use, however well the server is.
fn rights(role: &str) -> &'static [(&'static str, &'static str)] {
    match role {
        "worker" => &[
            ("events", "INSERT"),
            ("events", "SELECT"),
            ("score_facts", "INSERT"),
            ("games", "UPDATE"),
            ("dead_letters", "INSERT"),
            ("dead_letters", "UPDATE"),
        ],
        "cron" => &[
            ("score_facts", "DELETE"),
            ("leaderboard_entries", "INSERT"),
            ("leaderboard_entries", "UPDATE"),
            ("leaderboard_periods", "INSERT"),
            ("dirty_entries", "INSERT"),
            ("leases", "UPDATE"),
        ],
        _ => &[("leaderboards", "UPDATE")],
    }
}

/// Watches Postgres and keeps this process's row in `processes` fresh.
pub fn postgres(pool: Pool, process_id: String, readiness: Readiness, lifecycle: &Lifecycle) {
    let stop = lifecycle.soft.clone();
    lifecycle.tasks.spawn(async move {
        let (mut round, mut pause) = (0, INTERVAL);
        while tokio::time::timeout(pause, stop.cancelled()).await.is_err() {
            round = (round + 1) % REGISTER_EVERY;
            let (pool, id, readiness) = (pool.clone(), process_id.clone(), readiness.clone());
            let commits = (pool.clone(), readiness.clone());
            // A task of its own: no statement is dropped half way when the patience ends.
            let mut asking = tokio::spawn(async move {
                let there = check_postgres(&pool, &readiness).await.unwrap_or(false);
                if there && round == 0 && may_write(&readiness) {
                    let registered = processes::register(&pool, &id, readiness.role(), pool.state().max).await;
                    if let Err(error) = registered {
                        readiness.unready(WRITES, error.to_string());
                        return false;
                    }
                }
                there
            });
            // It writes, too, and may wait with all others.
            let there = loop {
                tokio::select! {
                    there = &mut asking => break there.unwrap_or(false),
                    () = stop.cancelled() => break tokio::time::timeout(PATIENCE, &mut asking).await.is_ok(),
                    () = tokio::time::sleep(TELL_EVERY) => if let Some(refusal) = commits_wait(&commits.0) {
                        commits.1.unready(WRITES, refusal);
                    },
                }
            };
            pause = next_pause(there);
        }
        sign_off(&pool, process_id).await;
    });
}

/// Takes this process out of `processes`, if Postgres answers soon.
pub async fn sign_off(pool: &Pool, process_id: String) {
    let pool = pool.clone();
    let sign_off = tokio::spawn(async move { processes::unregister(&pool, &process_id).await });
    let _ = tokio::time::timeout(PATIENCE, sign_off).await;
}

/// How often `/readyz` hears what work met.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Tells what the work of a role itself met, as `work`: `trouble` says why nothing gets on, when that has lasted.
pub fn work(trouble: impl Fn() -> Option<String> + Send + 'static, readiness: Readiness, lifecycle: &Lifecycle) {
    let stop = lifecycle.soft.clone();
    lifecycle.tasks.spawn(async move {
        while tokio::time::timeout(TELL_EVERY, stop.cancelled()).await.is_err() {
            match trouble() {
                Some(trouble) => readiness.unready("work", trouble),
                None => readiness.ready("work", "goes on"),
            }
        }
    });
}

/// What `/readyz` calls whether Postgres may be written to.
const WRITES: &str = "postgres_writes";

fn commits_wait(pool: &Pool) -> Option<String> {
    let lasts = pool.commits_wait()?;
    Some(format!("commits have been waiting for a synchronous stand-by for {} s", lasts.as_secs()))
}

/// Whether Postgres took writes when it was asked last.
pub fn may_write(readiness: &Readiness) -> bool {
    readiness.of(WRITES).is_some_and(|writes| writes.ready)
}

/// Asks once; says whether the role can use it: a role that writes cannot while it may not.
///
/// # Errors
/// It cannot be asked; noted as the reason, too.
pub async fn check_postgres(pool: &Pool, readiness: &Readiness) -> Result<bool, StoreError> {
    let state = match processes::ask(pool, rights(readiness.role())).await {
        Ok(state) => state,
        Err(error) => {
            readiness.unready("postgres", error.to_string());
            return Err(error);
        }
    };
    let (major, minor) = (state.version / 10_000, state.version % 10_000);
    if major < 15 {
        readiness.unready("postgres", format!("Postgres {major} is too old: 15 or newer is needed"));
        return Ok(false);
    }
    readiness.ready("postgres", format!("Postgres {major}.{minor}"));
    let refusal = if state.in_recovery {
        Some("it is a standby that was not promoted".to_owned())
    } else if state.read_only {
        Some("transactions are read-only (default_transaction_read_only)".to_owned())
    } else if let Some(refusal) = commits_wait(pool) {
        Some(refusal)
    } else if state.missing_rights.is_empty() {
        None
    } else {
        Some(format!("rights are missing: {}", state.missing_rights.join(", ")))
    };
    let Some(refusal) = refusal else {
        readiness.ready(WRITES, "allowed");
        return Ok(true);
    };
    if state.in_recovery || state.read_only {
        // A fail-over may have moved the address: new connections find out.
        pool.renew_connections();
    }
    readiness.unready(WRITES, refusal);
    Ok(!readiness.needs(WRITES))
}
