//! Starting a role: waiting for what it needs, and saying so.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;

use super::listener::Operations;
use super::readiness::Readiness;
use super::settings::ShutdownConfig;
use super::watch::{self, WatchedRedis};
use crate::directory::follow::Truth;
use crate::directory::{DirectorySource, SharedDirectory};
use crate::domain::clock::Clock;
use crate::domain::directory::Snapshot;
use crate::domain::retry::Backoff;
use crate::http::server::{self, ServerConfig};
use crate::http::settings::HttpConfig;
use crate::queue::{Keys, Queue};
use crate::redis_connection::settings::{RedisConfig, RedisUse};
use crate::redis_connection::{Connection, Timeouts};
use crate::runtime::lifecycle::Lifecycle;
use crate::store::failure::can_never_work;
use crate::store::migrations::{self, SchemaStatus};
use crate::store::pool::Pool;
use crate::store::settings::PostgresConfig;
use crate::store::{StoreError, directory as stored_directory, partitions, processes};

pub use crate::queue::keys::QUEUE_NAME;

/// First and longest pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a wait is mentioned in the log.
const MENTION_EVERY: Duration = Duration::from_secs(5);
/// The setting that chooses the operations listener of a process that is one role.
pub const OPERATIONS_SETTING: &str = "OPS_LISTEN";

/// Why a role did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is unusable or unsafe.
    #[error("{0}")]
    Config(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}, where {setting} says: {source}")]
    Listen {
        /// The setting that chose the address.
        setting: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The database lacks migrations.
    #[error(
        "the database schema is older than this program needs ({pending} pending, first {first}): run `scoreline migrate`"
    )]
    Schema {
        /// How many are pending.
        pending: usize,
        /// The oldest of them.
        first: i64,
    },
    /// Metrics could not be set up.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// Asked to stop before the start was finished.
    #[error("stopped while waiting for {0}")]
    Stopped(&'static str),
    /// A part of the role did not start.
    #[error("{0}")]
    Part(String),
}

/// A role that runs.
#[derive(Debug, Clone)]
pub struct RunningRole {
    /// `ingest`, `worker`, `cron` or `api`.
    pub role: &'static str,
    /// Its public address, where it has one.
    pub address: Option<SocketAddr>,
    /// Its operations listener.
    pub operations: SocketAddr,
}

impl StartError {
    /// The same of a process in which the operations address has another name (`scoreline up` has one per role).
    #[must_use]
    pub fn with_operations_named(self, setting: &'static str) -> Self {
        match self {
            Self::Listen { setting: OPERATIONS_SETTING, address, source } => Self::Listen { setting, address, source },
            other => other,
        }
    }
}

/// Binds a listener; returns it with its address (port 0 becomes a real one). `setting`: what chose the address.
///
/// # Errors
/// [`StartError::Listen`].
pub async fn listen(setting: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bind = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind.await.map_err(|source| StartError::Listen { setting, address, source })
}

/// Serves a role's public router as an essential task.
pub fn serve(
    role: &'static str,
    listener: TcpListener,
    router: Router,
    http: &HttpConfig,
    shutdown: &ShutdownConfig,
    clock: &Clock,
    lifecycle: &Lifecycle,
) {
    let config = ServerConfig::public(role, http, Duration::from_secs(shutdown.shutdown_drain_seconds));
    lifecycle.spawn_essential(role, server::serve(listener, router, config, clock.clone(), lifecycle.clone()));
}

/// What this process is called in `processes` and leases: role, host, process id, start in microseconds.
pub fn process_id(role: &str, clock: &Clock) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{role}-{}-{}-{:x}", host.trim(), std::process::id(), clock.now().0)
}

/// Why a step of a start did not succeed.
#[derive(Debug)]
pub enum Hold {
    /// Something falters: the step is repeated. Says what.
    Wait(String),
    /// No wait can mend it.
    Never(StartError),
}

impl From<StoreError> for Hold {
    fn from(error: StoreError) -> Self {
        if can_never_work(&error) {
            Self::Never(StartError::Config(format!("DATABASE_URL: {error}")))
        } else {
            Self::Wait(error.to_string())
        }
    }
}

