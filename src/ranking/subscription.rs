//! Notices from Redis, as hints: whoever waits for one also looks by itself from time to time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::connection::Ranking;
use super::error::RankingError;
use crate::domain::ids::BoardGenerationId;
use crate::redis_connection::{Connection, Timeouts};

/// Longest wait between two attempts to subscribe again.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// A subscription that hears nothing is asked for a sign of life this often: a dead peer sends nothing either.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How often it is looked whether a new era has begun, should its notice have been lost: nothing comes after it
/// that would tell.
const ERA_INTERVAL: Duration = Duration::from_secs(1);

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice<'a> {
    /// The subscription is (again) in place. What was said before is unknown, so assume everything has changed.
    Subscribed,
    /// A message on the channel.
    Message(&'a str),
}

/// What a listener to the boards is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoardNotice {
    /// This board has this version.
    Changed(BoardGenerationId, i64),
    /// The subscription is (again) in place: any board may have changed meanwhile.
    Unknown,
    /// Postgres went back in time: what was shown of any board may never come again, and an id may be another's.
    Era,
}

impl BoardNotice {
    fn parse(text: &str) -> Self {
        match text.split_once(' ') {
            Some(("era", _)) => Self::Era,
            Some((generation, version)) => match (generation.parse(), version.parse()) {
                (Ok(generation), Ok(version)) => Self::Changed(BoardGenerationId(generation), version),
                _ => Self::Unknown,
            },
            None => Self::Unknown,
        }
    }
}

/// Who listens to the boards, and the era that it knows of.
struct Ear<F> {
    heard: F,
    era: Option<String>,
}

impl<F: FnMut(BoardNotice)> Ear<F> {
    fn hear(&mut self, notice: &Notice<'_>) {
        let notice = match notice {
            Notice::Subscribed => BoardNotice::Unknown,
            Notice::Message(text) => {
                if let Some(era) = text.strip_prefix("era ") {
                    self.era = Some(era.to_owned());
                }
                BoardNotice::parse(text)
            }
        };
        (self.heard)(notice);
    }

    /// Redis says which era it is. The first one that is seen may have begun a moment ago, after what Postgres was
    /// asked while Redis was away.
    fn saw(&mut self, era: String) {
        if self.era.as_ref() != Some(&era) {
            self.era = Some(era);
            (self.heard)(BoardNotice::Era);
        }
    }
}

fn lock<F>(ear: &Mutex<Ear<F>>) -> MutexGuard<'_, Ear<F>> {
    ear.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens on `channel` of the Redis at `url` until `stop`, subscribing again whenever the connection is lost.
///
/// # Errors
/// [`RankingError::BadUrl`] at once; nothing later.
pub async fn listen(
    url: &str,
    channel: &str,
    stop: CancellationToken,
    mut heard: impl FnMut(Notice<'_>) + Send,
) -> Result<(), RankingError> {
    let connection = Connection::open(url, Timeouts::default()).map_err(RankingError::BadUrl)?;
    listen_with(&connection, channel, stop, &mut heard).await;
    Ok(())
}

impl Ranking {
    /// Tells of every board whose version changed, and of everything that concerns all of them, until `stop`.
    pub async fn listen(&self, stop: CancellationToken, heard: impl FnMut(BoardNotice) + Send) {
        let ear = Mutex::new(Ear { heard, era: None });
        let mut hear = |notice: Notice<'_>| lock(&ear).hear(&notice);
        tokio::select! {
            () = listen_with(self.connection(), self.channel(), stop, &mut hear) => {}
            () = self.look_at_eras(&ear) => {}
        }
    }

    /// Looks each second, for ever.
    async fn look_at_eras(&self, ear: &Mutex<Ear<impl FnMut(BoardNotice)>>) {
        loop {
            // While Redis is away it has no new era either.
            if let Ok(Some(told)) = self.beacon().await {
                lock(ear).saw(told.era);
            }
            tokio::time::sleep(ERA_INTERVAL).await;
        }
    }
}

async fn listen_with(
    connection: &Connection,
    channel: &str,
    stop: CancellationToken,
    heard: &mut (impl FnMut(Notice<'_>) + Send),
) {
    let mut backoff = Duration::from_millis(20);
    let mut attempt = 0_usize;
    loop {
        let listening = async {
            attempt = attempt.wrapping_add(1);
            match subscribe(connection, attempt, channel, heard).await {
                Ok(()) => backoff = Duration::from_millis(20),
                Err(error) => tracing::debug!(channel, %error, "subscription lost"),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = listening => {}
        }
    }
}

/// One connection's life; ends when it is lost.
async fn subscribe(
    connection: &Connection,
    attempt: usize,
    channel: &str,
    heard: &mut (impl FnMut(Notice<'_>) + Send),
) -> redis::RedisResult<()> {
    let timed_out = || redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let (mut sink, mut messages) = connection.subscriber(attempt, channel).await?.split();
    heard(Notice::Subscribed);
    loop {
        match tokio::time::timeout(PING_INTERVAL, messages.next()).await {
            Ok(Some(message)) => heard(Notice::Message(&message.get_payload::<String>()?)),
            Ok(None) => return Ok(()),
            Err(_) => {
                let pong = tokio::time::timeout(PING_INTERVAL, sink.ping::<redis::Value>());
                pong.await.map_err(|_| timed_out())??;
            }
        }
    }
}
