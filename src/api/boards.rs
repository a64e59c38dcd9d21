//! Which period a request is about, and what is known of a board without asking anyone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use moka::Entry;
use moka::future::Cache;

use super::cursor::Cursor;
use super::error::ApiError;
use super::problem::{Problem, rebuilding};
use super::query::WhichPeriod;
use crate::directory::{LeaderboardEntry, SharedDirectory};
use crate::domain::board::CompiledBoard;
use crate::domain::clock::{Clock, Micros};
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::ranking::BoardPeriod;
use crate::store::periods::{self, StoredPeriod};
use crate::store::{Pool, StoreError};

/// Most boards that are remembered; when there are more, those that are no longer live are forgotten.
const MAX_BOARDS: usize = 4_096;
/// Most archived periods that are remembered.
const MAX_PERIODS: u64 = 10_000;

/// What this process knows of a board.
#[derive(Debug, Default)]
pub struct BoardState {
    version: AtomicI64,
    /// The current period, and in which era it was asked for: in another one it may have another id.
    current: ArcSwapOption<(i64, StoredPeriod)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PeriodName {
    Which(WhichPeriod),
    Starting(BoardGenerationId, Micros),
}

/// What this process knows of boards.
pub struct Boards {
    directory: SharedDirectory,
    pool: Pool,
    clock: Clock,
    states: ArcSwap<HashMap<BoardGenerationId, Arc<BoardState>>>,
    epoch: AtomicI64,
    era: AtomicI64,
    periods: Cache<(i64, BoardGenerationId, PeriodName), Option<StoredPeriod>>,
    closed: Cache<(BoardGenerationId, Period), i64>,
}

impl Boards {
    /// Knows nothing yet. `directory` says which boards are live, `pool` which periods there are.
    pub fn new(directory: SharedDirectory, pool: Pool, clock: Clock) -> Self {
        let periods = Cache::builder().max_capacity(MAX_PERIODS).time_to_live(Duration::from_secs(1)).build();
        let closed = Cache::new(MAX_PERIODS);
        let (states, epoch, era) = (ArcSwap::default(), AtomicI64::new(0), AtomicI64::new(0));
        Self { directory, pool, clock, states, epoch, era, periods, closed }
    }

