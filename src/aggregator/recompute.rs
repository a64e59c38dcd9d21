//! Recomputing a leaderboard from stored events, beside the running system (fine print 5).
//!
//! A generation in state `building` is its durable order. Workers make facts for it from events stamped with its
//! definitions generation or a later one; this loop makes them from events stamped before. In order:
//!
//! 1. what dropped events have left in the live generation's baseline, if that still means the same;
//! 2. stored events, a partition after the other, in chunks: facts and cursor move in one transaction;
//! 3. wait until the facts are folded; write the board to Redis;
//! 4. one transaction swaps it in; before it, what became final meanwhile is made way for.
//!
//! A crash anywhere goes on from what was committed. While anything is being built, retention stands still.

use std::collections::BTreeSet;
use std::time::Duration;

use super::rebuild::{RebuildBoardError, rebuild_board};
use super::schedule::Context;
use super::tenure::{JobError, Tenure};
use crate::domain::board::{CompiledBoard, Definition};
use crate::domain::entry::EntryState;
use crate::domain::fact::{Fact, fact_of};
use crate::domain::ids::BoardGenerationId;
use crate::domain::month::Month;
use crate::domain::packed_facts::{FactPacker, PackedFacts};
use crate::domain::period::Period;
use crate::lifecycle::crash_point;
use crate::ranking::RebuildError;
use crate::store::baseline::{self, Covered, EntryKey};
use crate::store::entries::{self, FreshEntry};
use crate::store::event_scan::{self, GameScan, Pace, ScanKey, StoredEvent};
use crate::store::fold_periods::{self, Place};
use crate::store::recompute_steps::{self as steps, BaselineRow, Building};
use crate::store::swap::{self, Swap};
use crate::store::{facts, final_periods, markers, partitions};

/// Events looked at in one chunk, and in one transaction.
const CHUNK: i64 = 5_000;
/// Rows of the baseline taken over in one transaction.
const BASELINE_CHUNK: i64 = 2_000;
/// The scan rests while more facts than this wait: workers' facts queue behind them, a fifth of a second on two quiet
/// cores and more on busy ones. A few folds' worth keeps every lane at work.
const MAX_FACTS_WAITING: i64 = 30_000;
/// Pause between two looks at something that others do.
const PAUSE: Duration = Duration::from_millis(10);
/// How often a new generation is looked for, should the notice that wakes this have been lost.
pub const POLL: Duration = Duration::from_secs(3);
/// How long to leave a generation alone that could not be built.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How working on a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is live.
    Live,
    /// A later edit has replaced it, or it is live already.
    Superseded,
    /// Another process works on it.
    Elsewhere,
    /// The process is stopping; whoever is next goes on.
    Stopped,
}

