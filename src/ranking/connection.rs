//! The connection to the ranking Redis.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{ErrorKind, FromRedisValue, ScriptInvocation};

use super::error::{CALL_TIMEOUT, RankingError};
use super::gather::Desk;
use super::questions::{Around, BoardPeriod};
use crate::domain::ids::BoardGenerationId;
use crate::redis_connection::{Connection, Timeouts};

/// The slowest script (500 entries into a million) takes a few milliseconds.
const TIMEOUTS: Timeouts = Timeouts { response: Duration::from_secs(2), connect: Duration::from_secs(1) };
/// Leaderboards in Redis. Cheap to clone; one multiplexed connection that reconnects by itself, and for large
/// publications one of their own.
#[derive(Clone)]
pub struct Ranking {
    inner: Arc<Inner>,
}

struct Inner {
    prefix: String,
    channel: String,
    connection: Connection,
    standings: Desk<BoardPeriod>,
    arounds: Desk<Around>,
    /// How far the search for lost boards has come: Redis's cursor.
    searched: AtomicU64,
    /// The last version that this process gave to each board. A Redis that has less has lost it.
    given: Mutex<HashMap<BoardGenerationId, i64>>,
}

impl std::fmt::Debug for Ranking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ranking").field("prefix", &self.inner.prefix).finish_non_exhaustive()
    }
}

impl Ranking {
    /// Leaderboards under `prefix` (`REDIS_PREFIX`) in the Redis at `url`. Does not connect yet, so a process starts
    /// while Redis is away.
    ///
    /// # Errors
    /// [`RankingError::BadUrl`].
    pub fn open(url: &str, prefix: &str) -> Result<Self, RankingError> {
        let connection = Connection::open(url, TIMEOUTS).map_err(RankingError::BadUrl)?;
        if connection.is_cluster() {
            // A board is checked against the run id of the one server that holds it.
            return Err(RankingError::BadUrl(
                (ErrorKind::InvalidClientConfig, "leaderboards need a single server").into(),
            ));
        }
        let (prefix, channel) = (prefix.to_owned(), format!("{prefix}:boards"));
        let inner = Inner {
            prefix,
            channel,
            connection,
            standings: Desk::default(),
            arounds: Desk::default(),
            searched: AtomicU64::new(0),
            given: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// [`RankingError`] when it does not.
    pub async fn ping(&self) -> Result<(), RankingError> {
        let ping = redis::cmd("PING");
        self.bounded(async { ping.query_async(&mut self.inner.connection.clone()).await }).await
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    /// Where those wait who ask for a standing.
    pub(super) fn standings(&self) -> &Desk<BoardPeriod> {
        &self.inner.standings
    }

    /// Where those wait who ask for neighbours.
    pub(super) fn arounds(&self) -> &Desk<Around> {
        &self.inner.arounds
    }

    pub(super) fn beacon_key(&self) -> String {
        format!("{}:beacon", self.inner.prefix)
    }

    pub(super) fn channel(&self) -> &str {
        &self.inner.channel
    }

    fn all_given(&self) -> MutexGuard<'_, HashMap<BoardGenerationId, i64>> {
        self.inner.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last version that this process gave to a board, as far as it knows; 0: none.
    pub(super) fn given(&self, generation: BoardGenerationId) -> i64 {
        self.all_given().get(&generation).copied().unwrap_or_default()
    }

    /// Notes that a board has at least this version.
    pub(super) fn gave(&self, generation: BoardGenerationId, version: i64) {
        let mut given = self.all_given();
        let last = given.entry(generation).or_default();
        *last = version.max(*last);
    }

    /// A board is gone, and no generation comes twice.
    pub(super) fn forget_given(&self, generation: BoardGenerationId) {
        self.all_given().remove(&generation);
    }

    pub(super) fn searched(&self) -> &AtomicU64 {
        &self.inner.searched
    }

    /// The hash-tagged beginning of every key of a board, for example `{sl:b3:7}:`.
    pub(super) fn base(&self, generation: BoardGenerationId) -> String {
        format!("{}{generation}}}:", self.beginning())
    }

    /// How the keys of all boards begin. The number after `b` is that of the layout: whoever knows another one has
    /// other keys, and neither reads what the other wrote.
    pub(super) fn beginning(&self) -> String {
        format!("{{{}:b3:", self.inner.prefix)
    }

    /// Runs one script.
    pub(super) async fn call<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RankingError> {
        self.bounded(async { script.invoke_async(&mut self.inner.connection.clone()).await }).await
    }

    /// Runs one pipeline.
    pub(super) async fn pipe<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, RankingError> {
        self.bounded(async { pipeline.query_async(&mut self.inner.connection.clone()).await }).await
    }

    /// No call waits longer than `CALL_TIMEOUT`.
    pub(super) async fn bounded<T>(
        &self,
        call: impl Future<Output = redis::RedisResult<T>>,
    ) -> Result<T, RankingError> {
        Ok(tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(|_| RankingError::TimedOut)??)
    }
}
