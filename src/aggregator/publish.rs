//! Telling Redis what folds committed. The truth is the marker row: the copy in memory only saves reading it back, and
//! the row goes only after Redis acknowledged (docs/rules.md#publications-can-be-repeated).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::fold::StoredMarker;
use super::marker::{self, MarkedPeriod, MarkerError};
use super::outlook::Outlook;
use super::rules::Rules;
use super::shards::{self, Shards};
use crate::domain::clock::{Clock, Micros};
use crate::domain::ids::BoardGenerationId;
use crate::ranking::{PublishOutcome, PublishedEntry, Ranking, RankingError, most_calls};
use crate::runtime::crash_points::crash_point;
use crate::store::markers;
use crate::store::outbox::Outbox;
use crate::store::{Pool, StoreError};
use crate::telemetry::metrics as names;

/// Markers read from the table at once: a few megabytes at most.
const MARKERS_PER_READ: i64 = 4;
/// Waits between attempts while Redis or Postgres is away.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Why a marker was not published and removed. It still stands, and will be tried again.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Redis is away.
    #[error(transparent)]
    Ranking(#[from] RankingError),
    /// Postgres is away.
    #[error(transparent)]
    Postgres(#[from] StoreError),
    /// A newer program wrote it. All boards will be rebuilt, so nothing that it says is missing.
    #[error("a newer program wrote the marker")]
    Unknown,
}

/// A committed fold on its way to Redis.
#[derive(Debug)]
pub struct Committed {
    /// What to publish.
    pub marker: StoredMarker,
    /// When the facts were received, and how many in a row.
    pub received: Vec<(Micros, u32)>,
    /// When the fold committed.
    pub at: Instant,
}

/// Publishes markers of the shards that this process holds.
#[derive(Debug)]
pub struct Publisher {
    pool: Pool,
    ranking: Ranking,
    rules: Arc<Rules>,
    shards: Arc<Shards>,
    clock: Clock,
    /// Told when a live board turned out to be missing in Redis.
    wanted: Arc<Notify>,
    /// Boards that took no publication last time: asked first, so that a recompute's folds cost Redis next to nothing.
    absent: HashSet<BoardGenerationId>,
    /// Boards that refused the last publication for what Redis holds of them: each is told of once.
    refusing: HashSet<BoardGenerationId>,
    /// The last marker that was read back and published, of these shards: 0 at the end, so that the next
    /// sweep sees all.
    reached: i64,
    swept: Vec<i16>,
}

/// How often the table is looked at for markers that nobody announced.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3);

impl Publisher {
    /// A publisher that notifies `wanted` when a board must be rebuilt.
    pub fn new(
        pool: Pool,
        ranking: Ranking,
        rules: Arc<Rules>,
        shards: Arc<Shards>,
        clock: Clock,
        wanted: Arc<Notify>,
    ) -> Self {
        let (absent, refusing) = (HashSet::new(), HashSet::new());
        Self { pool, ranking, rules, shards, clock, wanted, absent, refusing, reached: 0, swept: Vec::new() }
    }

    /// Publishes what arrives until the sender is gone; what was left over by this or an earlier process first, and
    /// again whenever shards were taken over, a publication failed, the sender could not wait or a fold failed
    /// (`spilled`), and every few seconds: a COMMIT whose answer was lost may take effect after everyone has looked.
    pub async fn run(mut self, mut committed: mpsc::Receiver<Committed>, spilled: Arc<Notify>) {
        let mut held = self.shards.subscribe();
        let mut behind = true;
        let mut backoff = MIN_BACKOFF;
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut outlook = Outlook::default();
        loop {
            if behind {
                // Their rows are in the table, which is read in order.
                while committed.try_recv().is_ok() {}
                match self.publish_leftovers().await {
                    Ok(more) => {
                        behind = more;
                        backoff = MIN_BACKOFF;
                    }
                    Err(_) if committed.is_closed() => return,
                    Err(error) => {
                        tracing::debug!(%error, "markers wait");
                        tokio::time::sleep(backoff).await;
                        backoff = (backoff * 2).min(MAX_BACKOFF);
                    }
                }
                continue;
            }
            tokio::select! {
                next = committed.recv() => match next {
                    None => return,
                    Some(next) => if let Err(error) = self.deliver(next).await {
                        tracing::warn!(%error, "publication failed; markers wait in Postgres until it succeeds");
                        behind = true;
                    },
                },
                () = spilled.notified() => behind = true,
                _ = sweep.tick() => behind = self.markers_wait(&mut outlook).await,
                Ok(()) = held.changed() => (behind, outlook) = (true, Outlook::default()),
            }
        }
    }

    /// Whether markers wait, and notes from where. If Postgres does not say, a sweep finds out why.
    async fn markers_wait(&mut self, outlook: &mut Outlook) -> bool {
        let after = outlook.after(Instant::now());
        let looking = async {
            let mut connection = self.pool.acquire().await?;
            Outbox::Markers.any(&mut connection, &shards::numbers(&self.shards.held()), after).await
        };
        let Ok(glance) = looking.await else { return true };
        outlook.saw(glance);
        self.reached = glance.oldest.map_or(0, |oldest| oldest - 1);
        glance.count > 0
    }

    async fn deliver(&mut self, committed: Committed) -> Result<(), PublishError> {
        self.publish(&committed.marker.bytes).await?;
        metrics::histogram!(names::PUBLISH_LAG_SECONDS, "role" => "cron").record(committed.at.elapsed().as_secs_f64());
        let histogram = metrics::histogram!(names::ACCEPT_TO_RANK_SECONDS, "role" => "cron");
        let now = self.clock.now();
        for (received, count) in committed.received {
            histogram.record_many(now.since(received).max(0) as f64 / 1e6, count as usize);
        }
        crash_point("publish::after_redis");
        Ok(markers::delete(&self.pool, &[committed.marker.id]).await?)
    }

    /// Publishes some of the oldest markers of the shards held, from the table. Says whether there may be more: then
    /// the next call goes on behind them, and does not walk over what these leave behind.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish_leftovers(&mut self) -> Result<bool, PublishError> {
        let held = shards::numbers(&self.shards.held());
        if held != self.swept {
            (self.reached, self.swept) = (0, held.clone());
        }
        let rows = markers::oldest(&self.pool, &held, self.reached, MARKERS_PER_READ).await?;
        let more = rows.len() as i64 == MARKERS_PER_READ;
        for (id, bytes) in rows {
            match self.publish(&bytes).await {
                // Another program wrote it, and may come back: a marker is the only copy of what it says.
                Err(PublishError::Unknown) => markers::set_aside(&self.pool, id).await?,
                published => {
                    published?;
                    crash_point("publish::after_redis");
                    markers::delete(&self.pool, &[id]).await?;
                }
            }
            self.reached = id;
        }
        if !more {
            self.reached = 0;
        }
        Ok(more)
    }

    /// Publishes one marker. Repeating it, or publishing an older one later, changes nothing.
    ///
    /// # Errors
    /// Redis is away; it may have happened in part. [`PublishError::Unknown`]: keep it.
    pub async fn publish(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        if !marker::says_ends(bytes) {
            self.rules.refresh().await?;
        }
        let definitions = self.rules.current();
        let (version, periods) =
            match marker::read(bytes, |generation, start| definitions.period_end(generation, start)) {
                Ok(read) => read,
                Err(error) => {
                    let newer = matches!(error, MarkerError::UnknownFormat(_));
                    self.doubt_all(error).await?;
                    return if newer { Err(PublishError::Unknown) } else { Ok(()) };
                }
            };
        for (n, period) in periods.iter().enumerate() {
            let later = periods[n + 1..].iter().filter(|later| later.generation == period.generation);
            let following = later.map(|later| most_calls(later.entries.len())).sum();
            self.publish_period(version, period, following).await?;
        }
        Ok(())
    }

    /// Has all boards rebuilt: what a marker told of that cannot be read is in Postgres.
    async fn doubt_all(&self, error: MarkerError) -> Result<(), PublishError> {
        tracing::error!(%error, "a marker cannot be read; all boards will be rebuilt");
        // Asked now: a process that has just started may not know of any board yet.
        self.rules.reload().await?;
        for generation in self.rules.generations() {
            self.ranking.doubt(generation).await?;
        }
        self.wanted.notify_one();
        Ok(())
    }

    async fn publish_period(
        &mut self,
        version: i64,
        period: &MarkedPeriod<'_>,
        following: usize,
    ) -> Result<(), PublishError> {
        let generation = period.generation;
        // Asked after the fold committed: a rebuild that begins after this answer reads what the fold wrote.
        if self.absent.contains(&generation) && !self.ranking.takes_publications(generation).await? {
            return Ok(());
        }
        let mut entries: Vec<PublishedEntry<'_>> = period
            .entries
            .iter()
            .map(|(player_id, standing)| PublishedEntry { player_id, standing: *standing })
            .collect();
        // Neighbours in the sorted set go in together: Redis spends its time on cache misses on the way to them.
        entries.sort_unstable_by_key(|e| e.standing.map(|s| (s.score, s.subscore, s.reached_at)));
        let (of, order) = (&period.period, period.order);
        let outcome = match self.ranking.publish_part(generation, of, order, version, &entries, following).await {
            Ok(outcome) => outcome,
            Err(error) if error.is_of_one_board() => return self.give_up(generation, &error).await,
            Err(error) => return Err(error.into()),
        };
        self.refusing.remove(&generation);
        if outcome != PublishOutcome::NotReady {
            self.absent.remove(&generation);
        } else if self.absent.insert(generation) {
            self.wanted.notify_one();
        }
        Ok(())
    }

    /// Has a board rebuilt that no publication can be written to. What the marker tells of it is in Postgres, which the
    /// rebuild reads; waiting for it here would keep every other board waiting too.
    async fn give_up(&mut self, generation: BoardGenerationId, error: &RankingError) -> Result<(), PublishError> {
        self.ranking.give_up(generation).await?;
        if self.refusing.insert(generation) {
            tracing::error!(%generation, %error, "a leaderboard cannot be published to; it will be rebuilt");
        }
        self.wanted.notify_one();
        Ok(())
    }
}
