//! Writes groups: chooses the way, repeats what was nobody's fault, and narrows a fault down to the event that has it.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::store::pool::Pool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::copy_rest::CopyRest;
use super::dead_event;
use super::group::{Group, Rows};
use super::seen::Seen;
use super::transaction::{self, Attempt, Way};
use crate::domain::month::Month;
use crate::queue::{Delivery, JobId, Settlement};
use crate::store::definitions::{self, Definitions};
use crate::store::events::EventRow;
use crate::store::failure::{Failure, classify};
use crate::store::partitions;

/// Attempts at a group that fails for a reason we do not know, before its jobs are retried through the queue.
const UNKNOWN_FAILURES: u32 = 3;

/// What the writers of a process share.
#[derive(Debug)]
pub struct Shared {
    /// The worker's connections.
    pub pool: Pool,
    /// Definitions as last loaded.
    pub definitions: arc_swap::ArcSwap<Definitions>,
    /// Keys stored lately.
    pub seen: Mutex<Seen>,
    /// Stops waiting for Postgres: what is in hand goes back to the queue.
    pub hard: CancellationToken,
    /// The queue's name, for dead letters.
    pub queue: String,
    /// Handles of the metrics.
    pub metrics: super::WriteMetrics,
}

/// One writer: one transaction at a time.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    copy: CopyRest,
}

/// The process is stopping: the group was not stored.
#[derive(Debug, Clone, Copy)]
struct Stopped;

impl Writer {
    /// A writer on what the process shares.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, copy: CopyRest::default() }
    }

    /// Stores what the jobs carry and says how each is to be settled, and whether score facts were written.
    pub async fn write(&mut self, jobs: &[Delivery]) -> (Vec<(JobId, Settlement)>, bool) {
        let mut group = Group::decode(jobs);
        let (fresh, suspect) = group.rows(&self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner));
        for (rows, way) in [(fresh, self.copy.way(Instant::now())), (suspect, Way::Careful)] {
            self.shared.metrics.duplicate.increment(rows.repeats as u64);
            if self.write_rows(&mut group, rows, way).await.is_err() {
                let back = || Settlement::Transient { error: "the worker is stopping".to_owned() };
                return (jobs.iter().map(|job| (job.id.clone(), back())).collect(), group.facts);
            }
        }
        let facts = group.facts;
        (group.settlements(), facts)
    }

    /// Stores rows, narrowing down on faulty data by halves. Each range is its own transaction.
    async fn write_rows<'a>(&mut self, group: &mut Group<'a>, mut rows: Rows<'a>, way: Way) -> Result<(), Stopped> {
        let mut open: Vec<(Range<usize>, Way)> = vec![(0..rows.rows.len(), way)];
        while let Some((range, way)) = open.pop() {
            if range.is_empty() {
                continue;
            }
            match self.write_range(group, &mut rows, range.clone(), way).await? {
                None => {}
                Some(error) if range.len() == 1 => {
                    dead_event::keep(&self.shared, group, &rows, range.start, &error).await.map_err(|()| Stopped)?;
                }
                Some(_) => {
                    let middle = range.start + range.len() / 2;
                    open.push((middle..range.end, Way::Careful));
                    open.push((range.start..middle, Way::Careful));
                }
            }
        }
        Ok(())
    }

    /// Stores one range, repeating until it is stored or its data is found at fault (then the error is returned).
    async fn write_range<'a>(
        &mut self,
        group: &mut Group<'a>,
        rows: &mut Rows<'a>,
        range: Range<usize>,
        mut way: Way,
    ) -> Result<Option<String>, Stopped> {
        let mut pause = Pause::default();
        let mut unknown_failures = 0;
        let mut skip = HashSet::new();
        loop {
            if !skip.is_empty() {
                // Rows of games that do not exist: their jobs have failed, the others go on.
                group.fail_games(&skip);
            }
            let mut kept: Vec<_> =
                rows.rows[range.clone()].iter().copied().filter(|r| !skip.contains(&r.game_id)).collect();
            if kept.is_empty() {
                return Ok(None);
            }
            let definitions = self.shared.definitions.load_full();
            let attempt = transaction::store(&self.shared.pool, &mut kept, way, &definitions).await;
            if way == Way::Copy {
                let met_stored = attempt.as_ref().is_err_and(|e| classify(e) == Failure::UniqueViolation);
                self.copy.note(met_stored, Instant::now());
            }
            match attempt {
                Ok(Attempt::Stored { new, facts }) => {
                    self.note_stored(&kept, new);
                    group.facts |= facts;
                    return Ok(None);
                }
                Ok(Attempt::UnknownGames(games)) => skip.extend(games),
                Ok(Attempt::StaleDefinitions) => self.reload_definitions(&mut pause).await?,
                Err(error) => match classify(&error) {
                    Failure::UniqueViolation => way = Way::Careful,
                    Failure::Data => return Ok(Some(error.to_string())),
                    Failure::NoPartition => {
                        self.make_partitions(&kept, &mut pause).await?;
                    }
                    Failure::Transient => self.wait_out(&error, &mut pause).await?,
                    Failure::Other => {
                        unknown_failures += 1;
                        if unknown_failures >= UNKNOWN_FAILURES {
                            tracing::error!(%error, rows = kept.len(), "events cannot be stored");
                            group.retry(&rows.origins[range], &error.to_string());
                            return Ok(None);
                        }
                        self.wait_out(&error, &mut pause).await?;
                    }
                },
            }
        }
    }

    /// Makes the months that `rows` fall in. Cron makes them ahead; this is for clocks and replays that outrun it.
    async fn make_partitions(&self, rows: &[EventRow<'_>], pause: &mut Pause) -> Result<(), Stopped> {
        let months: BTreeSet<Month> = rows.iter().map(|r| Month::of(r.event.occurred_at)).collect();
        for month in months {
            if let Err(error) = partitions::create(&self.shared.pool, month).await {
                self.wait_out(&error, pause).await?;
            }
        }
        Ok(())
    }

    fn note_stored(&self, rows: &[EventRow<'_>], new: usize) {
        let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            seen.note(&row.key());
        }
        drop(seen);
        self.shared.metrics.inserted.increment(new as u64);
        self.shared.metrics.duplicate.increment((rows.len() - new) as u64);
    }

    async fn reload_definitions(&self, pause: &mut Pause) -> Result<(), Stopped> {
        let loaded = match self.shared.pool.acquire().await {
            Ok(mut connection) => definitions::load(&mut connection).await,
            Err(error) => Err(error),
        };
        match loaded {
            Ok(definitions) => self.shared.definitions.store(Arc::new(definitions)),
            Err(error) => self.wait_out(&error, pause).await?,
        }
        Ok(())
    }

    async fn wait_out(&self, error: &sqlx::Error, pause: &mut Pause) -> Result<(), Stopped> {
        tracing::warn!(%error, attempt = pause.count, "Postgres refused a write; repeating");
        tokio::select! {
            () = self.shared.hard.cancelled() => Err(Stopped),
            () = pause.next() => Ok(()),
        }
    }
}

/// Growing pauses between repeats: 50 ms doubling to 2 s, so that a returning database is used within 5 s.
#[derive(Debug, Default)]
pub struct Pause {
    count: u32,
}

impl Pause {
    /// Waits the next pause.
    pub async fn next(&mut self) {
        let millis = 50u64 << self.count.min(5);
        self.count += 1;
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}
