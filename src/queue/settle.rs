//! Settlement: whoever finished the work says how each job ended, for many jobs in one script call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::blocked::SET_ASIDE;
use super::hands::InHand;
use super::job_id::{JobId, unique_name};
use super::scripts::{Call, SETTLE, WAITS};
use super::settlement::Settlement;
use super::trouble::Trouble;
use super::worker_state::WorkerState;
use crate::domain::ids::GameId;

/// Most jobs of one script call.
const MOST_PER_CALL: usize = 250;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The longest a job is delayed: one that claims more was delayed before Redis's clock went back, and is due.
pub(super) const LONGEST_DELAY: Duration = Duration::from_secs(120);

/// A run that has taken so long, and yields, waits for another server: nothing that it does itself takes as long.
const WAITS_AFTER: Duration = Duration::from_secs(1);

/// Settles one worker's jobs. Cheap to clone; every [`super::Delivery`] carries it.
#[derive(Clone)]
pub struct Settler(pub(super) Arc<WorkerState>);

/// A settlement as Redis needs it.
enum Verdict {
    Done,
    Later { delay: Duration, trouble: Trouble, attempt: bool },
    Dead { letter: String },
}

struct Judged {
    settled: Vec<Settled>,
    /// Per game with a job that is set aside: one such job, and what it met.
    blocked: BTreeMap<GameId, (String, String)>,
}

struct Settled {
    id: JobId,
    job: InHand,
    outcome: &'static str,
    verdict: Verdict,
}

impl Settler {
    /// Settles jobs and returns when Redis has answered, however long it is away, or when the worker has signed off.
    /// Jobs that this worker does not hold any more are left alone. `facts_committed` tells the aggregator to fold.
    ///
    /// A caller that is cancelled does not cancel the settlement.
    pub async fn settle(&self, settlements: Vec<(JobId, Settlement)>, facts_committed: bool) {
        let this = self.clone();
        let settling = self.0.runs.spawn(async move { this.settle_all(settlements, facts_committed).await });
        if let Err(error) = settling.await {
            tracing::error!(%error, "the task that settles jobs died; its jobs stay in hand until this worker ends");
        }
    }

    /// Whether this worker was given `id` and has not settled it.
    pub fn holds(&self, id: &JobId) -> bool {
        self.0.hands.holds(id)
    }

    /// Sees the run of `id`, and of those that run with it, through. The queue is told while it waits for another
    /// server: a worker that is killed then, by an impatient stop for example, says nothing against its suspects.
    pub async fn charge_no_wait<T>(&self, id: &JobId, run: impl Future<Output = T>) -> T {
        let suspect = self.0.hands.look([(id.clone(), ())]).iter().any(|(_, job, ())| job.suspect);
        if !suspect {
            return run.await;
        }
        let mut run = std::pin::pin!(run);
        loop {
            // The run is polled first: one that never yields is not taken for one that waits.
            match timeout(WAITS_AFTER, run.as_mut()).await {
                Ok(ended) => return ended,
                Err(_) => self.waits(id.clone()),
            }
        }
    }

    /// Best effort, and said again for as long as it is so.
    fn waits(&self, id: JobId) {
        let state = Arc::clone(&self.0);
        self.0.runs.spawn(async move {
            let (keys, worker) = (state.queue.keys(), state.name(id.tenure));
            let call = WAITS.keys([keys.alone(), keys.held(&worker)]).arg(worker).arg(&*id.text);
            if let Err(error) = call.run::<i64>(&mut state.queue.connection().clone()).await {
                tracing::debug!(%error, "could not say that a suspect waits");
            }
        });
    }

    async fn settle_all(&self, settlements: Vec<(JobId, Settlement)>, mut facts: bool) {
        let Judged { settled, blocked } = self.judge(settlements);
        let was_blocked = |s: &&Settled| s.job.blocked > 0 && !matches!(s.verdict, Verdict::Later { .. });
        let unblocked: Vec<JobId> = settled.iter().filter(was_blocked).map(|s| s.id.clone()).collect();
        for same_tenure in settled.chunk_by(|a, b| a.id.tenure == b.id.tenure) {
            for chunk in same_tenure.chunks(MOST_PER_CALL) {
                let call = self.call(chunk, facts);
                facts = false;
                self.run(&call, chunk.len()).await;
                self.let_go(chunk);
            }
        }
        if facts {
            self.run(&self.call(&[], true), 0).await;
        }
        if !blocked.is_empty() {
            self.0.queue.note_blocked(&blocked).await;
        }
        if !unblocked.is_empty() {
            self.0.queue.note_unblocked(&unblocked.iter().map(|id| id.as_str()).collect::<Vec<_>>()).await;
        }
    }

