//! Processes killed, frozen, told to stop, and started with another time.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use redis::AsyncCommands;
use tokio::time::Instant;

use super::{Took, between, one_of};
use crate::bench::rig::Role;
use crate::chaos::ChaosError;
use crate::chaos::plan::Kind;
use crate::chaos::probe::WORKER_BOUND;
use crate::chaos::world::{PATIENCE, World};
use crate::runtime::clock::CLOCK_AHEAD;

/// How long writes are held up, once workers have jobs in hand, so that they have more.
const HOLD: Duration = Duration::from_millis(300);
/// How long it may take until a worker has jobs in hand, or a cron folds.
const BUSY_WITHIN: Duration = Duration::from_secs(5);
/// Nearly twice a worker's lease, as `QUEUE_LEASE_SECONDS` has it by default: others have had its jobs for long.
const PAST_THE_LEASE: Duration = Duration::from_millis(11_500);

impl World {
    /// Kills one process of a role that has no jobs, and starts it again at once or a moment later.
    pub(super) async fn kill_and_start(&mut self, kind: Kind, random: &mut StdRng) -> Result<(), ChaosError> {
        let role = match kind {
            Kind::KillIngest => Role::Ingest,
            Kind::KillApi => Role::Api,
            _ => Role::Cron,
        };
        let name = one_of(random, &self.named(role));
        self.kill(name).await?;
        let since = Instant::now();
        self.sleep(between(random, 0, 1_500)).await?;
        self.start_again(name).await?;
        self.follow_a_probe(kind.name(), since, None).await
    }

    /// Kills a worker that has jobs in hand; others run them.
    pub(super) async fn kill_a_worker(&mut self, random: &mut StdRng) -> Result<Took, ChaosError> {
        let name = one_of(random, &self.named(Role::Worker));
        let Some((held, killed)) = self.with_full_hands(&[name], async |world| world.kill(name).await).await? else {
            return Ok(Took::No(Kind::KillWorker.name()));
        };
        let soon = random.random_bool(0.5);
        if soon {
            self.start_again(name).await?;
        }
        self.jobs_run_again(Kind::KillWorker, &held, killed).await?;
        if !soon {
            self.start_again(name).await?;
        }
        self.follow_a_probe(Kind::KillWorker.name(), Instant::now(), None).await?;
        Ok(Took::Place)
    }

    /// Kills every worker at once; new ones run what they had. Nobody can before they are there, so the time
    /// counts from then.
    pub(super) async fn kill_the_workers(&mut self) -> Result<Took, ChaosError> {
        let names = self.named(Role::Worker);
        let kill = async |world: &mut Self| {
            for name in &names {
                world.kill(name).await?;
            }
            Ok(())
        };
        let Some((held, _)) = self.with_full_hands(&names, kill).await? else {
            return Ok(Took::No(Kind::KillWorkers.name()));
        };
        for name in &names {
            self.start_again(name).await?;
        }
        self.jobs_run_again(Kind::KillWorkers, &held, Instant::now()).await?;
        self.follow_a_probe(Kind::KillWorkers.name(), Instant::now(), None).await?;
        Ok(Took::Place)
    }

    /// Stops a worker with jobs in hand until it was given up for dead and its jobs were run; then lets it go on.
    pub(super) async fn freeze_a_worker(&mut self, random: &mut StdRng) -> Result<Took, ChaosError> {
        let name = one_of(random, &self.named(Role::Worker));
        let Some((held, frozen)) = self.with_full_hands(&[name], async |world| world.freeze(name)).await? else {
            return Ok(Took::No(Kind::FreezeWorker.name()));
        };
        let ran = self.jobs_run_again(Kind::FreezeWorker, &held, frozen).await;
        let rest = PAST_THE_LEASE.saturating_sub(frozen.elapsed());
        let slept = self.sleep(rest).await;
        self.thaw(name)?;
        ran.and(slept)?;
        self.follow_a_probe(Kind::FreezeWorker.name(), Instant::now(), None).await?;
        Ok(Took::Place)
    }

