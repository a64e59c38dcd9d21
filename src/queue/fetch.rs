//! Fetching: one script call that takes jobs and records who holds them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::delivery::Delivery;
use super::hands::InHand;
use super::job_id::{JobId, parse_id};
use super::keys::Lane::{High, Low};
use super::pacing::{Brought, Plan};
use super::payload::kind_of;
use super::scripts::{FETCH, RECONCILE};
use super::settle::{LONGEST_DELAY, Settler};
use super::settlement::Settlement;
use super::trouble::{DIED_IN_COMPANY, Trouble};
use super::worker_state::WorkerState;
use crate::domain::ids::GameId;

/// How often a held queue is looked at, should no announcement tell that it goes on.
const PAUSED_POLL: Duration = Duration::from_secs(1);

/// Payloads asked for at once, on the connection that carries the heartbeat too: 12 MiB of the largest ones by default.
const SLICE: usize = 25;

/// The fetch script's state when a fetch of this number was served, or refused, before.
const OVERTAKEN: u8 = 3;

/// Most suspects that a worker runs at once. A crash is charged to none of them: those that met it run alone next.
const COMPANY: usize = 16;

/// What the fetch script answers: state, ms to the next due job, suspects waiting, suspects given, ids, troubles.
type Answer = (u8, i64, usize, bool, Vec<String>, Vec<Option<String>>);

fn overtaken() -> redis::RedisError {
    (redis::ErrorKind::Client, "this fetch ran before, and its answer was lost").into()
}

/// Fetches for one apalis worker.
pub(super) struct Fetcher {
    state: Arc<WorkerState>,
    plan: Mutex<Option<Plan>>,
}

impl Fetcher {
    pub fn new(state: Arc<WorkerState>) -> Self {
        // A worker that apalis restarted may have left ids behind in a fetch that it dropped.
        state.unsure.store(true, Ordering::Release);
        Self { state, plan: Mutex::default() }
    }

    pub fn state(&self) -> &WorkerState {
        &self.state
    }

