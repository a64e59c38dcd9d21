//! Reading the directory: once at start, then whenever it changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use redis::aio::ConnectionLike;
use tokio_util::sync::CancellationToken;

use super::publish::{DirectoryError, directory_key};
use super::snapshot::{GameSnapshot, Snapshot};
use super::{Directory, SharedDirectory};

/// How often the version is compared, should a notice have been lost.
const POLL: Duration = Duration::from_secs(1);
/// Pause before Redis is tried again.
const RECONNECT: Duration = Duration::from_millis(300);

/// A connection for publishing and asking, replaced when it breaks; `url`: `REDIS_CACHE_URL`.
///
/// # Errors
/// The URL does not parse, or Redis is away.
pub async fn connect(url: &str) -> redis::RedisResult<redis::aio::ConnectionManager> {
    redis::Client::open(url)?.get_connection_manager().await
}

/// Where the directory is.
#[derive(Debug, Clone)]
pub struct DirectorySource {
    client: redis::Client,
    prefix: String,
}

impl DirectorySource {
    /// `client`: the Redis of `REDIS_CACHE_URL`; `prefix`: `REDIS_PREFIX`.
    pub fn new(client: redis::Client, prefix: impl Into<String>) -> Self {
        Self { client, prefix: prefix.into() }
    }

    /// `url`: `REDIS_CACHE_URL`; `prefix`: `REDIS_PREFIX`.
    ///
    /// # Errors
    /// The URL does not parse.
    pub fn open(url: &str, prefix: impl Into<String>) -> redis::RedisResult<Self> {
        Ok(Self::new(redis::Client::open(url)?, prefix))
    }

    /// Waits for the first snapshot, trying again until there is one. `None`: told to stop before that.
    pub async fn wait_for_first(&self, stop: &CancellationToken) -> Option<SharedDirectory> {
        let mut complained = false;
        loop {
            let attempt = async {
                let mut connection = self.client.get_multiplexed_async_connection().await?;
                load(&mut connection, &self.prefix).await
            };
            let found = tokio::select! {
                () = stop.cancelled() => return None,
                found = attempt => found,
            };
            match found {
                Ok(Some(directory)) => return Some(Arc::new(ArcSwap::from_pointee(directory))),
                Ok(None) if !complained => tracing::info!("waiting for cron to publish the directory to Redis"),
                Err(error) if !complained => tracing::warn!(%error, "waiting for Redis, to read the directory"),
                _ => {}
            }
            complained = true;
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(RECONNECT) => {}
            }
        }
    }

    /// Keeps `shared` at the newest snapshot until told to stop. While Redis is away the last one stays.
    pub async fn follow(self, shared: SharedDirectory, stop: CancellationToken) {
        let mut away = false;
        while !stop.is_cancelled() {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.follow_one_connection(&shared, &mut away) => ended,
            };
            if let Err(error) = ended
                && !std::mem::replace(&mut away, true)
            {
                tracing::warn!(%error, "lost the directory's Redis; going on with the last snapshot");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RECONNECT) => {}
            }
        }
    }

    async fn follow_one_connection(&self, shared: &SharedDirectory, away: &mut bool) -> Result<(), DirectoryError> {
        let mut notices = self.client.get_async_pubsub().await?;
        notices.subscribe(directory_key(&self.prefix)).await?;
        let mut notices = notices.into_on_message();
        let mut connection = self.client.get_multiplexed_async_connection().await?;
        let mut poll = tokio::time::interval(POLL);
        loop {
            tokio::select! {
                _ = poll.tick() => {}
                notice = notices.next() => if notice.is_none() { return Ok(()) },
            }
            refresh(&mut connection, &self.prefix, shared).await?;
            if std::mem::take(away) {
                tracing::info!("the directory's Redis is back");
            }
        }
    }
}

async fn refresh<C: ConnectionLike>(
    connection: &mut C,
    prefix: &str,
    shared: &SharedDirectory,
) -> Result<(), DirectoryError> {
    let version: Option<i64> =
        redis::cmd("HGET").arg(directory_key(prefix)).arg("version").query_async(connection).await?;
    // Absent: Redis was flushed. The last snapshot is better than none, and cron is about to publish again.
    if version.is_some_and(|v| v != shared.load().version)
        && let Some(directory) = load(connection, prefix).await?
    {
        tracing::debug!(version = directory.version, "read a new directory");
        shared.store(Arc::new(directory));
    }
    Ok(())
}

/// Reads the snapshot. `None`: nothing was published yet.
///
/// # Errors
/// [`DirectoryError`]: Redis did not answer, or holds something else.
pub async fn load<C: ConnectionLike>(connection: &mut C, prefix: &str) -> Result<Option<Directory>, DirectoryError> {
    let fields: HashMap<String, String> =
        redis::cmd("HGETALL").arg(directory_key(prefix)).query_async(connection).await?;
    let Some(version) = fields.get("version").and_then(|v| v.parse().ok()) else { return Ok(None) };
    let mut games = Vec::with_capacity(fields.len());
    for (field, json) in &fields {
        if field != "version" {
            games.push(serde_json::from_str::<GameSnapshot>(json)?);
        }
    }
    Ok(Some(Directory::from_snapshot(Snapshot { version, games })))
}