    /// Does something to workers while they have jobs in hand; returns those jobs and when it was done, or `None` and
    /// does nothing when one of them gets none.
    async fn with_full_hands(
        &mut self,
        names: &[&str],
        act: impl AsyncFnOnce(&mut Self) -> Result<(), ChaosError>,
    ) -> Result<Option<(Vec<String>, Instant)>, ChaosError> {
        let pids: Vec<u32> = names.iter().filter_map(|name| self.rig.pid(name)).collect();
        let mut holding = self.pool.begin().await?;
        sqlx::query("LOCK TABLE events IN EXCLUSIVE MODE").execute(&mut *holding).await?;
        let busy = async |world: &Self| {
            for pid in &pids {
                if world.held_by(&[*pid]).await?.is_empty() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if self.holds_within(BUSY_WITHIN, busy).await?.is_none() {
            holding.rollback().await?;
            return Ok(None);
        }
        self.sleep(HOLD).await?;
        act(self).await?;
        let since = Instant::now();
        let held = self.held_by(&pids).await?;
        holding.rollback().await?;
        Ok(Some((held, since)))
    }

    /// The jobs in the hands of the workers with these process ids.
    async fn held_by(&self, pids: &[u32]) -> Result<Vec<String>, ChaosError> {
        let mut redis = self.redis().await?;
        let keys = self.queue.keys();
        let workers: Vec<String> = redis.hkeys(keys.workers()).await?;
        let mut held: Vec<String> = Vec::new();
        for worker in workers {
            if pids.iter().any(|pid| worker.contains(&format!("-{pid}-"))) {
                let of_one: Vec<String> = redis.zrange(keys.held(&worker), 0, -1).await?;
                held.extend(of_one);
            }
        }
        Ok(held)
    }

    /// Waits until none of these jobs is left, and holds the time against the promise.
    async fn jobs_run_again(&mut self, after: Kind, jobs: &[String], since: Instant) -> Result<(), ChaosError> {
        let mut redis = self.redis().await?;
        let key = self.queue.keys().jobs();
        while since.elapsed() < PATIENCE {
            let left: Vec<Option<Vec<u8>>> = redis::cmd("HMGET").arg(&key).arg(jobs).query_async(&mut redis).await?;
            if left.iter().all(Option::is_none) {
                self.report.recovered(after.name(), "its jobs have run", since.elapsed(), Some(WORKER_BOUND));
                return Ok(());
            }
            self.sleep(Duration::from_millis(20)).await?;
        }
        self.report.violated(format!("after {}: its jobs have not run within {PATIENCE:?}", after.name()));
        Ok(())
    }

    /// Freezes a cron that folds until others have taken over; then lets it go on.
    pub(super) async fn freeze_the_leader(&mut self, random: &mut StdRng) -> Result<Took, ChaosError> {
        let folds = async |world: &Self| Ok(world.cron_that_folds().await?.is_some());
        self.holds_within(BUSY_WITHIN, folds).await?;
        let Some(name) = self.cron_that_folds().await? else { return Ok(Took::No(Kind::FreezeCron.name())) };
        self.freeze(name)?;
        let frozen = Instant::now();
        let followed = self.follow_a_probe(Kind::FreezeCron.name(), frozen, None).await;
        let slept = self.sleep(between(random, 6_500, 9_000).saturating_sub(frozen.elapsed())).await;
        self.thaw(name)?;
        followed.and(slept)?;
        self.follow_a_probe("freeze-cron, thawed", Instant::now(), None).await?;
        Ok(Took::Place)
    }

    /// A running cron that holds a lease of the fold; leases of those that were killed may still be there.
    async fn cron_that_folds(&self) -> Result<Option<&'static str>, ChaosError> {
        let holders: Vec<String> = sqlx::query_scalar(
            "SELECT holder FROM leases WHERE name LIKE 'fold-%' AND expires_at > clock_timestamp() ORDER BY name",
        )
        .fetch_all(&self.pool)
        .await?;
        let crons = self.named(Role::Cron);
        // `cron-<host>-<pid>-<start>`
        let pids = holders.iter().filter_map(|holder| holder.rsplit('-').nth(1)?.parse().ok());
        let named = |pid: u32| crons.iter().copied().find(|name| self.rig.pid(name) == Some(pid));
        Ok(pids.filter_map(named).next())
    }

    /// Tells one process to stop, and starts it again.
    pub(super) async fn terminate_one(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let name = one_of(random, &self.all_names());
        self.terminate(name).await?;
        let since = Instant::now();
        self.start_again(name).await?;
        self.follow_a_probe(Kind::Terminate.name(), since, None).await
    }

    /// Starts one process again with another time.
    pub(super) async fn jump_a_clock(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let name = one_of(random, &self.all_names());
        let jump = one_of(random, &[-240, -61, -7, 7, 61, 240]);
        self.terminate(name).await?;
        let since = Instant::now();
        self.report.restarts += 1;
        let ahead = (self.scenario.ahead + jump).to_string();
        self.spawn(name, &[(CLOCK_AHEAD, &ahead)])?;
        self.ready(name).await?;
        self.follow_a_probe(Kind::ClockJump.name(), since, None).await?;
        self.sleep(between(random, 500, 3_000)).await?;
        self.terminate(name).await?;
        self.start_again(name).await
    }
}
