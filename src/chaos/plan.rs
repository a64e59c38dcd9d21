//! Which fault comes when: a pure function of the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What is done to the system. The names are those of reports and of docs/reliability.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $variant,)* }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

kinds! {
    /// kill -9 of ingest.
    KillIngest = "kill-ingest",
    /// kill -9 of a worker with jobs in hand.
    KillWorker = "kill-worker",
    /// kill -9 of every worker at once.
    KillWorkers = "kill-workers",
    /// kill -9 of a cron.
    KillCron = "kill-cron",
    /// kill -9 of the api.
    KillApi = "kill-api",
    /// SIGSTOP of a worker past its lease, then SIGCONT.
    FreezeWorker = "freeze-worker",
    /// SIGSTOP of the cron that leads past its leases, then SIGCONT.
    FreezeCron = "freeze-cron",
    /// kill -9 of Redis, and a new start on its AOF.
    RedisKill = "redis-kill",
    /// `CLIENT PAUSE`.
    RedisPause = "redis-pause",
    /// `maxmemory` reached, and raised again.
    RedisFull = "redis-full",
    /// A policy that evicts, and back.
    RedisEvicts = "redis-evicts",
    /// `pg_ctl stop -m immediate`, and a new start.
    PostgresStop = "postgres-stop",
    /// `pg_terminate_backend` of every connection of ours.
    PostgresTerminate = "postgres-terminate",
    /// No connection is left.
    PostgresExhausted = "postgres-exhausted",
    /// The table of events is locked by somebody else.
    PostgresLocked = "postgres-locked",
    /// Every answer of Postgres comes late.
    PostgresSlow = "postgres-slow",
    /// Latency on some ways.
    NetworkLatency = "network-latency",
    /// Every connection of some ways is reset.
    NetworkReset = "network-reset",
    /// Some ways carry nothing.
    NetworkHole = "network-hole",
    /// One way of every connection of some ways is closed.
    NetworkHalfClose = "network-half-close",
    /// Some ways carry a few bytes at a time.
    NetworkSlices = "network-slices",
    /// A process dies at a crash point.
    CrashPoint = "crash-point",
    /// SIGTERM and a new start.
    Terminate = "terminate",
    /// A process starts again with another time.
    ClockJump = "clock-jump",
    /// Jobs that deserve to be given up.
    DeservedDeadLetters = "deserved-dead-letters",
    /// A leaderboard is made while events come.
    NewBoard = "new-board",
    /// Postgres answers and does not write.
    PostgresReadOnly = "postgres-read-only",
    /// The processes' role loses rights.
    PostgresRights = "postgres-rights",
    /// The processes' role has another password.
    PostgresPassword = "postgres-password",
    /// A synchronous stand-by takes over.
    PostgresPromoted = "postgres-promoted",
    /// No byte is left on the disk of Redis and Postgres.
    DiskFull = "disk-full",
    /// A backup takes Postgres's place.
    PostgresRestored = "postgres-restored",
    /// A stand-by that lags behind takes over.
    PostgresPromotedBehind = "postgres-promoted-behind",
    /// FLUSHALL.
    RedisEmptied = "redis-emptied",
    /// Redis is back at what it was some seconds ago.
    RedisGoesBack = "redis-goes-back",
}

/// Faults that not every run plays: each seed has one such group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Hard, and yet nothing may be lost.
    Keeps,
    /// What a fault takes away is named, and nothing else may be lost.
    Loses,
}

impl Group {
    /// The group of a seed.
    pub const fn of(seed: u64) -> Self {
        if seed.is_multiple_of(2) { Self::Keeps } else { Self::Loses }
    }
}

impl Kind {
    /// The group that it belongs to; `None`: every seed plays it.
    pub const fn group(self) -> Option<Group> {
        match self {
            Self::PostgresPromoted | Self::DiskFull => Some(Group::Keeps),
            Self::PostgresRestored | Self::PostgresPromotedBehind | Self::RedisEmptied | Self::RedisGoesBack => {
                Some(Group::Loses)
            }
            _ => None,
        }
    }

    /// Whether a run of `seed` plays it unless it is told what to play.
    pub fn is_of(self, seed: u64) -> bool {
        self.group().is_none_or(|group| group == Group::of(seed))
    }

    /// Whether only a build with the feature `failpoints` can do it.
    pub const fn needs_failpoints(self) -> bool {
        matches!(self, Self::CrashPoint | Self::ClockJump)
    }
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// How long all is well before it.
    pub pause: Duration,
    /// What is done.
    pub kind: Kind,
    /// Where its parameters come from.
    pub dice: u64,
    /// Whether every way is slow and sliced meanwhile.
    pub rough: bool,
}

impl Step {
    /// The source of its parameters.
    pub fn random(&self) -> StdRng {
        StdRng::seed_from_u64(self.dice)
    }
}

/// An endless schedule: every kind once in random order, then every kind again with other parameters.
#[derive(Debug)]
pub struct Plan {
    random: StdRng,
    kinds: Vec<Kind>,
    bag: Vec<Kind>,
}

impl Plan {
    /// The schedule of `seed` over `kinds`.
    pub fn new(seed: u64, kinds: Vec<Kind>) -> Self {
        Self { random: StdRng::seed_from_u64(seed), kinds, bag: Vec::new() }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.bag.is_empty() {
            self.bag.clone_from(&self.kinds);
            self.bag.shuffle(&mut self.random);
        }
        let kind = self.bag.pop()?;
        let pause = Duration::from_millis(self.random.random_range(100..1_500));
        Some(Step { pause, kind, dice: self.random.random(), rough: self.random.random_bool(0.2) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_that_may_lose_plays_nothing_but_what_names_it() {
        let of = |seed| Kind::ALL.iter().copied().filter(|kind| kind.is_of(seed)).collect::<Vec<_>>();
        assert!(of(2).contains(&Kind::PostgresPromoted) && !of(2).contains(&Kind::RedisEmptied));
        assert!(of(3).contains(&Kind::RedisEmptied) && !of(3).contains(&Kind::DiskFull));
        assert!(of(2).contains(&Kind::PostgresReadOnly) && of(3).contains(&Kind::PostgresReadOnly));
    }

    #[test]
    fn a_schedule_is_a_function_of_its_seed_and_leaves_no_fault_out() {
        let of = |seed| Plan::new(seed, Kind::ALL.to_vec()).take(3 * Kind::ALL.len()).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        let mut first: Vec<Kind> = of(7).iter().take(Kind::ALL.len()).map(|step| step.kind).collect();
        first.sort_unstable();
        assert_eq!(first, Kind::ALL);
    }
}
