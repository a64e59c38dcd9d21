//! Recomputing a leaderboard from stored events, beside the running system
//! (docs/rules.md#definitions-change-while-workers-run).
//!
//! A generation in state `building` is its durable order. Workers make facts for it from events stamped with its
//! definitions generation or a later one; this loop makes them from events stamped before. In order:
//!
//! 1. what dropped events have left in the live generation's baseline, if that still means the same;
//! 2. stored events, a partition after the other, in chunks: facts and cursor move in one transaction;
//! 3. wait until the facts are folded; write the board to Redis;
//! 4. one transaction swaps it in; before it, what became final meanwhile is made way for.
//!
//! A crash anywhere goes on from what was committed. Retention leaves the months alone that a build has still to read.

mod go_live;
mod scan;
mod take_over;

use std::time::Duration;

use tokio::time::Instant;

use super::context::Context;
use super::outlook::Outlook;
use super::tenure::{JobError, Tenure};
use super::turn::Turn;
use crate::domain::board::CompiledBoard;
use crate::domain::ids::BoardGenerationId;
use crate::domain::month::Month;
use crate::ranking::RebuildError;
use crate::runtime::crash_points::crash_point;
use crate::services::board_rebuild::{RebuildBoardError, rebuild_board};
use crate::store::event_scan::{Pace, ScanKey};
use crate::store::outbox::Outbox;
use crate::store::recompute_steps::{self as steps, Building};

/// Events looked at in one chunk, and in one transaction.
const CHUNK: i64 = 5_000;
/// Rows of the baseline taken over in one transaction.
const BASELINE_CHUNK: i64 = 2_000;
/// The scan rests while more facts than this wait: workers' facts queue behind them, a fifth of a second on two quiet
/// cores and more on busy ones. A few folds' worth keeps every lane at work.
const MAX_FACTS_WAITING: i64 = 30_000;
/// Pause between two looks at something that others do: at first, and when it takes longer.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

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
    /// Others wait and it has had its turn; it goes on in the next one.
    MakesRoom,
}

/// What a process remembers of a build between two of its turns. Without it, a build goes on from what was committed.
#[derive(Debug)]
pub struct Memory {
    /// How far the scan was when this process left it. Somebody else has gone on if it is further.
    cursor: Option<(Month, Option<ScanKey>)>,
    /// Rows of facts that the scan made up to there; `None`: not all of them are known.
    rows: Option<Vec<i64>>,
    /// The last chunk made facts.
    makes_facts: bool,
    /// Of the events.
    pace: Pace,
    /// Of the baseline.
    baseline_pace: Pace,
    outlook: Outlook,
}

impl Default for Memory {
    fn default() -> Self {
        let (pace, baseline_pace) = (Pace::new(CHUNK), Pace::new(BASELINE_CHUNK));
        let outlook = Outlook::default();
        Self { cursor: None, rows: Some(Vec::new()), makes_facts: false, pace, baseline_pace, outlook }
    }
}

/// Builds one generation and swaps it in.
///
/// # Errors
/// [`JobError`]; what was committed stays, and the next attempt goes on from there.
pub async fn build(context: &Context, generation: BoardGenerationId) -> Result<Outcome, JobError> {
    build_in_turn(context, generation, &Turn::alone(), &mut Memory::default()).await
}

/// As [`build`], but makes room for others when its turn is over.
///
/// # Errors
/// As [`build`].
pub async fn build_in_turn(
    context: &Context,
    generation: BoardGenerationId,
    turn: &Turn,
    memory: &mut Memory,
) -> Result<Outcome, JobError> {
    let name = format!("recompute-{generation}");
    let Some(tenure) = Tenure::take(&context.pool, &name, &context.holder).await? else {
        return Ok(Outcome::Elsewhere);
    };
    let outcome = match Builder::new(context, &tenure, turn, generation).await {
        Ok(Some(builder)) => builder.build(memory).await,
        Ok(None) => Ok(Outcome::Superseded),
        Err(error) => Err(error),
    };
    tenure.sign_off().await;
    outcome
}

