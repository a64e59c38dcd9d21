//! The Postgres pool of a process: sized by role, guarded on every connection, and with its waiters counted.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryFutureExt, TryStreamExt};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection, Either, Execute, Executor, PgConnection, Postgres, SqlStr};
use tokio::time::Instant;

use super::settings::PostgresConfig;
use super::{StoreError, processes, sockets};
use crate::telemetry::metrics as names;

/// A connection that was idle for longer is asked for a sign of life before it is used; a younger one is not, because
/// that costs each statement a round trip, also those that a process at rest sends every few seconds.
const CHECK_AFTER_IDLE: Duration = Duration::from_secs(7);
/// A healthy server ends a statement at its own limit. One that has not answered so much later does not answer at all:
/// its process is stuck, or what stands between has lost it.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// How often answers that are overdue are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often Postgres is asked in what state a connection comes back. More often would cost each use a round trip.
const INSPECT_EVERY: Duration = Duration::from_secs(10);
/// An answer that is overdue for so long may be a commit that waits for a stand-by: the server is asked.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// How often the server is asked then, and how long that may take.
const ASK_EVERY: Duration = Duration::from_secs(2);
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// Commits that wait for less are not told.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// Connections of a process by role (docs/rules.md#pools-fit-the-server). Two nearly saturate a writer; the server's
/// default is 100 in all.
pub const fn default_max(role: &str) -> u32 {
    match role.as_bytes() {
        b"api" => 10,
        _ => 4,
    }
}

/// What `/health/pool` says of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct PoolState {
    /// Open connections.
    pub total: u32,
    /// Of those, unused.
    pub idle: u32,
    /// Tasks that wait for a connection.
    pub waiting: u32,
    /// Most connections.
    pub max: u32,
}

/// A `sqlx` pool that knows how many tasks wait for it. Used like the pool it wraps; a statement run on the pool
/// itself collects its rows, so a long result is streamed from [`Pool::acquire`].
#[derive(Debug, Clone)]
pub struct Pool {
    inner: sqlx::PgPool,
    waiting: Arc<AtomicU32>,
    /// Connections made before it are not used again.
    renewed_at: Arc<Mutex<Option<Instant>>>,
    /// Since when commits wait for a synchronous stand-by.
    commits_wait: Since,
    /// Ends the watch over its connections with the last clone.
    _watched: Option<Arc<Watched>>,
}

/// Since when something is so, if it is.
type Since = Arc<Mutex<Option<Instant>>>;

/// What the watch over a pool's connections needs of it, for as long as it is there.
#[derive(Debug)]
struct Watched(sqlx::PgPool);

/// Counts a waiter for as long as it lives, also when its future is dropped.
struct Waiting(Arc<AtomicU32>);

impl Waiting {
    fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Wraps a pool, as tests and tools make it.
    pub fn new(inner: sqlx::PgPool) -> Self {
        let (renewed_at, commits_wait) = (Arc::default(), Arc::default());
        Self { inner, waiting: Arc::default(), renewed_at, commits_wait, _watched: None }
    }

    /// A pool as `config` says; connects on first use. `application_name` shows in `pg_stat_activity`.
    ///
    /// # Errors
    /// The URL does not parse.
    pub fn lazy(config: &PostgresConfig, role: &str) -> Result<Self, StoreError> {
        Self::lazy_to(&config.database_url, config, role)
    }

    /// Likewise, for the replica's URL where one is set.
    ///
    /// # Errors
    /// The URL does not parse.
    pub fn lazy_read(config: &PostgresConfig, role: &str) -> Result<Option<Self>, StoreError> {
        config.database_read_url.as_ref().map(|url| Self::lazy_to(url, config, role)).transpose()
    }

