//! Every key and channel of the queue's Redis, in one place (`docs/redis-keys.md` says type, content and bound).
//!
//! All keys of a queue begin with the same hash tag, `{<prefix>:<queue>}`, so a queue lives in one slot of a Redis
//! Cluster and several queues spread over it.

use std::sync::Arc;

/// The name of an installation's one queue. More queues would be shards with names of their own.
pub const QUEUE_NAME: &str = "q0";

/// A job's priority. Workers take `High` first; `Low` gets a tenth of the fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Feeds a leaderboard, settles or pays.
    High,
    /// Everything else.
    Low,
}

impl Lane {
    /// Both, most urgent first.
    pub const ALL: [Self; 2] = [Self::High, Self::Low];

    /// Its name in keys, metrics and dead letters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Low => "low",
        }
    }

    /// The last character of a job id in this lane.
    pub const fn suffix(self) -> char {
        match self {
            Self::High => 'h',
            Self::Low => 'l',
        }
    }
}

/// The field of [`Keys::counters`] that is no total: the latest `received_at` that was stamped, in µs. The next one is
/// no earlier, whatever the server's clock does.
pub const STAMP: &str = "stamp";

/// The keys of one queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keys {
    /// `{sl:q0}:`
    tag: Arc<str>,
    /// `sl:q0:`
    channel: Arc<str>,
}

impl Keys {
    /// The keys of queue `queue` under `prefix` (`REDIS_PREFIX`).
    pub fn new(prefix: &str, queue: &str) -> Self {
        Self { tag: format!("{{{prefix}:{queue}}}:").into(), channel: format!("{prefix}:{queue}:").into() }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.tag)
    }

    /// Hash ID → bytes: every job that Redis knows, whatever its state.
    pub fn jobs(&self) -> String {
        self.key("jobs")
    }

    /// List of ID: fresh jobs of a lane in the order in which they came, oldest at the head. Only `enqueue` and `push`
    /// append to it and only `fetch` takes from it, so its head is its oldest (the low-water mark relies on that).
    pub fn lane(&self, lane: Lane) -> String {
        self.key(lane.name())
    }

    /// List of ID: jobs of a lane whose next attempt is due or that a stopping worker gave back. Fetched before
    /// [`Keys::lane`]; each is also in [`Keys::troubled_at`].
    pub fn again(&self, lane: Lane) -> String {
        match lane {
            Lane::High => self.key("high:again"),
            Lane::Low => self.key("low:again"),
        }
    }

    /// List of ID: rescued from a dead worker; run a few at a time per worker, then alone.
    pub fn suspect(&self) -> String {
        self.key("suspect")
    }

    /// Sorted set ID → when to run (ms since the epoch, Redis's clock): waiting for the next attempt. Jobs that are set
    /// aside and due wait in it for their turn, below zero.
    pub fn delayed(&self) -> String {
        self.key("delayed")
    }

    /// Hash game → the last place of its jobs below zero in [`Keys::delayed`]; where it is lost the turns begin anew.
    pub fn aside(&self) -> String {
        self.key("aside")
    }

    /// Hash ID → `<attempts> <crashes> <last error>`: only jobs that failed or were rescued.
    pub fn trouble(&self) -> String {
        self.key("trouble")
    }

    /// Sorted set ID → received_at (µs): every job that is out of its lane's order (delayed, suspect, given back,
    /// dead) until it is settled or forgotten; for the low-water mark.
    pub fn troubled_at(&self) -> String {
        self.key("troubled_at")
    }

    /// Sorted set ID → received_at (µs): jobs in one worker's hands.
    pub fn held(&self, worker: &str) -> String {
        format!("{}held:{worker}", self.tag)
    }

    /// Hash worker → `<beat> <running> <oldest running, ms> <lease, ms>`, changed with every heartbeat; `fenced` once a
    /// rescue of its jobs has begun.
    pub fn workers(&self) -> String {
        self.key("workers")
    }

    /// Hash worker → number of its last fetch: a fetch whose answer was lost and that Redis runs late is refused.
    pub fn fetches(&self) -> String {
        self.key("fetches")
    }

    /// Hash worker → ID of the suspect that it runs alone, which a crash is charged to; or `company`: several suspects;
    /// or `waiting`: suspects whose run waits for another server.
    pub fn alone(&self) -> String {
        self.key("alone")
    }

    /// Hash unique name → ID, for internal jobs that must exist once at a time.
    pub fn named(&self) -> String {
        self.key("named")
    }

    /// Hash ID → `<reason> <attempts> <crashes> <error>`: dead letters on their way to Postgres. Their bytes stay in
    /// [`Keys::jobs`] until the mover has stored them.
    pub fn dead(&self) -> String {
        self.key("dead")
    }

    /// Hash ID → name of its death: tells a dead letter that a mover has in hand from one of the same job that was
    /// replayed meanwhile and died again.
    pub fn deaths(&self) -> String {
        self.key("deaths")
    }

    /// Hash game → `<time, µs> <ID> <error>`: games with a job that is set aside, and why, as of its last attempt.
    pub fn blocked(&self) -> String {
        self.key("blocked")
    }

    /// String: set while an operator holds the queue.
    pub fn paused(&self) -> String {
        self.key("paused")
    }

    /// Hash `<what>` → running total: `pushed`, `done`, `retried`, `deferred`, `rescued`, `returned`, `dead`; and
    /// [`STAMP`].
    pub fn counters(&self) -> String {
        self.key("counters")
    }

    /// Hash game → `jobs × 2^40 + bytes`: what Redis stores of each game, by which its share of the queue is measured.
    pub fn shares(&self) -> String {
        self.key("shares")
    }

    /// Hash tag with its colon, for the keys of ingest in the same slot: `{sl:q0}:`.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Channel: jobs arrived in an empty lane, or workers should look at the queue for another reason.
    pub fn wake_channel(&self) -> String {
        format!("{}wake", self.channel)
    }

    /// Channel: score facts were committed; the aggregator should fold.
    pub fn facts_channel(&self) -> String {
        format!("{}facts", self.channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_queue_has_the_same_hash_tag() {
        let keys = Keys::new("sl", "q0");
        let all = [
            keys.deaths(),
            keys.jobs(),
            keys.lane(Lane::High),
            keys.again(Lane::Low),
            keys.held("w"),
            keys.dead(),
            keys.named(),
        ];
        assert!(all.iter().all(|k| k.starts_with("{sl:q0}:")), "{all:?}");
        assert_eq!(keys.wake_channel(), "sl:q0:wake");
    }
}
