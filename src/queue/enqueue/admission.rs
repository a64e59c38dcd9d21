//! Whether the queue takes more: watched each second, so that overload is refused without asking Redis.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::keys::Keys;
use super::script::{JOB, Room};
use crate::domain::ids::GameId;
use crate::redis_connection::Connection;
use crate::runtime::lifecycle::Lifecycle;

/// How often the state is read.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How often an unreachable Redis is tried.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// Admission closes at this share of `maxmemory` in percent (docs/rules.md#a-full-redis-still-drains) …
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

impl Closed {
    /// For people.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unreachable => "batches are refused: the queue's Redis does not answer, or takes no writes",
            Self::QueueFull => "batches are refused: the queue has as many jobs as it may (QUEUE_MAX_JOBS)",
            Self::MemoryFull => "batches are refused: the queue's Redis is nearly out of memory (maxmemory)",
        }
    }
}

/// The state of admission. Shared by every request.
#[derive(Debug)]
pub struct Admission {
    max_jobs: u64,
    unreachable: AtomicBool,
    queue_full: AtomicBool,
    memory_full: AtomicBool,
    jobs: AtomicU64,
    /// What jobs take, and may take, as last seen.
    bytes: ArcSwap<Bytes>,
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
            bytes: ArcSwap::default(),
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

    /// What the script enforces for a batch of `game`.
    pub(super) fn room(&self, game: GameId) -> Room {
        let bytes = self.bytes.load();
        let of_game = bytes.of_games.get(&game).copied().unwrap_or_default();
        Room { jobs: self.max_jobs, bytes: bytes.room, free_bytes: bytes.free, of_game }
    }

    /// Redis did not answer a request, or takes no writes: refuse at once until a probe is answered.
    pub(super) fn lost(&self, error: &redis::RedisError) {
        if !self.unreachable.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the queue's Redis takes nothing; refusing batches until it does");
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

    fn observe(&self, seen: Seen) {
        if self.unreachable.swap(false, Ordering::Relaxed) {
            tracing::info!("the queue's Redis answers again");
        }
        let Seen { jobs, bytes_of_games, used_memory, max_memory } = seen;
        let queued_bytes: u64 = bytes_of_games.values().sum();
        self.jobs.store(jobs, Ordering::Relaxed);
        if jobs >= self.max_jobs {
            self.filled();
        } else if jobs < reopen_below(self.max_jobs) && self.queue_full.swap(false, Ordering::Relaxed) {
            tracing::info!(jobs, "the queue has drained; accepting batches again");
        }
        let share = |percent: u64| u128::from(max_memory) * u128::from(percent) / 100;
        let used = u128::from(used_memory);
        let closes_at = u64::try_from(share(MEMORY_CLOSE_PERCENT)).unwrap_or(u64::MAX);
        // What is there beside jobs stays. Where that is too much already, a byte is left, for 0 is no bound.
        let room = closes_at.saturating_sub(used_memory.saturating_sub(queued_bytes)).max(u64::from(max_memory > 0));
        self.bytes.store(Arc::new(Bytes { room, free: room.saturating_sub(queued_bytes), of_games: bytes_of_games }));
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

/// What jobs take of the server's memory.
#[derive(Debug, Default)]
struct Bytes {
    /// May take in all before admission closes; 0: no bound.
    room: u64,
    /// Of these, how many are free.
    free: u64,
    of_games: HashMap<GameId, u64>,
}

/// What a look at the queue's server shows.
#[derive(Debug, Clone, Default)]
struct Seen {
    jobs: u64,
    /// What the jobs of each game take, as the script counts it.
    bytes_of_games: HashMap<GameId, u64>,
    used_memory: u64,
    /// 0: no limit.
    max_memory: u64,
}

/// Watches the queue until the process stops.
pub(super) async fn watch(admission: Arc<Admission>, connection: Connection, keys: Keys, lifecycle: Lifecycle) {
    loop {
        let writes = admission.closed() == Some(Closed::Unreachable);
        let interval = match look(&connection, &keys, writes).await {
            Ok(seen) => {
                admission.observe(seen);
                WATCH_INTERVAL
            }
            Err(error) => {
                admission.lost(&error);
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

/// Looks at the server; `writes`: whether it takes writes, too. One that takes none answers all other questions, so
/// that batches would be refused and let in by turns.
async fn look(connection: &Connection, keys: &Keys, writes: bool) -> redis::RedisResult<Seen> {
    let [jobs_key, _, _, _, shares] = &keys.queue;
    if writes {
        // Removing nothing is a write, and is refused like any other.
        redis::cmd("HDEL").arg(shares).arg("").exec_async(&mut connection.clone()).await?;
    }
    let jobs = redis::cmd("HLEN").arg(jobs_key).query_async(&mut connection.clone()).await?;
    let shares: HashMap<i32, u64> = redis::cmd("HGETALL").arg(shares).query_async(&mut connection.clone()).await?;
    let bytes_of_games = shares.into_iter().map(|(game, share)| (GameId(game), share % JOB)).collect();
    // Of the node that holds the queue: what another one has to say of itself does not matter here.
    let info = connection.send_to_owner(jobs_key, redis::cmd("INFO").arg("memory")).await?;
    let info: String = redis::from_redis_value(info)?;
    let field = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
        value.ok_or((redis::ErrorKind::UnexpectedReturnType, "INFO memory lacks a field"))
    };
    Ok(Seen { jobs, bytes_of_games, used_memory: field("used_memory")?, max_memory: field("maxmemory")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admission_closes_at_the_cap_and_opens_below_nine_tenths_of_it() {
        let admission = Admission::new(100);
        for (jobs, closed) in [(99, false), (100, true), (95, true), (90, true), (89, false), (99, false)] {
            admission.observe(Seen { jobs, ..Seen::default() });
            assert_eq!(admission.closed() == Some(Closed::QueueFull), closed, "{jobs}");
        }
        assert_eq!((reopen_below(1), reopen_below(10), reopen_below(u64::MAX) > 1), (1, 9, true));
    }

    #[test]
    fn admission_closes_at_eighty_percent_of_maxmemory() {
        let admission = Admission::new(100);
        for (used_memory, closed) in [(79, false), (80, true), (78, true), (77, false)] {
            admission.observe(Seen { used_memory, max_memory: 100, ..Seen::default() });
            assert_eq!(admission.closed() == Some(Closed::MemoryFull), closed, "{used_memory}");
        }
        admission.observe(Seen { used_memory: u64::MAX, ..Seen::default() });
        assert_eq!(admission.closed(), None);
    }

    #[test]
    fn the_room_of_jobs_is_what_everything_else_leaves() {
        let admission = Admission::new(100);
        for (queued_bytes, used_memory, max_memory, room) in
            [(0_u64, 30, 100, 50_u64), (20, 50, 100, 50), (90, 50, 100, 80), (0, 90, 100, 1), (0, 90, 0, 0)]
        {
            let bytes_of_games = HashMap::from([(GameId(7), queued_bytes)]);
            admission.observe(Seen { bytes_of_games, used_memory, max_memory, jobs: 0 });
            let seen = admission.room(GameId(7));
            let free_bytes = room.saturating_sub(queued_bytes);
            assert_eq!(seen, Room { jobs: 100, bytes: room, free_bytes, of_game: queued_bytes });
        }
    }
}
