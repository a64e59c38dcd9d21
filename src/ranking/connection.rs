//! The connection to the ranking Redis.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{FromRedisValue, ScriptInvocation};

use crate::domain::ids::BoardGenerationId;

/// Longest wait for an answer. The slowest script (500 entries into a million) takes a few milliseconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for a call in all, reconnecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The ranking Redis did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RankingError {
    /// The URL is unusable.
    #[error("unusable Redis URL: {0}")]
    BadUrl(redis::RedisError),
    /// Refused, failed, or answered in a way this program does not know.
    #[error("ranking Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// No answer in time. Whether it happened is unknown; every operation is safe to repeat.
    #[error("ranking Redis did not answer within {CALL_TIMEOUT:?}")]
    TimedOut,
}

/// Leaderboards in Redis. Cheap to clone; one multiplexed connection that reconnects by itself, and is replaced when it
/// is silent: the redis crate goes on waiting for a peer that neither answers nor ends the connection.
#[derive(Clone)]
pub struct Ranking {
    inner: Arc<Inner>,
}

struct Inner {
    prefix: String,
    channel: String,
    client: redis::Client,
    connection: ArcSwap<ConnectionManager>,
}

impl std::fmt::Debug for Ranking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ranking").field("prefix", &self.inner.prefix).finish_non_exhaustive()
    }
}

impl Ranking {
    /// Leaderboards under `prefix` (`REDIS_PREFIX`) in the Redis at `url`. Does not connect yet, so a process starts
    /// while Redis is away. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`RankingError::BadUrl`].
    pub fn open(url: &str, prefix: &str) -> Result<Self, RankingError> {
        let client = redis::Client::open(url).map_err(RankingError::BadUrl)?;
        let connection = ArcSwap::from_pointee(manager(&client).map_err(RankingError::BadUrl)?);
        let inner = Inner { prefix: prefix.to_owned(), channel: format!("{prefix}:boards"), client, connection };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// [`RankingError`] when it does not.
    pub async fn ping(&self) -> Result<(), RankingError> {
        let ping = redis::cmd("PING");
        self.bounded(async |connection| ping.query_async(connection).await).await
    }

    pub(super) fn client(&self) -> &redis::Client {
        &self.inner.client
    }

    pub(super) fn channel(&self) -> &str {
        &self.inner.channel
    }

    /// The hash-tagged beginning of every key of a board, for example `{sl:b:7}:`.
    pub(super) fn base(&self, generation: BoardGenerationId) -> String {
        format!("{{{}:b:{generation}}}:", self.inner.prefix)
    }

    /// Runs one script.
    pub(super) async fn call<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RankingError> {
        self.bounded(async |connection| script.invoke_async(connection).await).await
    }

    /// Runs one pipeline.
    pub(super) async fn pipe<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, RankingError> {
        self.bounded(async |connection| pipeline.query_async(connection).await).await
    }

    async fn bounded<T>(
        &self,
        call: impl AsyncFnOnce(&mut ConnectionManager) -> redis::RedisResult<T>,
    ) -> Result<T, RankingError> {
        let used = self.inner.connection.load_full();
        let mut connection = ConnectionManager::clone(&used);
        match tokio::time::timeout(CALL_TIMEOUT, call(&mut connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error.is_timeout() {
                    self.replace(&used);
                }
                Err(error.into())
            }
            Err(_) => {
                self.replace(&used);
                Err(RankingError::TimedOut)
            }
        }
    }

    /// Leaves a silent connection to those who still wait for it; later calls get another.
    fn replace(&self, silent: &Arc<ConnectionManager>) {
        if let Ok(fresh) = manager(&self.inner.client) {
            self.inner.connection.compare_and_swap(silent, Arc::new(fresh));
        }
    }
}

fn manager(client: &redis::Client) -> redis::RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_min_delay(Duration::from_millis(20))
        .set_max_delay(Duration::from_millis(500))
        .set_number_of_retries(2);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}
