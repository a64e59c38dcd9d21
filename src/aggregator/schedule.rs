//! What cron does now and then: one table, and the loops that drive it.
//!
//! tokio-cron-scheduler only nudges. Its ticks may come twice, may be lost when the process sleeps, and run a job again
//! while it still runs; so a tick does nothing but wake the job's own loop, which runs one at a time, takes the lease
//! `job-<name>` (several crons may run) and looks for what is due instead of trusting the time of the tick. Every job
//! also runs at start, unless it ran not long before, and when no tick came for long.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_cron_scheduler::{Job as Tick, JobScheduler, JobSchedulerError};

pub use super::context::{Announce, Context, DatabaseClock, QueueLowWater};
use super::tenure::{JobError, Tenure};
use super::{audit, builds, close_periods, retention};
use crate::domain::clock::Micros;
use crate::runtime::lifecycle::Lifecycle;
use crate::store::partitions;
use crate::store::scheduled_runs::{self, ScheduledRun};
use crate::telemetry::metrics as names;

/// The outcome of a job that did what it had to.
const DONE: &str = "done";

type Run = for<'a> fn(&'a Context, &'a Tenure) -> BoxFuture<'a, Result<u64, JobError>>;

/// One row of the table.
#[derive(Clone, Copy)]
pub struct ScheduledJob {
    /// Its name; its lease is `job-<name>`.
    pub name: &'static str,
    /// When it is nudged: seconds, minutes, hours, day of month, month, day of week (UTC).
    pub cadence: &'static str,
    /// It runs no less often than this, ticks or not.
    pub at_latest: Duration,
    /// A process that starts leaves it to the next tick when it succeeded so short a time ago.
    pub fresh_for: Duration,
    /// What it does, for people.
    pub what: &'static str,
    run: Run,
}

/// Everything that cron does now and then. Recomputes are not here: they are built as soon as they are ordered, each
/// under the lease `recompute-<generation>`.
pub const JOBS: [ScheduledJob; 8] = [
    ScheduledJob {
        name: "make-partitions",
        cadence: "0 */10 * * * *",
        at_latest: Duration::from_secs(1_200),
        fresh_for: Duration::ZERO,
        what: "makes the monthly partitions of events, to two months ahead",
        run: |context, tenure| Box::pin(make_partitions(context, tenure)),
    },
    ScheduledJob {
        name: "drop-old-months",
        cadence: "30 */5 * * * *",
        at_latest: Duration::from_secs(600),
        fresh_for: Duration::ZERO,
        what: "folds months past RETENTION_DAYS into the baseline, detaches and drops them",
        run: |context, tenure| Box::pin(retention::drop_old_months(context, tenure)),
    },
    ScheduledJob {
        name: "ensure-periods",
        cadence: "0 * * * * *",
        at_latest: Duration::from_secs(120),
        fresh_for: Duration::ZERO,
        what: "makes the current period of every leaderboard",
        run: |context, tenure| Box::pin(close_periods::ensure_current(context, tenure)),
    },
    ScheduledJob {
        name: "close-periods",
        cadence: "*/5 * * * * *",
        at_latest: Duration::from_secs(15),
        fresh_for: Duration::ZERO,
        what: "freezes periods that are over and writes their final standings",
        run: |context, tenure| Box::pin(close_periods::close_due(context, tenure)),
    },
    ScheduledJob {
        name: "rank-large-periods",
        cadence: "*/5 * * * * *",
        at_latest: Duration::from_secs(15),
        fresh_for: Duration::ZERO,
        what: "writes the final standings of frozen periods with many entries",
        run: |context, tenure| Box::pin(close_periods::rank_large(context, tenure)),
    },
    ScheduledJob {
        name: "unpublish-closed",
        cadence: "15 * * * * *",
        at_latest: Duration::from_secs(120),
        fresh_for: Duration::ZERO,
        what: "removes periods from Redis CLOSED_PERIOD_REDIS_TTL after they were closed",
        run: |context, tenure| Box::pin(close_periods::unpublish_closed(context, tenure)),
    },
    ScheduledJob {
        name: "clean-up",
        cadence: "45 */5 * * * *",
        at_latest: Duration::from_secs(600),
        fresh_for: Duration::ZERO,
        what: "removes retired and lost generations, old logs, decided dead letters and dead processes",
        run: |context, tenure| Box::pin(retention::clean_up(context, tenure)),
    },
    ScheduledJob {
        name: "audit-boards",
        cadence: "20 7 * * * *",
        at_latest: Duration::from_secs(7_200),
        // It reads whole boards: not with every restart.
        fresh_for: Duration::from_secs(3_600),
        what: "compares samples of every leaderboard in Redis with Postgres and repairs",
        run: |context, tenure| Box::pin(audit::audit_all_samples(context, tenure)),
    },
];

