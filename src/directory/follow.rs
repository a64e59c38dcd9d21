//! Reading the directory: once at start, then whenever it changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use redis::aio::ConnectionLike;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::publication::{DirectoryError, digests_key, directory_key};
use super::snapshot::{GameText, Snapshot};
use super::{Directory, SharedDirectory};
use crate::domain::ids::GameId;
use crate::redis_connection::{Connection, Timeouts};

/// How often the version is compared, should a notice have been lost.
const POLL: Duration = Duration::from_secs(1);
/// A snapshot of thousands of leaderboards is a few megabytes.
const TIMEOUTS: Timeouts = Timeouts { response: Duration::from_secs(2), connect: Duration::from_secs(1) };
/// Pause before Redis is tried again.
const RECONNECT: Duration = Duration::from_millis(300);

/// Reads the snapshot where it is made from, for a process that reaches that; an error is in words.
pub type Truth<'a> = dyn Fn() -> BoxFuture<'a, Result<Snapshot, String>> + Send + Sync + 'a;

/// Where the directory is.
#[derive(Debug, Clone)]
pub struct DirectorySource {
    connection: Connection,
    prefix: String,
}

impl DirectorySource {
    /// `url`: `REDIS_CACHE_URL`; `prefix`: `REDIS_PREFIX`.
    ///
    /// # Errors
    /// The URL does not parse.
    pub fn open(url: &str, prefix: impl Into<String>) -> redis::RedisResult<Self> {
        Ok(Self { connection: Connection::open(url, TIMEOUTS)?, prefix: prefix.into() })
    }