struct Builder<'a> {
    context: &'a Context,
    tenure: &'a Tenure,
    turn: &'a Turn,
    building: Building,
    board: CompiledBoard,
}

impl<'a> Builder<'a> {
    async fn new(
        context: &'a Context,
        tenure: &'a Tenure,
        turn: &'a Turn,
        generation: BoardGenerationId,
    ) -> Result<Option<Self>, JobError> {
        let mut connection = context.pool.acquire().await?;
        let Some(building) = steps::load(&mut connection, generation).await? else { return Ok(None) };
        let board = CompiledBoard::compile(building.generation.clone())?;
        Ok(Some(Self { context, tenure, turn, building, board }))
    }

    async fn build(self, memory: &mut Memory) -> Result<Outcome, JobError> {
        if memory.cursor != self.building.cursor {
            *memory = Memory { cursor: self.building.cursor, rows: None, ..Memory::default() };
        }
        if !self.building.scan_finished {
            if self.building.cursor.is_none()
                && let Some(early) = self.take_over_baseline(&mut memory.baseline_pace).await?
            {
                return Ok(early);
            }
            if let Some(early) = self.scan(memory).await? {
                return Ok(early);
            }
        }
        if let Some(early) = self.wait_until_folded(memory).await? {
            return Ok(early);
        }
        loop {
            if let Some(early) = self.ends_early() {
                return Ok(early);
            }
            let (pool, ranking, generation) = (&self.context.pool, &self.context.ranking, &self.building.generation);
            let order = generation.spec.definition.order;
            match rebuild_board(pool, ranking, generation.id, order, "cron", |_| {}).await {
                Ok(_) => break,
                Err(RebuildBoardError::Rebuild(RebuildError::Busy)) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
        crash_point("recompute::before_swap");
        self.swap().await
    }

    /// Whether something ends this attempt between two steps.
    fn ends_early(&self) -> Option<Outcome> {
        if self.context.stop.is_cancelled() {
            return Some(Outcome::Stopped);
        }
        self.turn.is_over().then_some(Outcome::MakesRoom)
    }

    /// `Some`: it ended early. Whoever makes no facts need not wait for those of others.
    async fn yield_to_workers(&self, memory: &mut Memory) -> Result<Option<Outcome>, JobError> {
        let mut pause = PAUSE;
        loop {
            if let Some(early) = self.ends_early() {
                return Ok(Some(early));
            }
            if !memory.makes_facts || self.facts_waiting(&mut memory.outlook).await? <= MAX_FACTS_WAITING {
                return Ok(None);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn facts_waiting(&self, outlook: &mut Outlook) -> Result<i64, JobError> {
        let mut connection = self.context.pool.acquire().await?;
        let waiting = Outbox::Facts.waiting(&mut connection, outlook.after(Instant::now())).await?;
        outlook.saw(waiting);
        Ok(waiting.count)
    }

    /// Step 3. Facts of other boards, and newer ones of this, are not waited for.
    async fn wait_until_folded(&self, memory: &mut Memory) -> Result<Option<Outcome>, JobError> {
        let mut rows = match memory.rows.take() {
            Some(rows) => rows,
            None => steps::rows_of_recomputes(&mut *self.context.pool.acquire().await?).await?,
        };
        let mut pause = PAUSE;
        loop {
            {
                let mut connection = self.context.pool.acquire().await?;
                rows = steps::not_folded(&mut connection, &rows).await?;
                // No turn after this one waits for more.
                memory.rows = Some(rows.clone());
                if rows.is_empty() {
                    return Ok(None);
                }
                if steps::load(&mut connection, self.building.generation.id).await?.is_none() {
                    return Ok(Some(Outcome::Superseded));
                }
            }
            if let Some(early) = self.ends_early() {
                return Ok(Some(early));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