    /// Notices may have been lost: pages of any board may be old. Its periods are what they were.
    pub fn all_may_have_changed(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Postgres went back in time: a period may have another id, and its id may be another's. What is asked of Postgres
    /// at this moment may still be an answer of before, and is not kept.
    pub fn new_era(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
        self.all_may_have_changed();
    }

    /// In which era Postgres is asked now. What it answers may be kept as long as this stays the same.
    pub fn era(&self) -> i64 {
        self.era.load(Ordering::Acquire)
    }

    /// The latest version of a board that this process was told of or has shown. Who shows less shows an older board.
    pub fn latest(&self, generation: BoardGenerationId) -> i64 {
        self.states.load().get(&generation).map_or(0, |state| state.version.load(Ordering::Acquire))
    }

    /// A board has this version, as a notice says or as it is being shown. What was cached under an earlier one is not
    /// found any more. An earlier one counts for nothing: a Redis that has gone back announces such versions, and has
    /// older boards.
    pub fn shown(&self, generation: BoardGenerationId, version: i64) {
        if let Some(state) = self.states.load().get(&generation) {
            state.version.fetch_max(version, Ordering::AcqRel);
        }
    }

    /// A version of a closed period is being shown.
    pub async fn shown_closed(&self, period: &BoardPeriod, version: i64) {
        if self.latest_closed(period).await >= version {
            return;
        }
        let later = |last: Option<Entry<_, i64>>| {
            let last = last.map_or(version, Entry::into_value);
            std::future::ready(last.max(version))
        };
        self.closed.entry((period.generation, period.period)).and_upsert_with(later).await;
    }

    /// The latest version of a closed period that this process has shown, as far as it remembers.
    pub async fn latest_closed(&self, period: &BoardPeriod) -> i64 {
        self.closed.get(&(period.generation, period.period)).await.unwrap_or_default()
    }

    /// What cached pages of this board are keyed by: differs after every notice.
    pub fn seen(&self, generation: BoardGenerationId) -> (i64, i64) {
        // Before the board is read: a notice that comes meanwhile makes what is read unfindable.
        let version = self.state(generation).version.load(Ordering::Acquire);
        (self.epoch.load(Ordering::Acquire), version)
    }

    fn state(&self, generation: BoardGenerationId) -> Arc<BoardState> {
        if let Some(found) = self.states.load().get(&generation) {
            return Arc::clone(found);
        }
        self.states.rcu(|states| {
            let mut states = HashMap::clone(states);
            if states.len() >= MAX_BOARDS {
                let directory = self.directory.load();
                let boards = directory.games.values().flat_map(|g| g.leaderboards.values());
                let live: std::collections::HashSet<_> =
                    boards.filter_map(|l| l.live.as_ref()).map(|b| b.generation.id).collect();
                states.retain(|id, _| live.contains(id));
            }
            states.entry(generation).or_default();
            states
        });
        self.states.load().get(&generation).cloned().unwrap_or_default()
    }

    /// The period in which now falls; made in Postgres if nobody has scored in it yet, so that it has an id.
    ///
    /// # Errors
    /// `503` when this period was not seen before and Postgres is away, or the board was replaced.
    pub async fn current(&self, board: &CompiledBoard) -> Result<StoredPeriod, ApiError> {
        let known = self.state(board.generation.id);
        let now = self.clock.now();
        // Before it is asked.
        let era = self.era();
        if let Some((asked_in, period)) = known.current.load().as_deref()
            && *asked_in == era
            && period.period.contains(now)
        {
            return Ok(*period);
        }
        let period = board.schedule.period_at(now);
        let stored = Box::pin(periods::ensure(&self.pool, board.generation.id, &period)).await;
        let stored = stored.map_err(|error| match error {
            // Another generation has taken its place, of which this process is about to hear.
            StoreError::RowNotFound => rebuilding().into(),
            error => ApiError::from(error),
        })?;
        known.current.store(Some(Arc::new((era, stored))));
        Ok(stored)
    }

    /// The period that a request names.
    ///
    /// # Errors
    /// `404 period_not_found`; `503` when Postgres is away.
    pub async fn period(&self, board: &CompiledBoard, which: WhichPeriod) -> Result<StoredPeriod, ApiError> {
        if which == WhichPeriod::Current {
            return self.current(board).await;
        }
        let found = Box::pin(self.archived(board, PeriodName::Which(which))).await?;
        let missing = || Problem::not_found("period_not_found", "This leaderboard has no such period.").at("period");
        Ok(found.ok_or_else(missing)?)
    }

    /// The period of a cursor: of the live generation, or one that an earlier one closed.
    ///
    /// # Errors
    /// `503` when Postgres is away.
    pub async fn of_cursor(&self, board: &CompiledBoard, cursor: &Cursor) -> Result<Option<StoredPeriod>, ApiError> {
        let current = self.current(board).await?;
        if cursor.is_of(&current) {
            return Ok(Some(current));
        }
        let name = PeriodName::Starting(cursor.generation, cursor.period.starts_at());
        Ok(Box::pin(self.archived(board, name)).await?.filter(|found| cursor.is_of(found)))
    }

    /// Whether naming this period asks nobody.
    pub fn remembers(&self, board: &CompiledBoard, which: WhichPeriod) -> bool {
        which == WhichPeriod::Current || self.remembers_named(board, PeriodName::Which(which))
    }

    /// Whether finding the period of a cursor asks nobody.
    pub fn remembers_cursor(&self, board: &CompiledBoard, cursor: &Cursor) -> bool {
        let current = self.state(board.generation.id).current.load();
        let name = PeriodName::Starting(cursor.generation, cursor.period.starts_at());
        current.as_deref().is_some_and(|(era, current)| *era == self.era() && cursor.is_of(current))
            || self.remembers_named(board, name)
    }

    fn remembers_named(&self, board: &CompiledBoard, name: PeriodName) -> bool {
        self.periods.contains_key(&(self.era(), board.generation.id, name))
    }

    async fn archived(&self, board: &CompiledBoard, name: PeriodName) -> Result<Option<StoredPeriod>, ApiError> {
        let generation = board.generation.id;
        let read = async {
            let found = match name {
                PeriodName::Which(WhichPeriod::Id(id)) => periods::by_id(&self.pool, generation, id).await,
                PeriodName::Starting(owner, start) => periods::starting_at(&self.pool, generation, owner, start).await,
                PeriodName::Which(_) => self.previous(board).await,
            };
            found.map_err(ApiError::from)
        };
        // Whoever waits for the same answer gets the same refusal; it is logged once.
        self.periods.try_get_with((self.era(), generation, name), read).await.map_err(Arc::unwrap_or_clone)
    }

    /// The period before the current one by the schedule, if there is such a row; else the latest that began before it.
    async fn previous(&self, board: &CompiledBoard) -> Result<Option<StoredPeriod>, StoreError> {
        let (pool, live) = (&self.pool, board.generation.id);
        let current = board.schedule.period_at(self.clock.now());
        let before = board.schedule.period_at(Micros(current.starts_at.0.saturating_sub(1)));
        if before != current
            && let Some(found) = periods::named(pool, live, &before).await?
        {
            return Ok(Some(found));
        }
        Ok(periods::began_before(pool, live, current.starts_at, 1).await?.first().copied())
    }
}

/// The names under which `ranking` knows a period of a board.
pub fn board_period(entry: &LeaderboardEntry, period: &StoredPeriod) -> BoardPeriod {
    BoardPeriod {
        generation: period.generation,
        period: period.period,
        order: period.order,
        tie_policy: entry.tie_policy,
    }
}