/// Builds what is waiting to be built, until the context stops: at once when `recompute_wanted` says so, and every
/// `poll` without being told.
pub async fn run(context: &Context, poll: Duration) {
    let mut failed = false;
    while !context.stop.is_cancelled() {
        match build_waiting(context).await {
            Ok(()) => failed = false,
            Err(error) if failed => tracing::debug!(%error, "a recompute still fails"),
            Err(error) => {
                failed = true;
                tracing::warn!(%error, "a recompute failed; it goes on where it stopped");
            }
        }
        let pause = if failed { AFTER_FAILURE } else { poll };
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = context.recompute_wanted.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Builds every generation that waits, one after the other. One that fails does not stop the others.
///
/// # Errors
/// The last failure.
pub async fn build_waiting(context: &Context) -> Result<(), JobError> {
    let waiting = {
        let mut connection = context.pool.acquire().await?;
        steps::waiting(&mut connection).await?
    };
    let mut last = Ok(());
    for generation in waiting {
        match build(context, generation).await {
            Ok(Outcome::Live) => tracing::info!(%generation, "recomputed leaderboard is live"),
            Ok(Outcome::Superseded | Outcome::Elsewhere) => {}
            Ok(Outcome::Stopped) => return Ok(()),
            Err(error) => last = Err(error),
        }
    }
    last
}

/// Builds one generation and swaps it in.
///
/// # Errors
/// [`JobError`]; what was committed stays, and the next attempt goes on from there.
pub async fn build(context: &Context, generation: BoardGenerationId) -> Result<Outcome, JobError> {
    let name = format!("recompute-{generation}");
    let Some(tenure) = Tenure::take(&context.pool, &name, &context.holder).await? else {
        return Ok(Outcome::Elsewhere);
    };
    let outcome = Builder::new(context, &tenure, generation).await;
    let outcome = match outcome {
        Ok(Some(builder)) => builder.build().await,
        Ok(None) => Ok(Outcome::Superseded),
        Err(error) => Err(error),
    };
    tenure.sign_off().await;
    outcome
}

struct Builder<'a> {
    context: &'a Context,
    tenure: &'a Tenure,
    building: Building,
    board: CompiledBoard,
}

impl<'a> Builder<'a> {
    async fn new(
        context: &'a Context,
        tenure: &'a Tenure,
        generation: BoardGenerationId,
    ) -> Result<Option<Self>, JobError> {
        let mut connection = context.pool.acquire().await?;
        let Some(building) = steps::load(&mut connection, generation).await? else { return Ok(None) };
        let board = CompiledBoard::compile(building.generation.clone())?;
        Ok(Some(Self { context, tenure, building, board }))
    }

    async fn build(self) -> Result<Outcome, JobError> {
        if !self.building.scan_finished {
            if self.building.cursor.is_none() {
                self.take_over_baseline().await?;
            }
            if let Some(early) = self.scan().await? {
                return Ok(early);
            }
        }
        if let Some(early) = self.wait_until_folded().await? {
            return Ok(early);
        }
        loop {
            if self.context.stop.is_cancelled() {
                return Ok(Outcome::Stopped);
            }
            let order = self.building.generation.spec.definition.order;
            match rebuild_board(&self.context.pool, &self.context.ranking, self.building.generation.id, order, |_| {})
                .await
            {
                Ok(_) => break,
                Err(RebuildBoardError::Rebuild(RebuildError::Busy)) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
        crash_point("recompute::before_swap");
        self.swap().await
    }

    /// Step 1. Rows that an interrupted attempt took over are not taken twice.
    async fn take_over_baseline(&self) -> Result<(), JobError> {
        let mut transaction = self.tenure.begin().await?;
        baseline::stand_still(&mut transaction).await?;
        transaction.commit().await?;
        let Some((live, spec)) = &self.building.live else { return Ok(()) };
        if !crate::store::recompute::baseline_survives(spec, &self.building.generation.spec) {
            return Ok(());
        }
        let id = self.building.generation.id;
        let mut after = {
            let mut connection = self.context.pool.acquire().await?;
            steps::last_of_baseline(&mut connection, id).await?
        };
        loop {
            let mut transaction = self.tenure.begin().await?;
            let rows = steps::baseline_after(&mut transaction, *live, after.as_ref(), BASELINE_CHUNK).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some((last.starts_at, last.player_id.clone()));
            self.take_over(&mut transaction, rows).await?;
            transaction.commit().await?;
        }
    }

    /// Takes rows of the live generation's baseline over, but those of final periods: baseline and entries of the new
    /// one. No marker: Redis gets the whole board later.
    async fn take_over(&self, transaction: &mut sqlx::PgConnection, rows: Vec<BaselineRow>) -> Result<(), JobError> {
        let id = self.building.generation.id;
        let named = |row: &BaselineRow| {
            let ends_at = row.ends_at.unwrap_or_else(|| self.board.schedule.period_at(row.starts_at).ends_at);
            (id, Period { starts_at: row.starts_at, ends_at })
        };
        let places: BTreeSet<Place> = rows.iter().map(named).collect();
        let mut places: Vec<Place> = places.into_iter().collect();
        let frozen = final_periods::among(transaction, &places).await?;
        places.retain(|place| !frozen.contains(place));
        fold_periods::create(transaction, &places).await?;
        let locked = steps::lock_periods(transaction, &places).await?;
        let states: Vec<(EntryKey, EntryState)> = rows
            .into_iter()
            .map(|row| (named(&row), row))
            .filter(|(place, _)| !frozen.contains(place))
            .map(|((generation, period), row)| ((generation, period, row.player_id), row.state))
            .collect();
        baseline::write(transaction, &states).await?;
        let Definition { operator, order, .. } = self.building.generation.spec.definition;
        // As a fold does, in the order of the entries' key.
        let mut fresh: Vec<FreshEntry<'_>> = Vec::with_capacity(states.len());
        for ((generation, period, player_id), state) in &states {
            let Some(&period_id) = locked.get(&(*generation, *period)) else { continue };
            fresh.push(FreshEntry { period_id, player_id, operator, order, state });
        }
        if !fresh.is_empty() {
            let version = markers::next_version(transaction).await?;
            entries::merge(transaction, version, &fresh).await?;
        }
        Ok(())
    }

    /// Step 2. `Some`: it ended early.
    async fn scan(&self) -> Result<Option<Outcome>, JobError> {
        let (months, total, coverage) = {
            let mut connection = self.context.pool.acquire().await?;
            let listed = partitions::list(&mut connection).await?;
            let total: i64 = listed.iter().map(|p| p.estimated_rows.max(0)).sum();
            let months: Vec<Month> = listed.iter().map(partitions::Partition::month).collect();
            (months, total, baseline::coverage(&mut connection).await?)
        };
        let begun = self.building.cursor;
        for month in months {
            let mut after = match begun {
                Some((reached, _)) if month < reached => continue,
                Some((reached, key)) if month == reached => key,
                _ => None,
            }
            .unwrap_or(ScanKey::before(self.building.generation.game_id));
            match coverage.get(&month) {
                Some(Covered::Everything) => continue,
                // In the baseline already: all of this game up to there, or all of it, or nothing.
                Some(Covered::UpTo(key)) if key.game_id > after.game_id => continue,
                Some(Covered::UpTo(key)) if key.game_id == after.game_id => after = after.max(*key),
                _ => {}
            }
            let mut pace = Pace::new(CHUNK);
            loop {
                if self.context.stop.is_cancelled() {
                    return Ok(Some(Outcome::Stopped));
                }
                self.yield_to_workers().await?;
                match self.scan_chunk(month, after, total, &mut pace).await? {
                    Scanned::More(key) => after = key,
                    Scanned::MonthDone => break,
                    Scanned::Superseded => return Ok(Some(Outcome::Superseded)),
                }
                crash_point("recompute::after_chunk");
            }
        }
        let mut transaction = self.tenure.begin().await?;
        steps::finish_scan(&mut transaction, self.building.generation.id, self.context.clock.now()).await?;
        transaction.commit().await?;
        Ok(None)
    }

    async fn scan_chunk(&self, month: Month, after: ScanKey, total: i64, pace: &mut Pace) -> Result<Scanned, JobError> {
        let generation = &self.building.generation;
        let scan = GameScan {
            range: (month.starts_at(), month.ends_at()),
            event_type: generation.spec.definition.event_type.as_str(),
            stamped_before: generation.since_generation,
            players: (0, 1),
            limit: pace.limit(),
        };
        let mut transaction = self.tenure.begin().await?;
        let chunk = event_scan::next_of_game(&mut transaction, &scan, after).await?;
        let Some(reached) = chunk.reached else { return Ok(Scanned::MonthDone) };
        pace.brought(chunk.looked_at);
        let packed = self.pack(&mut transaction, &chunk.events).await?;
        facts::insert(&mut transaction, &packed).await?;
        let saved =
            steps::save_cursor(&mut transaction, generation.id, month, Some(reached), chunk.looked_at, total).await?;
        if !saved {
            return Ok(Scanned::Superseded);
        }
        transaction.commit().await?;
        (self.context.announce_facts)();
        Ok(Scanned::More(reached))
    }

    /// What the events mean to the board, but to final periods, which stay as they are. No period waits for these facts:
    /// what players see is the live generation, which has counted their events.
    async fn pack(
        &self,
        connection: &mut sqlx::PgConnection,
        events: &[StoredEvent],
    ) -> Result<Vec<PackedFacts>, JobError> {
        let facts: Vec<Fact<'_>> =
            events.iter().filter_map(|event| fact_of(&self.board, &event.occurrence())).collect();
        let places: BTreeSet<Place> = facts.iter().map(|fact| (fact.generation, fact.period)).collect();
        let places: Vec<Place> = places.into_iter().collect();
        let frozen = final_periods::among(connection, &places).await?;
        let mut packer = FactPacker::default();
        for fact in facts.iter().filter(|fact| !frozen.contains(&(fact.generation, fact.period))) {
            packer.push(fact, None);
        }
        Ok(packer.finish())
    }

    async fn yield_to_workers(&self) -> Result<(), JobError> {
        while facts::waiting(&self.context.pool).await? > MAX_FACTS_WAITING && !self.context.stop.is_cancelled() {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Step 3. Every fact of the scan is in a row up to the watermark; newer rows are not waited for.
    async fn wait_until_folded(&self) -> Result<Option<Outcome>, JobError> {
        let mut connection = self.context.pool.acquire().await?;
        let watermark = steps::fact_watermark(&mut connection).await?;
        drop(connection);
        loop {
            let mut connection = self.context.pool.acquire().await?;
            if steps::is_folded(&mut connection, watermark).await? {
                return Ok(None);
            }
            if steps::load(&mut connection, self.building.generation.id).await?.is_none() {
                return Ok(Some(Outcome::Superseded));
            }
            drop(connection);
            if self.context.stop.is_cancelled() {
                return Ok(Some(Outcome::Stopped));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Step 4. Nothing has to happen after it: final periods are read from the generation that counted them.
    async fn swap(&self) -> Result<Outcome, JobError> {
        let generation = &self.building.generation;
        loop {
            let mut transaction = self.tenure.begin().await?;
            match swap::swap(&mut transaction, generation, self.context.clock.now()).await? {
                Swap::Done => {
                    transaction.commit().await?;
                    crash_point("recompute::after_swap");
                    (self.context.directory_changed)();
                    return Ok(Outcome::Live);
                }
                Swap::Superseded => return Ok(Outcome::Superseded),
                Swap::InTheWay if self.context.stop.is_cancelled() => return Ok(Outcome::Stopped),
                Swap::InTheWay => {
                    transaction.rollback().await?;
                    let mut transaction = self.tenure.begin().await?;
                    let periods = swap::make_way(&mut transaction, generation).await?;
                    transaction.commit().await?;
                    // Nobody reads them; a crash here leaves them to the next rebuild, with which another attempt begins.
                    for period in &periods {
                        self.context.ranking.remove_period(generation.id, period).await?;
                    }
                }
            }
        }
    }
}

enum Scanned {
    More(ScanKey),
    MonthDone,
    Superseded,
}