    /// Waits for the first snapshot, trying again until there is one. While Redis has none, or is away, it is read from
    /// `truth`, where that is given. `None`: told to stop before that.
    pub async fn wait_for_first(&self, truth: Option<&Truth<'_>>, stop: &CancellationToken) -> Option<SharedDirectory> {
        let mut complained = false;
        loop {
            let mut connection = self.connection.clone();
            let found = tokio::select! {
                () = stop.cancelled() => return None,
                found = load(&mut connection, &self.prefix) => found,
            };
            if !matches!(found, Ok(Some(_)))
                && let Some(read) = truth
            {
                match read().await {
                    Ok(snapshot) => {
                        tracing::info!("read the first directory from Postgres: Redis has none to give");
                        return Some(Arc::new(ArcSwap::from_pointee(Directory::from_snapshot(snapshot))));
                    }
                    Err(error) => tracing::debug!(%error, "the directory could not be read from Postgres either"),
                }
            }
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
        let mut attempt = 0_usize;
        while !stop.is_cancelled() {
            attempt = attempt.wrapping_add(1);
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.follow_one_subscription(attempt, &shared, &mut away) => ended,
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

    async fn follow_one_subscription(
        &self,
        attempt: usize,
        shared: &SharedDirectory,
        away: &mut bool,
    ) -> Result<(), DirectoryError> {
        let mut notices = self.connection.subscriber(attempt, &directory_key(&self.prefix)).await?.into_on_message();
        let mut connection = self.connection.clone();
        let mut poll = tokio::time::interval(POLL);
        // Two polls at once would see one publication on its way.
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut behind = None;
        loop {
            let polled = tokio::select! {
                _ = poll.tick() => true,
                notice = notices.next() => if notice.is_none() { return Ok(()) } else { false },
            };
            self.refresh(&mut connection, shared, polled.then_some(&mut behind)).await?;
            if std::mem::take(away) {
                tracing::info!("the directory's Redis is back");
            }
        }
    }

    /// `behind`: which version this process had at the last poll, if Redis had an older one; absent where this is no
    /// poll.
    ///
    /// An older version in Redis usually means that this process has just made a change and is about to publish it,
    /// also at one poll after another. But what it had at a poll is published by the next one. Where Redis has less
    /// than that, Postgres was restored from a backup.
    async fn refresh(
        &self,
        connection: &mut Connection,
        shared: &SharedDirectory,
        behind: Option<&mut Option<i64>>,
    ) -> Result<(), DirectoryError> {
        let directory = shared.load_full();
        let (held, held_mark) = (directory.version, &directory.mark);
        let mut command = redis::cmd("HMGET");
        command.arg(directory_key(&self.prefix)).arg("version").arg("mark");
        let (version, mark): (Option<i64>, Option<String>) = command.query_async(connection).await?;
        // Absent: Redis was flushed. The last snapshot is better than none, and cron is about to publish again.
        let Some(version) = version else { return Ok(()) };
        let wanted = match behind {
            _ if version > held => true,
            // The same number in another history: Postgres was restored, and changed as often as before.
            _ if version == held && mark.is_some_and(|mark| mark != *held_mark) => true,
            Some(behind) => {
                let went_back = behind.is_some_and(|held_before| version < held_before);
                *behind = (version < held && !went_back).then_some(held);
                went_back
            }
            None => false,
        };
        if wanted && let Some(directory) = load_next(connection, &self.prefix, &directory).await? {
            tracing::debug!(version = directory.version, "read a new directory");
            let directory = Arc::new(directory);
            // Unless this process has meanwhile learnt of a newer one by itself.
            shared.rcu(|current| {
                let newer = current.version > directory.version && current.version != held;
                if newer { Arc::clone(current) } else { Arc::clone(&directory) }
            });
        }
        Ok(())
    }
}

/// Reads the snapshot after `held`: only the games that differ, where digests say which. `None`: nothing is there.
async fn load_next<C: ConnectionLike>(
    connection: &mut C,
    prefix: &str,
    held: &Directory,
) -> Result<Option<Directory>, DirectoryError> {
    let fields: HashMap<String, String> =
        redis::cmd("HGETALL").arg(digests_key(prefix)).query_async(connection).await?;
    let digests: HashMap<GameId, String> =
        fields.iter().filter_map(|(field, digest)| Some((game_of(field)?, digest.clone()))).collect();
    let differing = held.differing(&digests);
    if differing.len() * 2 < digests.len() {
        let mut command = redis::cmd("HMGET");
        command.arg(directory_key(prefix)).arg("version").arg("mark");
        for id in &differing {
            command.arg(format!("g:{id}"));
        }
        let mut texts: std::vec::IntoIter<Option<String>> =
            command.query_async::<Vec<Option<String>>>(connection).await?.into_iter();
        let (version, mark) = (texts.next().flatten(), texts.next().flatten());
        // Of one version: whoever keeps no digests may have published meanwhile, or before.
        if version.is_some() && version.as_ref() == fields.get("version") && mark.as_ref() == fields.get("mark") {
            let changed: Vec<GameText> =
                differing.iter().zip(texts).filter_map(|(id, json)| Some(GameText { id: *id, json: json? })).collect();
            let version = version.and_then(|version| version.parse().ok()).unwrap_or_default();
            if let Some(next) = held.with_changes(version, mark.unwrap_or_default(), &digests, &changed) {
                return Ok(Some(next));
            }
        }
    }
    load(connection, prefix).await
}

fn game_of(field: &str) -> Option<GameId> {
    Some(GameId(field.strip_prefix("g:")?.parse().ok()?))
}

/// Reads the snapshot. `None`: nothing was published yet.
///
/// # Errors
/// [`DirectoryError`]: Redis did not answer, or holds something else.
pub async fn load<C: ConnectionLike>(connection: &mut C, prefix: &str) -> Result<Option<Directory>, DirectoryError> {
    let fields: HashMap<String, String> =
        redis::cmd("HGETALL").arg(directory_key(prefix)).query_async(connection).await?;
    let Some(version) = fields.get("version").and_then(|v| v.parse().ok()) else { return Ok(None) };
    let mark = fields.get("mark").cloned().unwrap_or_default();
    let game = |(field, json): (String, String)| Some(GameText { id: game_of(&field)?, json });
    let games = fields.into_iter().filter_map(game).collect();
    Ok(Some(Directory::from_snapshot(Snapshot { version, mark, games })))
}
