//! The lease of a worker, in a task of its own outside apalis: it beats until the last job has ended, also while
//! draining, and rescues the jobs of workers whose lease ran out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::keys::Lane::{High, Low};
use super::scripts::{REGISTER, RENEW, RESCUE, SIGN_OFF};
use super::trouble::DIED_IN_COMPANY;
use super::worker_state::WorkerState;

/// Beats in a lease.
const BEATS: u32 = 10;
/// Longest pause between two beats: others may have a shorter lease, and judge by it.
const LONGEST_PAUSE: Duration = Duration::from_millis(600);
/// The longest lease that a beat may claim, as that of `QUEUE_LEASE_SECONDS`.
const LONGEST_LEASE: Duration = Duration::from_secs(3_600);
/// Most jobs of one rescue call.
const RESCUE_AT_ONCE: usize = 250;
/// Most jobs of one sign-off call.
const RETURN_AT_ONCE: usize = 1_000;
/// How long a stopping worker tries to sign off; after that its lease runs out and others rescue its jobs.
const SIGN_OFF_LIMIT: Duration = Duration::from_secs(3);

/// Registers the worker and keeps its lease until `stop`.
pub(super) async fn keep(state: Arc<WorkerState>, stop: CancellationToken) {
    let own = state.options.lease;
    let beat = (own / BEATS).min(LONGEST_PAUSE);
    let mut lease = Lease { state, watched: Watch::new(own), beats: 0 };
    let beating = async {
        loop {
            let pause = if lease.beat().await { beat } else { beat.min(Duration::from_millis(100)) };
            sleep(pause).await;
        }
    };
    tokio::select! {
        () = beating => {}
        () = stop.cancelled() => {}
    }
}

struct Lease {
    state: Arc<WorkerState>,
    watched: Watch,
    beats: u64,
}

impl Lease {
    /// One beat: renews (or registers) and looks after the others. `false` when Redis did not answer.
    async fn beat(&mut self) -> bool {
        let answer = match self.state.registered() {
            Some(tenure) => self.renew(tenure).await,
            None => self.register().await,
        };
        match answer {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "no heartbeat");
                self.watched.interrupt();
                false
            }
        }
    }

    async fn register(&mut self) -> redis::RedisResult<()> {
        if self.state.signed_off.is_cancelled() {
            return Ok(());
        }
        let (state, tenure) = (&self.state, self.state.tenure());
        let keys = state.queue.keys();
        let call = REGISTER.keys([keys.workers(), keys.fetches()]).arg(state.name(tenure));
        // A name that is taken is ours: the answer to an earlier call was lost.
        call.run::<i64>(&mut state.queue.connection().clone()).await?;
        tracing::info!(worker = state.name(tenure), "signed on to the queue");
        state.signed_on(tenure);
        Ok(())
    }

    async fn renew(&mut self, tenure: u32) -> redis::RedisResult<()> {
        let state = Arc::clone(&self.state);
        self.beats += 1;
        let (in_hand, oldest) = state.hands.oldest();
        state.meters.in_hand.set(in_hand as f64);
        state.options.oldest_in_hand.set(oldest);
        let oldest = oldest.map_or(0, |since| since.elapsed().as_millis());
        let beat = format!("{} {in_hand} {oldest} {}", self.beats, state.options.lease.as_millis());
        let asked = Instant::now();
        let call = RENEW.keys([state.queue.keys().workers()]).arg(state.name(tenure)).arg(beat);
        let (alive, workers): (bool, Vec<(String, String)>) = call.run(&mut state.queue.connection().clone()).await?;
        let answered = Instant::now();
        if !alive {
            state.given_up(tenure);
        }
        let mine = state.name(tenure);
        let others = workers.into_iter().filter(|(worker, _)| *worker != mine);
        for (worker, beat) in self.watched.stale(asked, answered, others) {
            self.rescue(&worker, beat).await?;
        }
        Ok(())
    }

    /// Takes a dead worker's jobs out of its hands, a bounded number at a time.
    async fn rescue(&self, worker: &str, mut beat: String) -> redis::RedisResult<()> {
        let state = &self.state;
        let keys = state.queue.keys();
        loop {
            let call = RESCUE
                .keys([
                    keys.workers(),
                    keys.fetches(),
                    keys.alone(),
                    keys.held(worker),
                    keys.suspect(),
                    keys.trouble(),
                    keys.troubled_at(),
                    keys.dead(),
                    keys.counters(),
                ])
                .arg(worker)
                .arg(&beat)
                .arg(state.options.max_crashes)
                .arg(RESCUE_AT_ONCE)
                .arg(keys.wake_channel())
                .arg(DIED_IN_COMPANY);
            let (rescued, dead, left): (i64, i64, u64) = call.run(&mut state.queue.connection().clone()).await?;
            if rescued < 0 {
                return Ok(()); // it lives, or another worker was faster
            }
            state.meters.rescued.increment(rescued.unsigned_abs());
            tracing::warn!(worker, rescued, dead, left, "rescued the jobs of a dead worker");
            if left == 0 {
                return Ok(());
            }
            "fenced".clone_into(&mut beat);
        }
    }
}