    /// What the next fetch is to bring.
    pub fn plan(&self, plan: Plan) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
    }

    /// Makes the planned fetch. Never fails: without an answer it brings nothing, and the pacing waits a little.
    pub async fn fetch(&self) -> Vec<Delivery> {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(plan), Some(tenure)) = (plan, self.state.registered()) else { return Vec::new() };
        match self.ask(plan, tenure).await {
            Ok(deliveries) => deliveries,
            Err(error) => {
                self.failed(plan, &error);
                Vec::new()
            }
        }
    }

    /// There was no answer, or only a part of it: what Redis gave is asked for before the next fetch, which is smaller.
    fn failed(&self, plan: Plan, error: &redis::RedisError) {
        self.state.unsure.store(true, Ordering::Release);
        self.state.meters.fetch_failed.increment(1);
        self.state.pacing().failed(Instant::now(), plan);
        tracing::debug!(%error, "no answer to a fetch");
    }

    async fn ask(&self, plan: Plan, tenure: u32) -> redis::RedisResult<Vec<Delivery>> {
        let state = &self.state;
        let worker = state.name(tenure);
        // Whoever met the break, a Redis that went back lists as held what this worker has settled since.
        let breaks = state.queue.connection().breaks();
        let broke = state.breaks.swap(breaks, Ordering::AcqRel) != breaks;
        if state.unsure.swap(false, Ordering::AcqRel) || broke {
            self.reconcile(tenure, &worker).await?;
        }
        state.wake.forget();
        let keys = state.queue.keys();
        let call = FETCH
            .keys([
                keys.fetches(),
                keys.paused(),
                keys.delayed(),
                keys.suspect(),
                keys.trouble(),
                keys.again(High),
                keys.lane(High),
                keys.again(Low),
                keys.lane(Low),
                keys.held(&worker),
                keys.alone(),
                keys.aside(),
            ])
            .arg(&worker)
            .arg(state.fetch_number.fetch_add(1, Ordering::Relaxed) + 1)
            .arg(plan.most)
            .arg(u8::from(plan.low_first))
            .arg(u8::from(plan.suspect))
            .arg(LONGEST_DELAY.as_millis() as u64)
            .arg(plan.most.min(COMPANY))
            .arg(DIED_IN_COMPANY)
            .arg(plan.set_aside)
            .arg(u8::from(plan.set_aside_first));
        let (served, due_in, suspects_waiting, suspects, ids, troubles): Answer =
            call.run(&mut state.queue.connection().clone()).await?;
        let (bytes, lost) = self.bytes_of(&ids).await;
        let now = Instant::now();
        match served {
            _ if let Some(error) = &lost => self.failed(plan, error),
            0 => state.given_up(tenure),
            1 => state.pacing().idle(now, PAUSED_POLL),
            OVERTAKEN => self.failed(plan, &overtaken()),
            _ => {
                let due_in = u64::try_from(due_in).ok().map(Duration::from_millis);
                let brought = Brought { jobs: ids.len(), suspects_waiting, due_in };
                let poll = if state.wake.subscribed() { state.options.poll } else { state.options.poll_unsubscribed };
                state.pacing().served(now, plan, brought, suspects, poll);
            }
        }
        let counter = if ids.is_empty() { &state.meters.fetched_nothing } else { &state.meters.fetched };
        counter.increment(1);
        let jobs = ids.into_iter().zip(bytes).zip(troubles.into_iter().chain(std::iter::repeat(None)));
        Ok(self.deliver(tenure, suspects, jobs))
    }

    /// The jobs' bytes, as far as they came. They are held already, so an answer that is lost here is made good like
    /// that of the script.
    async fn bytes_of(&self, ids: &[String]) -> (Vec<Option<Vec<u8>>>, Option<redis::RedisError>) {
        let mut bytes: Vec<Option<Vec<u8>>> = Vec::with_capacity(ids.len());
        for slice in ids.chunks(SLICE) {
            let mut command = redis::cmd("HMGET");
            command.arg(self.state.queue.keys().jobs()).arg(slice);
            match command.query_async::<Vec<_>>(&mut self.state.queue.connection().clone()).await {
                Ok(more) => bytes.extend(more),
                Err(error) => return (bytes, Some(error)),
            }
        }
        (bytes, None)
    }

    /// Takes what came into the hands. A job that cannot be read becomes a dead letter at once, one of a newer
    /// program is set aside.
    fn deliver(
        &self,
        tenure: u32,
        suspect: bool,
        jobs: impl Iterator<Item = ((String, Option<Vec<u8>>), Option<String>)>,
    ) -> Vec<Delivery> {
        let state = &self.state;
        let (mut taken, mut deliveries, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        let since = Instant::now();
        for ((text, bytes), trouble) in jobs {
            let trouble = trouble.as_deref().map(Trouble::decode).unwrap_or_default();
            let (attempts, crashes, blocked) = (trouble.attempts, trouble.crashes, trouble.times_blocked());
            let id = JobId { text: text.into(), tenure };
            let bytes = bytes.unwrap_or_default();
            let kind = kind_of(&bytes);
            taken.push((
                id.clone(),
                InHand {
                    attempts,
                    crashes,
                    blocked,
                    kind: kind.ok(),
                    since,
                    bytes: bytes.len(),
                    suspect,
                    again: false,
                },
            ));
            match (kind, parse_id(&id.text)) {
                (Ok(_), Some(parts)) => deliveries.push(Delivery {
                    lane: parts.lane,
                    received_at: parts.received_at,
                    bytes: Bytes::from(bytes),
                    attempts,
                    crashes,
                    blocked,
                    suspect,
                    settler: Settler(Arc::clone(state)),
                    id,
                }),
                (Err(error), Some(_)) if error.is_of_a_newer_program() => {
                    // Set aside for a worker that can read it; whose it is stands where only that one knows.
                    let error = format!("{error}: it waits for a worker of a newer version");
                    unreadable.push((id, Settlement::Blocked { game: GameId(0), error }));
                }
                (Err(error), _) => unreadable.push((id, Settlement::fail(error.code(), error))),
                (_, None) => unreadable.push((id, Settlement::fail("bad_id", "the job's id cannot be read"))),
            }
        }
        let twice = state.hands.take(taken);
        if !twice.is_empty() {
            deliveries.retain(|job| !twice.contains(&job.id));
            unreadable.retain(|(id, _)| !twice.contains(id));
        }
        if !unreadable.is_empty() {
            let settler = Settler(Arc::clone(state));
            state.runs.spawn(async move { settler.settle(unreadable, false).await });
        }
        deliveries
    }

    /// Gives back what Redis lists as held by this worker and it never saw.
    async fn reconcile(&self, tenure: u32, worker: &str) -> redis::RedisResult<()> {
        let state = &self.state;
        let keys = state.queue.keys();
        let call = RECONCILE
            .keys([keys.fetches(), keys.held(worker)])
            .arg(worker)
            .arg(state.fetch_number.load(Ordering::Relaxed));
        let held: Option<Vec<String>> = call.run(&mut state.queue.connection().clone()).await?;
        let unseen = |text: &String| !state.hands.holds(&JobId { text: text.as_str().into(), tenure });
        let never_seen: Vec<String> = held.unwrap_or_default().into_iter().filter(unseen).collect();
        if !never_seen.is_empty() {
            tracing::warn!(jobs = never_seen.len(), "giving back jobs that came with a lost answer");
            Settler(Arc::clone(state)).give_back(tenure, &never_seen).await?;
        }
        Ok(())
    }
}