/// Repeats a step of a start until it succeeds, with growing pauses; says what is waited for and why, in the log and on
/// `/readyz`. The same rule for all: whatever may mend itself is waited for, and a setting that can never work is not.
///
/// # Errors
/// What can never work, or a stop while waiting.
pub async fn wait_for<T, F, Fut>(
    what: &'static str,
    operations: &Operations,
    lifecycle: &Lifecycle,
    mut attempt: F,
) -> Result<T, StartError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Hold>>,
{
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut mentioned: Option<tokio::time::Instant> = None;
    loop {
        let reason = match attempt().await {
            Ok(done) => return Ok(done),
            Err(Hold::Never(error)) => return Err(error),
            Err(Hold::Wait(reason)) => reason,
        };
        operations.readiness.unready("startup", format!("waiting for {what}: {reason}"));
        if mentioned.is_none_or(|at| at.elapsed() >= MENTION_EVERY) {
            mentioned = Some(tokio::time::Instant::now());
            tracing::warn!(role = operations.readiness.role(), reason, "waiting for {what}");
        }
        if tokio::time::timeout(backoff.pause(), lifecycle.soft.cancelled()).await.is_ok() {
            return Err(StartError::Stopped(what));
        }
    }
}

/// Opens the process's pools (primary, and the replica where there is one), waits for Postgres, checks the schema and
/// the connection budget, registers the process and watches it from then on.
///
/// # Errors
/// A bad URL, an old schema, a database that keeps no UTF-8, or a stop while waiting.
pub async fn postgres(
    config: &PostgresConfig,
    clock: &Clock,
    operations: &Operations,
    lifecycle: &Lifecycle,
) -> Result<(Pool, Option<Pool>), StartError> {
    let role = operations.readiness.role();
    let bad_url = |error: StoreError| StartError::Config(format!("DATABASE_URL: {error}"));
    let pool = Pool::lazy(config, role).map_err(bad_url)?;
    let read = Pool::lazy_read(config, role).map_err(bad_url)?;
    let mut shown = vec![("primary", pool.clone())];
    shown.extend(read.clone().map(|read| ("replica", read)));
    operations.show_pools(shown);
    let (readiness, id) = (&operations.readiness, process_id(role, clock));
    let registered = AtomicBool::new(false);
    let prepared = wait_for("postgres", operations, lifecycle, || prepare(&pool, &id, readiness, &registered)).await;
    if prepared.is_err() && registered.into_inner() {
        watch::sign_off(&pool, id.clone()).await;
    }
    prepared?;
    watch::postgres(pool.clone(), id, readiness.clone(), lifecycle);
    Ok((pool, read))
}

/// One attempt at everything that is asked of Postgres before a role goes on; tells whether it has registered the
/// process, or may have.
async fn prepare(pool: &Pool, id: &str, readiness: &Readiness, registered: &AtomicBool) -> Result<(), Hold> {
    if !watch::check_postgres(pool, readiness).await? {
        return Err(Hold::Wait(readiness.report().reasons.join("; ")));
    }
    let mut connection = pool.acquire().await?;
    migrations::check_encoding(&mut connection).await?.map_err(|error| Hold::Never(StartError::Config(error)))?;
    let SchemaStatus { pending, .. } =
        migrations::status(&mut connection).await.map_err(|error| Hold::Wait(error.to_string()))?;
    if let Some(first) = pending.first() {
        return Err(Hold::Never(StartError::Schema { pending: pending.len(), first: first.version }));
    }
    drop(connection);
    // A role that only reads starts without: it says that it runs when that can be written.
    if watch::may_write(readiness) {
        registered.store(true, Ordering::Relaxed);
        processes::register(pool, id, readiness.role(), pool.state().max).await?;
    }
    check_budget(pool).await
}

/// Refuses a pool larger than the server allows; warns when it is the sum of all processes that is.
async fn check_budget(pool: &Pool) -> Result<(), Hold> {
    let max = pool.state().max;
    let budget = processes::connection_budget(pool).await?;
    if i64::from(max) > budget.allowed {
        return Err(Hold::Never(StartError::Config(format!(
            "DB_POOL_MAX is {max}, but the server allows {} connections in all",
            budget.allowed
        ))));
    }
    if budget.claimed > budget.allowed {
        let (claimed, allowed) = (budget.claimed, budget.allowed);
        tracing::warn!(claimed, allowed, "the running processes may open more connections than Postgres allows");
    }
    Ok(())
}