    /// Turns what the handlers said into what happens: delays, dead letters, the worker's pause.
    fn judge(&self, settlements: Vec<(JobId, Settlement)>) -> Judged {
        let state = &self.0;
        let (mut pause, mut blocked) = (None, BTreeMap::new());
        if settlements.iter().any(|(_, s)| matches!(s, Settlement::Transient { .. })) {
            pause = Some(state.pacing().dependency_down(Instant::now(), rand::random()));
        } else if settlements.iter().any(|(_, s)| matches!(s, Settlement::Done)) {
            state.pacing().dependency_up();
        }
        let (mut aside_again, mut aside_no_more) = (false, false);
        let settled = state.hands.look(settlements).into_iter().map(|(id, job, settlement)| {
            let outcome = settlement.outcome();
            aside_again |= matches!(settlement, Settlement::Blocked { .. });
            aside_no_more |= job.blocked > 0 && matches!(settlement, Settlement::Done);
            let verdict = match settlement {
                Settlement::Done => Verdict::Done,
                Settlement::Transient { error } => {
                    let trouble = Trouble { attempts: job.attempts, crashes: job.crashes, error };
                    Verdict::Later { delay: pause.unwrap_or_default(), trouble, attempt: false }
                }
                Settlement::Blocked { game, error } => {
                    let times = job.blocked.saturating_add(1);
                    let delay = SET_ASIDE.pause(times, rand::random());
                    let trouble = Trouble::blocked(job.attempts, job.crashes, times, game, &error);
                    blocked.insert(game, (id.as_str().to_owned(), error));
                    Verdict::Later { delay, trouble, attempt: false }
                }
                Settlement::Retry { error } => self.retry(&job, error),
                Settlement::Fail { reason, error } => dead(&reason, &job, error),
            };
            if let Verdict::Dead { letter } = &verdict {
                tracing::warn!(job = %id, letter, "job became a dead letter");
            }
            Settled { id, job, outcome, verdict }
        });
        let settled = settled.collect();
        if aside_again {
            state.pacing().set_aside_again();
        } else if aside_no_more {
            state.pacing().set_aside_no_more();
        }
        Judged { settled, blocked }
    }

    fn retry(&self, job: &InHand, error: String) -> Verdict {
        let attempts = job.attempts.saturating_add(1);
        let delay = job.kind.and_then(|kind| (self.0.options.retry)(kind).delay_after(attempts, rand::random()));
        match delay {
            Some(delay) => {
                Verdict::Later { delay, trouble: Trouble { attempts, crashes: job.crashes, error }, attempt: true }
            }
            None => dead("attempts_exhausted", job, error),
        }
    }

    fn call(&self, chunk: &[Settled], facts: bool) -> Call {
        let keys = self.0.queue.keys();
        let worker = self.0.name(chunk.first().map_or_else(|| self.0.tenure(), |s| s.id.tenure));
        let of = |wanted: fn(&Verdict) -> bool| chunk.iter().filter(move |s| wanted(&s.verdict));
        let done = || of(|v| matches!(v, Verdict::Done));
        let named = || done().filter_map(|s| Some((s, unique_name(&s.id.text)?)));
        let channel = if facts { keys.facts_channel() } else { String::new() };
        let mut call = SETTLE.keys(settle_keys(keys, &worker)).arg(worker).arg(channel);
        call.push(done().count());
        call.push(of(|v| matches!(v, Verdict::Later { .. })).count());
        call.push(of(|v| matches!(v, Verdict::Dead { .. })).count());
        call.push(0);
        call.push(named().count());
        for settled in done() {
            call.push(&*settled.id.text);
        }
        for settled in chunk {
            if let Verdict::Later { delay, trouble, attempt } = &settled.verdict {
                call.push(&*settled.id.text);
                let delay = delay.min(&LONGEST_DELAY).as_millis() as u64;
                call.push((delay, trouble.encode(), u8::from(*attempt)));
            }
        }
        for settled in chunk {
            if let Verdict::Dead { letter } = &settled.verdict {
                call.push((&*settled.id.text, letter));
            }
        }
        for (settled, name) in named() {
            call.push((&*settled.id.text, name));
        }
        call
    }

