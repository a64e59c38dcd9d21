//! Takes jobs as apalis brings them, groups those that wait, and has a writer store each group.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

use super::probe::Probe;
use super::shared::{Shared, WriteMetrics};
use super::writer::Writer;
use crate::queue::{Delivery, JobId, Settlement};
use crate::runtime::crash_points::crash_point;
use crate::runtime::lifecycle::Lifecycle;
use crate::store::definitions::{self, Definitions};
use crate::store::{Pool, StoreError};
use crate::telemetry::metrics as names;
use crate::workers::health::WorkHealth;
use crate::workers::settings::WorkerConfig;

/// While busy, groups begin at most this often unless one is full: fewer, larger transactions at moderate load.
const PACE: Duration = Duration::from_millis(50);
/// After this long without work the next job is written at once.
const IDLE_AFTER: Duration = Duration::from_millis(100);

/// The runner of `persist-events` jobs.
#[derive(Debug, Clone)]
pub struct PersistEvents {
    jobs: mpsc::Sender<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    job: Delivery,
    settled: oneshot::Sender<()>,
}

/// The jobs that wait for a writer; whoever holds it collects the next group.
#[derive(Debug)]
struct Intake {
    jobs: mpsc::Receiver<Waiting>,
    last_start: Option<Instant>,
    group_events: usize,
}

impl PersistEvents {
    /// Starts the writers.
    ///
    /// # Errors
    /// Postgres did not give the definitions.
    pub async fn start(
        config: &WorkerConfig,
        pool: Pool,
        queue: &str,
        health: Arc<WorkHealth>,
        lifecycle: &Lifecycle,
    ) -> Result<Self, StoreError> {
        let definitions = definitions::load(&mut *pool.acquire().await?).await?;
        definitions.tell_unreadable(&Definitions::default());
        let shared = Arc::new(Shared {
            pool,
            definitions: arc_swap::ArcSwap::from_pointee(definitions),
            seen: std::sync::Mutex::default(),
            hard: lifecycle.hard.clone(),
            queue: queue.to_owned(),
            probe: Probe::default(),
            health,
            metrics: WriteMetrics {
                inserted: metrics::counter!(names::EVENTS_INSERTED, "role" => "worker"),
                duplicate: metrics::counter!(names::EVENTS_DUPLICATE, "role" => "worker"),
            },
        });
        let (sender, jobs) = mpsc::channel(config.worker_max_jobs.max(1));
        let group_events = config.worker_group_events.max(1);
        let intake = Arc::new(Mutex::new(Intake { jobs, last_start: None, group_events }));
        for _ in 0..config.worker_writers.max(1) {
            // Writers end when the last runner is gone, after a stop. They are tasks of their own, so that no dropped
            // future cancels a transaction half-way; a worker with fewer of them is none.
            lifecycle.spawn_essential("writer", write_groups(Arc::clone(&shared), Arc::clone(&intake)));
        }
        Ok(Self { jobs: sender })
    }

    /// Sees one job through to its settlement.
    pub async fn run(&self, job: Delivery) {
        let (settled, done) = oneshot::channel();
        if self.jobs.send(Waiting { job, settled }).await.is_ok() {
            // An error means that the writer is gone: the job was not settled, and its lease will lapse.
            let _ = done.await;
        }
    }
}

async fn write_groups(shared: Arc<Shared>, intake: Arc<Mutex<Intake>>) {
    let mut writer = Writer::new(Arc::clone(&shared));
    loop {
        let group = intake.lock().await.collect().await;
        let Some(settler) = group.first().map(|w| w.job.settler().clone()) else { return };
        let (jobs, waiting): (Vec<_>, Vec<_>) = group.into_iter().map(|w| (w.job, w.settled)).unzip();
        let (settlements, facts) = match settler.charge_no_wait(&jobs[0].id, unharmed(&mut writer, &jobs)).await {
            Some(written) => written,
            None => one_by_one(&mut writer, &shared, &jobs).await,
        };
        crash_point("persist_events::before_settle");
        settler.settle(settlements, facts).await;
        for settled in waiting {
            let _ = settled.send(());
        }
    }
}

/// How jobs are to be settled, and whether score facts were written.
type Written = (Vec<(JobId, Settlement)>, bool);

/// Writes jobs; `None` when that panicked, and then the writer must not be used again.
async fn unharmed(writer: &mut Writer, jobs: &[Delivery]) -> Option<Written> {
    std::panic::AssertUnwindSafe(writer.write(jobs)).catch_unwind().await.ok()
}

/// A defect of ours met a group: the job that has it suffers alone, and a writer goes on.
async fn one_by_one(writer: &mut Writer, shared: &Arc<Shared>, jobs: &[Delivery]) -> Written {
    tracing::error!(jobs = jobs.len(), "writing a group panicked; writing its jobs one by one");
    let (mut settlements, mut facts) = (Vec::with_capacity(jobs.len()), false);
    for job in jobs {
        *writer = Writer::new(Arc::clone(shared));
        if let Some((settled, made)) = unharmed(writer, std::slice::from_ref(job)).await {
            settlements.extend(settled);
            facts |= made;
        } else {
            tracing::error!(job = %job.id, "writing a job panicked");
            settlements.push((
                job.id.clone(),
                Settlement::Retry {
                    error: "a fault of the worker itself ended its run; the worker's log says more".to_owned(),
                },
            ));
        }
    }
    *writer = Writer::new(Arc::clone(shared));
    (settlements, facts)
}

impl Intake {
    /// The next group: at once after idleness, else when the pace allows or it is full. Suspects have the
    /// worker to themselves and wait for nobody. Empty: no more will come.
    async fn collect(&mut self) -> Vec<Waiting> {
        let Some(first) = self.jobs.recv().await else { return Vec::new() };
        let mut events = events_of(&first.job);
        let busy_until = company_until(self.last_start, first.job.suspect, Instant::now());
        let alone = first.job.suspect;
        let mut group = vec![first];
        while events < self.group_events {
            let next = match busy_until {
                Some(until) => tokio::time::timeout_at(until, self.jobs.recv()).await.ok().flatten(),
                None => None,
            };
            let Some(waiting) = next.or_else(|| self.jobs.try_recv().ok()) else { break };
            events += events_of(&waiting.job);
            group.push(waiting);
        }
        if !alone {
            self.last_start = Some(Instant::now());
        }
        group
    }
}

/// Until when a group waits for more jobs; `None`: not at all. Nothing can join suspects, and hundreds of them come
/// after a worker's death: at the pace of groups they would take seconds more.
fn company_until(last_start: Option<Instant>, suspect: bool, now: Instant) -> Option<Instant> {
    last_start.filter(|at| !suspect && now.saturating_duration_since(*at) < IDLE_AFTER).map(|at| at + PACE)
}

fn events_of(job: &Delivery) -> usize {
    crate::queue::payload::event_count(&job.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_a_busy_worker_wait_for_company_and_suspects_do_not() {
        let started = Instant::now();
        let soon = started + Duration::from_millis(10);
        assert_eq!(company_until(Some(started), false, soon), Some(started + PACE));
        assert_eq!(company_until(Some(started), true, soon), None);
        assert_eq!(company_until(Some(started), false, started + IDLE_AFTER), None);
        assert_eq!(company_until(None, false, soon), None);
    }
}