/// Opens a connection to the Redis of one use, and watches it from then on. Waits for it, unless the role does without:
/// then it starts degraded, as it would go on degraded if it lost it later.
///
/// # Errors
/// A bad URL, or a stop while waiting.
pub async fn redis(
    use_: RedisUse,
    config: &RedisConfig,
    operations: &Operations,
    lifecycle: &Lifecycle,
) -> Result<Connection, StartError> {
    let url = config.url_of(use_);
    let connection = Connection::open(url, Timeouts::default())
        .map_err(|error| StartError::Config(format!("the URL of {} is unusable: {error}", use_.name())))?;
    let readiness = &operations.readiness;
    let watched = WatchedRedis {
        dependency: use_.name(),
        connection: connection.clone(),
        holds_queue: use_ == RedisUse::Queue,
        keeps_boards: use_ == RedisUse::Ranking,
        writes_to: written_key(readiness.role(), use_, &config.redis_prefix),
    };
    let there = wait_for(use_.name(), operations, lifecycle, || async {
        if watch::check_redis(&watched, readiness).await {
            return Ok(true);
        }
        let (role, reason) =
            (readiness.role(), readiness.of(use_.name()).map(|found| found.detail).unwrap_or_default());
        if readiness.does_without(use_.name()) {
            tracing::warn!(role, dependency = use_.name(), reason, "starting without it");
            return Ok(false);
        }
        Err(Hold::Wait(reason))
    })
    .await?;
    watch::redis(watched, there, readiness.clone(), lifecycle);
    Ok(connection)
}

/// A key of the slot that a role writes to on the Redis of one use; `None`: it only reads there.
fn written_key(role: &str, use_: RedisUse, prefix: &str) -> Option<String> {
    match (role, use_) {
        (_, RedisUse::Queue) => Some(Keys::new(prefix, QUEUE_NAME).jobs()),
        ("ingest", RedisUse::Limits) => Some(format!("{{{prefix}:a:probe}}")),
        ("cron", RedisUse::Cache | RedisUse::Ranking) => Some(format!("{{{prefix}:probe}}")),
        _ => None,
    }
}

/// Makes sure that the partitions exist into which accepted events may fall, before a role is ready. Waits while they
/// cannot be made.
///
/// # Errors
/// A stop while waiting.
pub async fn partitions(
    pool: &Pool,
    clock: &Clock,
    max_event_age_seconds: u32,
    operations: &Operations,
    lifecycle: &Lifecycle,
) -> Result<(), StartError> {
    wait_for("partitions", operations, lifecycle, || async {
        let (from, to) = partitions::window(clock.now(), max_event_age_seconds);
        partitions::ensure(pool, from, to).await.map(|_| ()).map_err(|error| Hold::Wait(error.to_string()))
    })
    .await
}

/// Opens the queue, waits for its Redis and watches it from then on.
///
/// # Errors
/// A bad URL or prefix, or a stop while waiting.
pub async fn queue(config: &RedisConfig, operations: &Operations, lifecycle: &Lifecycle) -> Result<Queue, StartError> {
    redis(RedisUse::Queue, config, operations, lifecycle).await?;
    Queue::open(config.url_of(RedisUse::Queue), &config.redis_prefix, QUEUE_NAME, Timeouts::default())
        .map_err(|error| StartError::Config(format!("the queue: {error}")))
}

/// Waits for the first snapshot of the directory and follows it from then on. `truth`: where a role that reaches
/// Postgres reads the first one while Redis has none.
///
/// # Errors
/// A bad URL, or a stop while waiting.
pub async fn directory(
    config: &RedisConfig,
    truth: Option<&Pool>,
    operations: &Operations,
    lifecycle: &Lifecycle,
) -> Result<SharedDirectory, StartError> {
    const NAME: &str = "directory";
    redis(RedisUse::Cache, config, operations, lifecycle).await?;
    operations.readiness.unready(NAME, "waiting for the first snapshot in Redis, which cron publishes");
    let bad_url = |error| StartError::Config(format!("REDIS_CACHE_URL: {error}"));
    let source = DirectorySource::open(config.url_of(RedisUse::Cache), &config.redis_prefix).map_err(bad_url)?;
    let read = truth.map(from_postgres);
    let truth = read.as_ref().map(|read| read as &Truth<'_>);
    let first = source.wait_for_first(truth, &lifecycle.soft).await.ok_or(StartError::Stopped(NAME))?;
    operations.readiness.ready(NAME, "read");
    lifecycle.spawn_essential(NAME, source.follow(std::sync::Arc::clone(&first), lifecycle.soft.clone()));
    Ok(first)
}

/// Reads the directory where it is made from.
fn from_postgres<'a>(pool: &'a Pool) -> impl Fn() -> BoxFuture<'a, Result<Snapshot, String>> {
    move || Box::pin(async move { stored_directory::snapshot(pool).await.map_err(|error| error.to_string()) })
}