    fn lazy_to(url: &SecretString, config: &PostgresConfig, role: &str) -> Result<Self, StoreError> {
        let max = config.db_pool_max.unwrap_or(default_max(role)).max(1);
        let options = options(url, config, role)?;
        let port = options.get_port();
        let renewed_at: Arc<Mutex<Option<Instant>>> = Arc::default();
        let not_before = Arc::clone(&renewed_at);
        let inner = PgPoolOptions::new()
            .max_connections(max)
            .min_connections(config.db_pool_min.min(max))
            .idle_timeout(Duration::from_secs(config.db_pool_idle_seconds))
            .acquire_timeout(Duration::from_secs(config.db_connect_seconds))
            .test_before_acquire(false)
            .after_connect(move |_, _| {
                sockets::set_options(port);
                Box::pin(std::future::ready(Ok(())))
            })
            .after_release({
                let inspection = Arc::new(Inspection {
                    role: role.to_owned(),
                    limits: config.db_session_settings,
                    asked: Mutex::default(),
                });
                move |connection, _| Box::pin(inspect(Arc::clone(&inspection), connection))
            })
            .before_acquire(move |connection, meta| {
                let renewed = *not_before.lock().unwrap_or_else(PoisonError::into_inner);
                Box::pin(async move {
                    if renewed.is_some_and(|at| at.elapsed() <= meta.age) {
                        return Ok(false);
                    }
                    if meta.idle_for < CHECK_AFTER_IDLE {
                        return Ok(true);
                    }
                    // One that is broken is replaced without a word: nothing was lost with it.
                    Ok(sqlx::Connection::ping(connection).await.is_ok())
                })
            })
            .connect_lazy_with(options.clone());
        let (watched, commits_wait) = (Arc::new(Watched(inner.clone())), Since::default());
        if config.db_statement_seconds > 0 {
            let longest = Duration::from_secs(config.db_statement_seconds) + ANSWER_GRACE;
            let asks = Asks { options, commits_wait: Arc::clone(&commits_wait), asked: None };
            tokio::spawn(watch(Arc::downgrade(&watched), port, longest, role.to_owned(), asks));
        }
        Ok(Self { inner, waiting: Arc::default(), renewed_at, commits_wait, _watched: Some(watched) })
    }

    /// Has every connection of now replaced before it is used again: the server behind them may not be the one that new
    /// connections reach.
    pub fn renew_connections(&self) {
        *self.renewed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long commits have been waiting for a synchronous stand-by, when that has lasted: nobody's data is at fault.
    pub fn commits_wait(&self) -> Option<Duration> {
        let since = *self.commits_wait.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed()).filter(|lasts| *lasts >= TELL_AFTER)
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// None came free in time, or Postgres cannot be reached.
    pub async fn acquire(&self) -> Result<sqlx::pool::PoolConnection<Postgres>, StoreError> {
        let _waiting = Waiting::new(&self.waiting);
        self.inner.acquire().await
    }

    /// Waits for a connection and begins a transaction on it. BEGIN runs in a task of its own: sqlx forgets one that is
    /// dropped before it is answered, and the connection would go back to the pool inside of a transaction.
    ///
    /// # Errors
    /// As [`Pool::acquire`].
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        let connection = self.acquire().await?;
        let begun = tokio::spawn(sqlx::Transaction::begin(connection, None)).await;
        begun.unwrap_or(Err(StoreError::WorkerCrashed))
    }

    /// How full it is.
    pub fn state(&self) -> PoolState {
        PoolState {
            total: self.inner.size(),
            idle: u32::try_from(self.inner.num_idle()).unwrap_or(u32::MAX),
            waiting: self.waiting.load(Ordering::Relaxed),
            max: self.inner.options().get_max_connections(),
        }
    }

    /// The wrapped pool: what is run on it is not counted while it waits.
    pub fn inner(&self) -> &sqlx::PgPool {
        &self.inner
    }

    /// Closes every connection; waits for those in use.
    pub async fn close(&self) {
        self.inner.close().await;
    }
}

/// Asks the server, on a connection of its own, whether commits wait for a stand-by.
struct Asks {
    options: PgConnectOptions,
    commits_wait: Since,
    asked: Option<Instant>,
}

impl Asks {
    /// Notes whether commits wait, asking at most every [`ASK_EVERY`] while an answer is overdue; says whether they do.
    async fn commits_wait(&mut self, overdue: bool) -> bool {
        if overdue && self.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
            return self.commits_wait.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        }
        let waits = overdue && {
            self.asked = Some(Instant::now());
            let asking = async {
                let mut connection = PgConnection::connect_with(&self.options).await?;
                let waits = processes::commits_wait(&mut connection).await;
                let _ = connection.close().await;
                waits
            };
            // Who cannot be asked may be another server by now: what is overdue is closed, as ever.
            matches!(tokio::time::timeout(ASK_WITHIN, asking).await, Ok(Ok(true)))
        };
        let mut since = self.commits_wait.lock().unwrap_or_else(PoisonError::into_inner);
        if waits && since.is_none() {
            tracing::warn!("commits wait for a synchronous stand-by");
        }
        *since = waits.then(|| since.unwrap_or_else(Instant::now));
        waits
    }
}

/// What is asked of connections that come back.
struct Inspection {
    role: String,
    /// Whether the limits are the session's own. A pooler sets some of its own.
    limits: bool,
    asked: Mutex<Option<Instant>>,
}