    /// Calls until Redis has answered or the worker has signed off.
    async fn run(&self, call: &Call, jobs: usize) {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut connection = self.0.queue.connection().clone();
            let error = match call.run::<usize>(&mut connection).await {
                Ok(settled) if settled < jobs => {
                    let late = jobs - settled;
                    tracing::warn!(late, "jobs were settled late: they are not this worker's any more");
                    // One may be in its hands again, after a run elsewhere, by a fetch whose answer was lost.
                    self.0.unsure.store(true, Ordering::Release);
                    return;
                }
                Ok(_) => return,
                Err(error) => error,
            };
            if self.0.signed_off.is_cancelled() {
                return;
            }
            if pause == FIRST_PAUSE {
                tracing::warn!(%error, jobs, "Redis did not settle jobs; trying until it does");
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn let_go(&self, chunk: &[Settled]) {
        let now = Instant::now();
        for settled in chunk {
            if let Verdict::Later { delay, .. } = settled.verdict {
                // A millisecond later, for Redis counts in whole ones.
                self.0.pacing().delayed(now + delay + Duration::from_millis(1));
            }
            if settled.job.blocked > 0 {
                // Others that were set aside may wait for its place.
                self.0.pacing().delayed(now);
            }
            self.0.meters.settled(settled.job.kind, settled.outcome, settled.job.since.elapsed());
        }
        if self.0.hands.release(chunk.iter().map(|s| &s.id)) {
            self.0.unsure.store(true, Ordering::Release);
            self.0.wake.announce();
        }
        self.0.wake.poll_again();
    }

    /// Gives jobs back that this worker holds in Redis and never ran.
    ///
    /// # Errors
    /// Redis did not answer; giving back again is harmless.
    pub(super) async fn give_back(&self, tenure: u32, ids: &[String]) -> redis::RedisResult<()> {
        for chunk in ids.chunks(MOST_PER_CALL) {
            let worker = self.0.name(tenure);
            let call = SETTLE.keys(settle_keys(self.0.queue.keys(), &worker)).arg(worker).arg("");
            let call = call.arg(&[0, 0, 0, chunk.len(), 0]).arg(chunk);
            call.run::<usize>(&mut self.0.queue.connection().clone()).await?;
        }
        Ok(())
    }
}

fn dead(reason: &str, job: &InHand, error: String) -> Verdict {
    let reason: String = reason.chars().map(|c| if c.is_whitespace() { '_' } else { c }).collect();
    let trouble = Trouble { attempts: job.attempts.saturating_add(1), crashes: job.crashes, error };
    Verdict::Dead { letter: format!("{reason} {}", trouble.encode()) }
}

fn settle_keys(keys: &super::keys::Keys, worker: &str) -> [String; 13] {
    use super::keys::Lane::{High, Low};
    [
        keys.held(worker),
        keys.jobs(),
        keys.trouble(),
        keys.troubled_at(),
        keys.alone(),
        keys.counters(),
        keys.delayed(),
        keys.dead(),
        keys.named(),
        keys.again(High),
        keys.again(Low),
        keys.shares(),
        keys.suspect(),
    ]
}

impl std::fmt::Debug for Settler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Settler").field(&self.0.base).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::payload::Kind;

    #[test]
    fn every_kind_waits_less_than_the_longest_delay() {
        for kind in Kind::ALL {
            let policy = kind.retry_policy();
            let delays = (1..policy.max_attempts).filter_map(|attempts| policy.delay_after(attempts, 1.0));
            assert!(delays.max() < Some(LONGEST_DELAY), "{}", kind.name());
        }
    }
}