async fn make_partitions(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    tenure.check().await?;
    let (from, to) = partitions::window(context.clock.now(), context.max_event_age_seconds);
    Ok(partitions::ensure(&context.pool, from, to).await?.len() as u64)
}

/// Runs the table and the recomputes until a soft stop, then finishes what is in hand. Start it with
/// `lifecycle.spawn_essential("schedule", schedule::run(context, lifecycle.clone()))`; `context.stop` is set from the
/// lifecycle.
pub async fn run(mut context: Context, lifecycle: Lifecycle) {
    context.stop = lifecycle.soft.clone();
    let context = Arc::new(context);
    let mut loops = JoinSet::new();
    let mut nudges = Vec::with_capacity(JOBS.len());
    for job in JOBS {
        let nudge = Arc::new(Notify::new());
        loops.spawn(drive(Arc::clone(&context), job, Arc::clone(&nudge)));
        nudges.push((job, nudge));
    }
    let recomputing = Arc::clone(&context);
    loops.spawn(async move { builds::run(&recomputing, builds::POLL).await });
    let ticks = match start_ticks(nudges).await {
        Ok(ticks) => Some(ticks),
        Err(error) => {
            tracing::error!(%error, "no ticks: scheduled jobs run at their longest intervals");
            None
        }
    };
    while let Some(ended) = loops.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            // Half a schedule is worse than none: whoever started this takes the process down.
            std::panic::resume_unwind(error.into_panic());
        }
    }
    if let Some(mut ticks) = ticks
        && let Err(error) = ticks.shutdown().await
    {
        tracing::debug!(%error, "ticks not stopped");
    }
}

async fn start_ticks(nudges: Vec<(ScheduledJob, Arc<Notify>)>) -> Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    for (job, nudge) in nudges {
        let tick = Tick::new_async(job.cadence, move |_, _| {
            let nudge = Arc::clone(&nudge);
            Box::pin(async move { nudge.notify_one() })
        })?;
        scheduler.add(tick).await?;
    }
    scheduler.start().await?;
    Ok(scheduler)
}

async fn drive(context: Arc<Context>, job: ScheduledJob, nudge: Arc<Notify>) {
    let mut due = !is_fresh(&context, &job).await;
    while !context.stop.is_cancelled() {
        if due {
            run_once(&context, &job).await;
        }
        due = true;
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = nudge.notified() => {}
            () = tokio::time::sleep(job.at_latest) => {}
        }
    }
}

async fn is_fresh(context: &Context, job: &ScheduledJob) -> bool {
    if job.fresh_for.is_zero() {
        return false;
    }
    let last = scheduled_runs::last(&context.pool, job.name).await;
    let fresh_since = Micros(context.clock.now().0 - job.fresh_for.as_micros() as i64);
    last.is_ok_and(|last| last.is_some_and(|run| run.outcome == DONE && run.ended_at > fresh_since))
}

/// Runs a job once if no other process is at it; logs and measures how it went. Returns whether it ran and succeeded.
pub async fn run_once(context: &Arc<Context>, job: &ScheduledJob) -> bool {
    let began = Instant::now();
    // In a task of its own: a job that panics fails, and the schedule goes on.
    let (owned, own) = (Arc::clone(context), *job);
    let ended = tokio::spawn(async move {
        let Some(tenure) = Tenure::take(&owned.pool, &format!("job-{}", own.name), &owned.holder).await? else {
            return Ok(None);
        };
        let done = (own.run)(&owned, &tenure).await;
        tenure.sign_off().await;
        done.map(Some)
    })
    .await;
    let (outcome, did) = match ended {
        Ok(Ok(None)) => return false,
        Ok(Ok(Some(done))) => {
            tracing::debug!(job = job.name, done, "scheduled job done");
            (DONE, done)
        }
        Ok(Err(error)) => {
            tracing::warn!(job = job.name, %error, "scheduled job failed; it runs again");
            ("failed", 0)
        }
        Err(error) => {
            tracing::error!(job = job.name, %error, "scheduled job panicked");
            ("panicked", 0)
        }
    };
    metrics::histogram!(names::SCHEDULED_SECONDS, "role" => "cron", "job" => job.name)
        .record(began.elapsed().as_secs_f64());
    metrics::counter!(names::SCHEDULED_RUNS, "role" => "cron", "job" => job.name, "outcome" => outcome).increment(1);
    if outcome == DONE {
        let now = context.clock.now().0 as f64 / 1e6;
        metrics::gauge!(names::SCHEDULED_LAST_SUCCESS, "role" => "cron", "job" => job.name).set(now);
    }
    let did = i64::try_from(did).unwrap_or(i64::MAX);
    let run = ScheduledRun { ended_at: context.clock.now(), outcome: outcome.to_owned(), did };
    if let Err(error) = scheduled_runs::record(&context.pool, job.name, &run).await {
        tracing::debug!(job = job.name, %error, "how a scheduled job ended was not recorded");
    }
    outcome == DONE
}