impl Inspection {
    fn is_due(&self) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = asked.is_none_or(|at| at.elapsed() >= INSPECT_EVERY);
        if due {
            *asked = Some(Instant::now());
        }
        due
    }
}

/// Whether the next user may have a connection. One inside of a transaction would make its statements part of that; one
/// with other limits could wait for longer than a frozen process may. What sqlx counts is free to look at; now and then
/// Postgres says what nobody counted.
async fn inspect(inspection: Arc<Inspection>, connection: &mut PgConnection) -> Result<bool, StoreError> {
    let mut fit = !connection.is_in_transaction();
    if fit && inspection.is_due() {
        fit = is_as_it_began(connection, inspection.limits).await?;
    }
    if !fit {
        let role = &inspection.role;
        tracing::error!(role, "closed a connection that came back inside a transaction or with other limits");
        metrics::counter!(names::POSTGRES_UNFIT, "role" => role.clone()).increment(1);
    }
    Ok(fit)
}

/// Asks Postgres whether a connection is outside of transactions, and, if they are ours, whether its limits are those
/// that it began with.
async fn is_as_it_began(connection: &mut PgConnection, limits: bool) -> Result<bool, StoreError> {
    // As a simple query: outside of a transaction it is one of its own, which begins with it. An aborted
    // one refuses it.
    let outside = "SELECT now() = statement_timestamp()";
    let unchanged = "SELECT now() = statement_timestamp() AND NOT EXISTS (
        SELECT FROM pg_settings WHERE source = 'session'
           AND name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'lock_timeout'))";
    let row = sqlx::raw_sql(if limits { unchanged } else { outside }).fetch_one(connection).await;
    match row {
        Ok(row) => sqlx::Row::try_get(&row, 0),
        Err(StoreError::Database(error)) if error.code().as_deref() == Some("25P02") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Closes connections of a pool on which an answer is overdue, so that whoever waits for it hears of it. A
/// deadline on each call would be forgotten at one of them, and a call that is given up leaves its connection in
/// the middle of an answer.
///
/// A commit that waits for a synchronous stand-by is left alone: the server would go on holding its process, the next
/// connection's commit would wait like it, and the server's connections would run out.
async fn watch(pool: Weak<Watched>, port: u16, longest: Duration, role: String, mut asks: Asks) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(watched) = pool.upgrade() else { return };
        let pool = &watched.0;
        if pool.is_closed() {
            return;
        }
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        // Nobody waits for an answer on a connection that nobody has.
        let in_use = pool.size() > idle;
        drop(watched);
        if asks.commits_wait(in_use && sockets::is_overdue(port, ASK_AFTER)).await || !in_use {
            continue;
        }
        let closed = sockets::close_overdue(port, longest);
        if closed > 0 {
            tracing::warn!(role, closed, ?longest, "Postgres left statements without an answer; connections closed");
            metrics::counter!(names::POSTGRES_OVERDUE, "role" => role.clone()).increment(closed);
        }
    }
}

/// A transaction on a connection of a pool; without a commit it is rolled back.
pub type Transaction = sqlx::Transaction<'static, Postgres>;

impl From<sqlx::PgPool> for Pool {
    fn from(inner: sqlx::PgPool) -> Self {
        Self::new(inner)
    }
}

/// How a connection is made: with limits that a frozen process cannot outstay. They are start-up options and not `SET`,
/// so that nothing depends on session state behind a transaction-mode pooler.
fn options(url: &SecretString, config: &PostgresConfig, role: &str) -> Result<PgConnectOptions, StoreError> {
    let options: PgConnectOptions = url.expose_secret().parse()?;
    let options =
        options.application_name(&format!("scoreline {role}")).statement_cache_capacity(config.db_statement_cache);
    if !config.db_session_settings {
        return Ok(options);
    }
    Ok(options.options([
        ("statement_timeout", format!("{}s", config.db_statement_seconds).as_str()),
        ("idle_in_transaction_session_timeout", "5s"),
        ("lock_timeout", "3s"),
        ("client_connection_check_interval", "2s"),
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "10s"),
    ]))
}

impl<'p> Executor<'p> for &Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, StoreError>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        let all = async move {
            let mut connection = pool.acquire().await?;
            let connection: &mut PgConnection = &mut connection;
            connection.fetch_many(query).try_collect::<Vec<_>>().await
        };
        all.map_ok(|rows| stream::iter(rows.into_iter().map(Ok))).try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, StoreError>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.fetch_optional(query).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, StoreError>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.prepare_with(sql, parameters).await })
    }
}
