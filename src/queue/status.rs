//! A queue seen from outside, in work that does not grow with the backlog.

use std::collections::BTreeMap;

use super::blocked::BlockedGame;
use super::client::{Queue, QueueError};
use super::job_id::parse_id;
use super::keys::{self, Lane};
use super::scripts::{STAMP, SURVEY};
use crate::domain::clock::Micros;

/// One lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneStatus {
    /// Which.
    pub lane: Lane,
    /// Jobs that wait for a worker, fresh ones and ones whose next attempt is due.
    pub waiting: u64,
    /// When the oldest fresh one was received.
    pub oldest: Option<Micros>,
}

/// One live worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// Jobs that Redis lists as held by it.
    pub held: u64,
    /// How long the oldest of them has been in its hands, in ms, as of its last heartbeat.
    pub oldest_running_ms: u64,
    /// Its jobs are being taken out of its hands.
    pub fenced: bool,
}

/// One queue at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStatus {
    /// When, by what `received_at` is also from: Redis's clock, and no earlier than what it stamped last.
    pub at: Micros,
    /// The lanes, `High` first.
    pub lanes: [LaneStatus; 2],
    /// Rescued jobs that wait to run apart from the others.
    pub suspect: u64,
    /// Jobs that wait for their next attempt.
    pub delayed: u64,
    /// Dead letters on their way to Postgres.
    pub dead: u64,
    /// Every job that Redis knows.
    pub jobs: u64,
    /// Held by an operator.
    pub paused: bool,
    /// Live workers.
    pub workers: Vec<WorkerStatus>,
    /// Games with jobs that are set aside.
    pub blocked: Vec<BlockedGame>,
    /// Running totals: `pushed`, `done`, `retried`, `deferred`, `rescued`, `returned`, `dead`.
    pub totals: BTreeMap<String, u64>,
}

impl QueueStatus {
    /// Jobs in workers' hands.
    pub fn held(&self) -> u64 {
        self.workers.iter().map(|w| w.held).sum()
    }

    /// Seconds since the oldest fresh job of `lane` was received; 0 when none waits.
    pub fn oldest_seconds(&self, lane: Lane) -> f64 {
        let oldest = self.lanes.iter().find(|l| l.lane == lane).and_then(|l| l.oldest);
        oldest.map_or(0.0, |oldest| self.at.since(oldest).max(0) as f64 / 1e6)
    }
}

type Lengths = [u64; 8];
type Answer = (i64, Vec<u64>, bool, String, String, Vec<(String, String)>, BTreeMap<String, u64>, Vec<u64>);

impl Queue {
    /// The time of receipt before which nothing is received any more, whatever Redis's clock does from here on. A
    /// server that knows an earlier one than `at_least` is told.
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub async fn stamp(&self, at_least: Micros) -> Result<Micros, QueueError> {
        let call = STAMP.keys([self.keys().counters()]).arg(at_least.0);
        Ok(Micros(call.run(&mut self.connection().clone()).await?))
    }

    /// Depth per lane and state, age, workers, totals.
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub async fn status(&self) -> Result<QueueStatus, QueueError> {
        let keys = self.keys();
        let mut connection = self.connection().clone();
        let workers: Vec<String> = redis::cmd("HKEYS").arg(keys.workers()).query_async(&mut connection).await?;
        let mut all = vec![
            keys.workers(),
            keys.lane(Lane::High),
            keys.again(Lane::High),
            keys.lane(Lane::Low),
            keys.again(Lane::Low),
            keys.suspect(),
            keys.delayed(),
            keys.dead(),
            keys.jobs(),
            keys.paused(),
            keys.counters(),
        ];
        all.extend(workers.iter().map(|w| keys.held(w)));
        let call = SURVEY.keys(all).arg("").arg(&workers);
        let mut status = read(call.run(&mut connection).await?, workers);
        status.blocked = self.blocked(status.at).await?;
        Ok(status)
    }
}

fn read((at, lengths, paused, high, low, beats, mut totals, held): Answer, known: Vec<String>) -> QueueStatus {
    totals.remove(keys::STAMP);
    let [high_fresh, high_again, low_fresh, low_again, suspect, delayed, dead, jobs] =
        Lengths::try_from(lengths).unwrap_or_default();
    let held: BTreeMap<String, u64> = known.into_iter().zip(held).collect();
    let head = |id: String| parse_id(&id).map(|parts| parts.received_at);
    let workers = beats.into_iter().map(|(name, beat)| WorkerStatus {
        held: held.get(&name).copied().unwrap_or_default(),
        oldest_running_ms: beat.split(' ').nth(2).and_then(|ms| ms.parse().ok()).unwrap_or_default(),
        fenced: beat == "fenced",
        name,
    });
    QueueStatus {
        at: Micros(at),
        lanes: [
            LaneStatus { lane: Lane::High, waiting: high_fresh + high_again, oldest: head(high) },
            LaneStatus { lane: Lane::Low, waiting: low_fresh + low_again, oldest: head(low) },
        ],
        suspect,
        delayed,
        dead,
        jobs,
        paused,
        workers: workers.collect(),
        blocked: Vec::new(),
        totals,
    }
}
