//! Facts and markers that were put aside, brought back for a program that can read them: when a shard changes its
//! holder, and when a definition can be read again.
//!
//! A portion at a time, beside the folds. What was put aside is older than what waits and so is folded first: what
//! players did just now waits for one portion at most, and portions take a fraction of the time. What this program
//! cannot read either stays where it is.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fold::is_kept_whole;
use super::marker;
use super::refused::Unfoldable;
use super::rules::Rules;
use super::shards::{self, Shards};
use crate::domain::fact::Fact;
use crate::domain::packed_facts;
use crate::store::definitions::Definitions;
use crate::store::{Pool, StoreError, facts, markers};

/// How often it is looked whether there is something to do.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether a portion has been folded.
const PORTION_INTERVAL: Duration = Duration::from_millis(50);
/// How many times as long as a portion took the next one waits.
const REST: u32 = 4;
/// For how long more may be put aside by folds that began before: longer than a fold takes.
const GOES_ON: Duration = Duration::from_secs(15);
/// Most markers of a portion.
const MARKERS: i64 = 500;

/// Brings back what was put aside.
#[derive(Debug)]
pub struct BringBack<'a> {
    /// Postgres.
    pub pool: &'a Pool,
    /// What can be read.
    pub rules: &'a Rules,
    /// Which shards it is for.
    pub shards: &'a Shards,
    /// What stays where it is, because this program has tried and could not fold it.
    pub unfoldable: &'a Unfoldable,
    /// Told when facts are back.
    pub folders: [&'a Notify; 2],
    /// Told when markers are back.
    pub publisher: &'a Notify,
}

/// One walk over what was put aside.
#[derive(Debug)]
struct Walk {
    began: Instant,
    facts_after: i64,
    markers_after: i64,
    /// The last portion of facts, until it is folded; and when it was brought back.
    portion: Vec<i64>,
    brought: Instant,
}

impl Walk {
    fn new() -> Self {
        let now = Instant::now();
        Self { began: now, facts_after: i64::MIN, markers_after: i64::MIN, portion: Vec::new(), brought: now }
    }
}

impl BringBack<'_> {
    /// Works until `stop`.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut changed = self.shards.subscribe();
        let (mut held, mut walk, mut pause) = (Vec::new(), None, Duration::ZERO);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = changed.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let now_held = shards::numbers(&self.shards.held());
            let taken = now_held.iter().any(|shard| !held.contains(shard));
            held = now_held;
            if self.rules.take_readable_again() || taken {
                walk = Some(Walk::new());
            }
            pause = LOOK_INTERVAL;
            let Some(under_way) = &mut walk else { continue };
            match self.step(under_way, &held).await {
                Ok(Some(next)) => pause = next,
                Ok(None) => walk = None,
                Err(error) => tracing::debug!(%error, "what was put aside could not be brought back; trying again"),
            }
        }
    }

    /// One step of a walk. Says after which pause the next one follows; `None`: it has ended.
    async fn step(&self, walk: &mut Walk, held: &[i16]) -> Result<Option<Duration>, StoreError> {
        if !walk.portion.is_empty() {
            if facts::are_waiting(self.pool, &walk.portion).await? {
                return Ok(Some(PORTION_INTERVAL));
            }
            walk.portion.clear();
            let rest = walk.brought.elapsed().saturating_mul(REST);
            return Ok(Some(rest.clamp(PORTION_INTERVAL, LOOK_INTERVAL)));
        }
        // A process that has just started may not know of any definition yet.
        self.rules.refresh().await?;
        let readable = &marker::READABLE;
        if let Some(last) = markers::bring_back(self.pool, held, readable, walk.markers_after, MARKERS).await? {
            walk.markers_after = last;
            self.publisher.notify_one();
        }
        let aside = facts::aside(self.pool, held, walk.facts_after).await?;
        let Some((last, _)) = aside.last() else {
            return Ok((walk.began.elapsed() < GOES_ON).then_some(LOOK_INTERVAL));
        };
        let definitions = self.rules.current();
        let can_fold = |bytes: &[u8]| !self.unfoldable.has(bytes) && can_read(&definitions, bytes);
        let readable: Vec<i64> = aside.iter().filter(|(_, bytes)| can_fold(bytes)).map(|(id, _)| *id).collect();
        if !readable.is_empty() {
            facts::bring_back(self.pool, &readable).await?;
            walk.brought = Instant::now();
            self.folders.iter().for_each(|folder| folder.notify_one());
        }
        (walk.facts_after, walk.portion) = (*last, readable);
        Ok(Some(PORTION_INTERVAL))
    }
}

/// Whether a fold would not put the whole row aside again.
fn can_read(definitions: &Definitions, row: &[u8]) -> bool {
    packed_facts::unpack(row, |generation, start| definitions.period_end(generation, start)).is_ok_and(|facts| {
        let can_read = |fact: &Fact<'_>| !definitions.unreadable.contains_key(&fact.generation);
        !is_kept_whole(definitions, row, &facts) && (facts.is_empty() || facts.iter().any(can_read))
    })
}
