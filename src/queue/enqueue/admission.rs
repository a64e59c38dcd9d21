//! Whether the queue takes more: watched each second, so that overload is refused without asking Redis.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::lifecycle::Lifecycle;
use crate::redis_connection::Connection;

/// How often the state is read.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How often an unreachable Redis is tried.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// Admission closes at this share of `maxmemory` in percent (fine print 17) …
const MEMORY_CLOSE_PERCENT: u64 = 80;
/// … and opens again below this one: close to it, because what else lives on that server may not shrink.
const MEMORY_REOPEN_PERCENT: u64 = 78;

/// Why nothing is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Redis does not answer.
    Unreachable,
    /// As many jobs wait as may.
    QueueFull,
    /// Redis is nearly out of memory.
    MemoryFull,
}

/// The state of admission. Shared by every request.
#[derive(Debug)]
pub struct Admission {
    max_jobs: u64,
    unreachable: AtomicBool,
    queue_full: AtomicBool,
    memory_full: AtomicBool,
    jobs: AtomicU64,
    probe: Notify,
}

impl Admission {
    pub(super) fn new(max_jobs: u64) -> Self {
        Self {
            max_jobs,
            unreachable: AtomicBool::new(false),
            queue_full: AtomicBool::new(false),
            memory_full: AtomicBool::new(false),
            jobs: AtomicU64::new(0),
            probe: Notify::new(),
        }
    }

    /// Why nothing is taken at present; `None`: it is open.
    pub fn closed(&self) -> Option<Closed> {
        if self.unreachable.load(Ordering::Relaxed) {
            Some(Closed::Unreachable)
        } else if self.queue_full.load(Ordering::Relaxed) {
            Some(Closed::QueueFull)
        } else if self.memory_full.load(Ordering::Relaxed) {
            Some(Closed::MemoryFull)
        } else {
            None
        }
    }

    /// How many jobs were stored when last looked.
    pub fn jobs(&self) -> u64 {
        self.jobs.load(Ordering::Relaxed)
    }

    /// The cap that the script enforces.
    pub(super) fn max_jobs(&self) -> u64 {
        self.max_jobs
    }

    /// Redis did not answer a request: refuse at once until a probe is answered.
    pub(super) fn lost(&self) {
        if !self.unreachable.swap(true, Ordering::Relaxed) {
            tracing::warn!("the queue's Redis does not answer; refusing batches until it does");
        }
        self.probe.notify_one();
    }

    /// The script found the queue full.
    pub(super) fn filled(&self) {
        if !self.queue_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(max_jobs = self.max_jobs, "the queue is full; refusing batches until it has drained");
        }
    }

    /// Redis refused a write for want of memory.
    pub(super) fn out_of_memory(&self) {
        if !self.memory_full.swap(true, Ordering::Relaxed) {
            tracing::warn!("the queue's Redis is out of memory; refusing batches until it has drained");
        }
    }

    fn observe(&self, jobs: u64, used_memory: u64, max_memory: u64) {
        if self.unreachable.swap(false, Ordering::Relaxed) {
            tracing::info!("the queue's Redis answers again");
        }
        self.jobs.store(jobs, Ordering::Relaxed);
        if jobs >= self.max_jobs {
            self.filled();
        } else if jobs < reopen_below(self.max_jobs) && self.queue_full.swap(false, Ordering::Relaxed) {
            tracing::info!(jobs, "the queue has drained; accepting batches again");
        }
        let share = |percent: u64| u128::from(max_memory) * u128::from(percent) / 100;
        let used = u128::from(used_memory);
        if max_memory > 0 && used >= share(MEMORY_CLOSE_PERCENT) {
            self.out_of_memory();
        } else if (max_memory == 0 || used < share(MEMORY_REOPEN_PERCENT))
            && self.memory_full.swap(false, Ordering::Relaxed)
        {
            tracing::info!(used_memory, max_memory, "the queue's Redis has room again; accepting batches");
        }
    }
}

/// Nine tenths, but always something: a cap of one job reopens when none waits.
fn reopen_below(max_jobs: u64) -> u64 {
    (max_jobs / 10 * 9 + max_jobs % 10 * 9 / 10).max(1)
}

/// Watches the queue until the process stops.
pub(super) async fn watch(
    admission: std::sync::Arc<Admission>,
    connection: Connection,
    jobs_key: String,
    lifecycle: Lifecycle,
) {
    loop {
        let interval = match read(&connection, &jobs_key).await {
            Some((jobs, used, max)) => {
                admission.observe(jobs, used, max);
                WATCH_INTERVAL
            }
            None => {
                admission.lost();
                PROBE_INTERVAL
            }
        };
        tokio::select! {
            () = lifecycle.hard.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
            () = probe_wanted(&admission, interval) => {}
        }
        if lifecycle.soft.is_cancelled() && lifecycle.hard.is_cancelled() {
            return;
        }
    }
}

/// A request found Redis away: look at once, but not more often than the probe interval.
async fn probe_wanted(admission: &Admission, interval: Duration) {
    admission.probe.notified().await;
    tokio::time::sleep(PROBE_INTERVAL.min(interval)).await;
}

/// Jobs stored, memory used, `maxmemory`.
async fn read(connection: &Connection, jobs_key: &str) -> Option<(u64, u64, u64)> {
    let jobs: u64 = redis::cmd("HLEN").arg(jobs_key).query_async(&mut connection.clone()).await.ok()?;
    // Of the node that holds the queue: what another one has to say of itself does not matter here.
    let info = connection.send_to_owner(jobs_key, redis::cmd("INFO").arg("memory")).await.ok()?;
    let (used, max) = memory(&redis::from_redis_value::<String>(info).ok()?)?;
    Some((jobs, used, max))
}

/// `used_memory` and `maxmemory` of the answer to `INFO`.
fn memory(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
    };
    Some((field("used_memory")?, field("maxmemory")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admission_closes_at_the_cap_and_opens_below_nine_tenths_of_it() {
        let admission = Admission::new(100);
        for (jobs, closed) in [(99, false), (100, true), (95, true), (90, true), (89, false), (99, false)] {
            admission.observe(jobs, 0, 0);
            assert_eq!(admission.closed() == Some(Closed::QueueFull), closed, "{jobs}");
        }
        assert_eq!((reopen_below(1), reopen_below(10), reopen_below(u64::MAX) > 1), (1, 9, true));
    }

    #[test]
    fn fine_print_17_admission_closes_at_eighty_percent_of_maxmemory() {
        let admission = Admission::new(100);
        for (used, closed) in [(79, false), (80, true), (78, true), (77, false)] {
            admission.observe(0, used, 100);
            assert_eq!(admission.closed() == Some(Closed::MemoryFull), closed, "{used}");
        }
        admission.observe(0, u64::MAX, 0);
        assert_eq!(admission.closed(), None);
    }
}
