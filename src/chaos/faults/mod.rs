//! The faults: each is done, healed, and followed by a look at how soon work goes on.

mod crash;
mod disk;
mod going_back;
mod jobs;
mod network;
mod postgres;
mod processes;
mod redis;
mod redis_loss;
mod refusals;

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::ChaosError;
use super::plan::{Kind, Step};
use super::proxy::LARGE_SLICES;
use super::world::World;

/// Whether a fault happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Took {
    /// It did.
    Place,
    /// What it needs was not there; what was wanted, by the name that the report uses.
    No(&'static str),
}

/// Latency of every way during a rough step.
const ROUGH_LATENCY: Duration = Duration::from_millis(3);

impl World {
    /// Takes one step of the plan.
    ///
    /// # Errors
    /// [`ChaosError`]: the run cannot go on.
    pub async fn take(&mut self, step: &Step) -> Result<(), ChaosError> {
        self.sleep(step.pause).await?;
        self.make_rough(step.rough);
        let mut random = step.random();
        let done = self.fault(step.kind, &mut random).await;
        self.make_rough(false);
        match done? {
            Took::Place => *self.report.faults.entry(step.kind.name()).or_default() += 1,
            Took::No(wanted) => *self.report.not_reached.entry(wanted).or_default() += 1,
        }
        self.find_the_dead().await
    }

    async fn fault(&mut self, kind: Kind, random: &mut StdRng) -> Result<Took, ChaosError> {
        let done = match kind {
            Kind::KillWorker => return self.kill_a_worker(random).await,
            Kind::KillWorkers => return self.kill_the_workers().await,
            Kind::FreezeWorker => return self.freeze_a_worker(random).await,
            Kind::FreezeCron => return self.freeze_the_leader(random).await,
            Kind::PostgresSlow
            | Kind::NetworkLatency
            | Kind::NetworkReset
            | Kind::NetworkHole
            | Kind::NetworkHalfClose
            | Kind::NetworkSlices => return self.disturb_network(kind, random).await,
            Kind::CrashPoint => return self.crash(random).await,
            Kind::NewBoard => return self.make_board().await,
            Kind::PostgresPromoted => return self.promote(true, random).await,
            Kind::PostgresPromotedBehind => return self.promote(false, random).await,
            Kind::PostgresRestored => return self.restore_backup(random).await,
            Kind::DiskFull => return self.fill_disk(random).await,
            Kind::PostgresReadOnly => self.make_read_only(random).await,
            Kind::PostgresRights => self.withdraw_rights(random).await,
            Kind::PostgresPassword => self.change_password(random).await,
            Kind::RedisEmptied => self.empty_redis().await,
            Kind::RedisGoesBack => self.take_redis_back(random).await,
            Kind::KillIngest | Kind::KillCron | Kind::KillApi => self.kill_and_start(kind, random).await,
            Kind::Terminate => self.terminate_one(random).await,
            Kind::ClockJump => self.jump_a_clock(random).await,
            Kind::RedisKill => self.kill_redis(random).await,
            Kind::RedisPause => self.pause_redis(random).await,
            Kind::RedisFull => self.fill_redis(random).await,
            Kind::RedisEvicts => self.let_redis_evict().await,
            Kind::PostgresStop => self.stop_postgres(random).await,
            Kind::PostgresTerminate => self.terminate_backends(random).await,
            Kind::PostgresExhausted => self.exhaust_postgres(random).await,
            Kind::PostgresLocked => self.lock_events(random).await,
            Kind::DeservedDeadLetters => self.deserve_dead_letters().await,
        };
        done.map(|()| Took::Place)
    }

    fn make_rough(&self, rough: bool) {
        for proxy in self.proxies() {
            proxy.delay(if rough { ROUGH_LATENCY } else { Duration::ZERO });
            proxy.slice(if rough { LARGE_SLICES } else { 0 });
        }
    }

    /// No process may end but by our hand; one that did is started again, so that the run goes on.
    ///
    /// # Errors
    /// It cannot be started again.
    pub async fn find_the_dead(&mut self) -> Result<(), ChaosError> {
        for name in self.rig.dead() {
            let status = self.rig.ended(&name).await?;
            self.report.violated(format!("{name} ended by itself: {status}"));
            self.start_again(&name).await?;
        }
        Ok(())
    }
}

/// Some time between two, in milliseconds.
fn between(random: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..=to))
}

/// One of some.
fn one_of<T: Copy>(random: &mut StdRng, some: &[T]) -> T {
    some[random.random_range(0..some.len())]
}