/// The lease that a beat claims; older workers claim none.
fn claimed(beat: &str) -> Option<Duration> {
    let lease = beat.split(' ').nth(3)?.parse().ok().map(Duration::from_millis)?;
    Some(lease.min(LONGEST_LEASE))
}

/// Which workers are dead: those whose beat one rescuer has itself seen unchanged for a whole lease, over contact with
/// Redis without a gap. The longer one of its own lease and theirs counts. Times are never read from Redis, and after a
/// gap watching begins anew: a pause of Redis or of this process makes every lease look dead.
struct Watch {
    lease: Duration,
    last_answer: Option<Instant>,
    seen: HashMap<String, (String, Instant)>,
}

impl Watch {
    fn new(lease: Duration) -> Self {
        Self { lease, last_answer: None, seen: HashMap::new() }
    }

    /// Contact with Redis was lost.
    fn interrupt(&mut self) {
        self.last_answer = None;
        self.seen.clear();
    }

    /// Notes an answer with all other workers' beats; returns those that are stale.
    fn stale(
        &mut self,
        asked: Instant,
        answered: Instant,
        others: impl Iterator<Item = (String, String)>,
    ) -> Vec<(String, String)> {
        let gap = self.last_answer.map_or(Duration::ZERO, |last| answered - last);
        if gap > self.lease / 3 {
            self.interrupt();
        }
        self.last_answer = Some(answered);
        let before = std::mem::take(&mut self.seen);
        let mut stale = Vec::new();
        for (worker, beat) in others {
            // First seen when that answer had arrived, last seen when this question was not yet asked: the beat stood
            // still for at least the time between.
            let since = before.get(&worker).filter(|(b, _)| *b == beat).map_or(answered, |(_, since)| *since);
            let lease = claimed(&beat).map_or(self.lease, |theirs| theirs.max(self.lease));
            if asked.saturating_duration_since(since) >= lease {
                stale.push((worker.clone(), beat.clone()));
            }
            self.seen.insert(worker, (beat, since));
        }
        stale
    }
}

/// Gives back what Redis lists as held by this worker, and forgets the worker.
pub(super) async fn sign_off(state: &WorkerState) {
    let keys = state.queue.keys();
    let worker = state.name(state.tenure());
    let call = SIGN_OFF
        .keys([
            keys.workers(),
            keys.fetches(),
            keys.alone(),
            keys.held(&worker),
            keys.suspect(),
            keys.again(High),
            keys.again(Low),
            keys.troubled_at(),
            keys.counters(),
        ])
        .arg(&worker)
        .arg(RETURN_AT_ONCE)
        .arg(keys.wake_channel());
    let signing_off = async {
        loop {
            let (returned, left): (u64, u64) = call.run(&mut state.queue.connection().clone()).await?;
            tracing::info!(worker, returned, "signed off from the queue");
            if left == 0 {
                return Ok(());
            }
        }
    };
    within(SIGN_OFF_LIMIT, signing_off).await;
}

/// Waits for `answer`, at most `limit`; used where nothing more can be done about a Redis that does not answer.
async fn within<T>(limit: Duration, answer: impl Future<Output = redis::RedisResult<T>>) -> Option<T> {
    let started = Instant::now();
    match timeout(limit, answer).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::warn!(%error, elapsed = ?started.elapsed(), "Redis did not answer");
            None
        }
        Err(_) => {
            tracing::warn!(?limit, "Redis did not answer in time");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    /// Asks every second; returns after how many seconds `w`, whose beat never changes, was found stale.
    fn found_stale(answered_late_at: Option<u64>) -> Option<u64> {
        found_stale_with("7 0 0", answered_late_at)
    }

    fn found_stale_with(beat: &str, answered_late_at: Option<u64>) -> Option<u64> {
        let (mut watch, start) = (Watch::new(LEASE), Instant::now());
        let mut offset = Duration::ZERO;
        for second in 0..40 {
            if Some(second) == answered_late_at {
                offset += Duration::from_secs(30);
            }
            let now = start + Duration::from_secs(second) + offset;
            if !watch.stale(now, now, [("w".to_owned(), beat.to_owned())].into_iter()).is_empty() {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn a_worker_is_dead_after_a_lease_without_a_beat() {
        assert_eq!(found_stale(None), Some(10));
    }

    #[test]
    fn a_worker_with_a_longer_lease_is_dead_after_that() {
        assert_eq!(found_stale_with("7 0 0 25000", None), Some(25));
        assert_eq!(found_stale_with("7 0 0 2000", None), Some(10));
        assert_eq!(found_stale_with("fenced", None), Some(10));
        assert_eq!(claimed("7 0 0 9999999999"), Some(LONGEST_LEASE));
    }

    #[test]
    fn a_gap_in_contact_begins_the_observation_anew() {
        assert_eq!(found_stale(Some(9)), Some(19));
    }

    #[test]
    fn a_beating_worker_is_never_stale() {
        let (mut watch, start) = (Watch::new(LEASE), Instant::now());
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            let beat = ("w".to_owned(), second.to_string());
            assert!(watch.stale(now, now, [beat].into_iter()).is_empty());
        }
    }
}
