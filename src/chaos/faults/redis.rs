//! Redis killed, paused, full, and evicting.

use std::time::Duration;

use rand::rngs::StdRng;
use tokio::time::Instant;

use super::between;
use crate::chaos::ChaosError;
use crate::chaos::plan::Kind;
use crate::chaos::probe::DEPENDENCY_BOUND;
use crate::chaos::world::{PATIENCE, World};

/// Within this time a process says what it found: it looks every 5 s and waits 3 s for an answer.
const SAID_WITHIN: Duration = Duration::from_secs(10);

impl World {
    pub(super) async fn kill_redis(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        *self.report.kills.entry("redis").or_default() += 1;
        self.stack.kill_redis().await;
        let slept = self.sleep(between(random, 100, 4_000)).await;
        self.report.restarts += 1;
        self.stack.start_redis_again().await?;
        slept?;
        self.follow_a_probe(Kind::RedisKill.name(), Instant::now(), Some(DEPENDENCY_BOUND)).await
    }

    pub(super) async fn pause_redis(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let time = between(random, 500, 7_000);
        let mut redis = self.redis().await?;
        redis::cmd("CLIENT").arg("PAUSE").arg(time.as_millis() as u64).exec_async(&mut redis).await?;
        self.sleep(time).await?;
        self.follow_a_probe(Kind::RedisPause.name(), Instant::now(), Some(DEPENDENCY_BOUND)).await
    }

    /// Full: batches are refused, what is queued drains.
    pub(super) async fn fill_redis(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let mut redis = self.redis().await?;
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut redis).await?;
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
        };
        let (Some(used), Some(before)) = (field("used_memory"), field("maxmemory")) else {
            return Err(ChaosError::Setup("Redis does not tell its memory".to_owned()));
        };
        self.configure(&mut redis, "maxmemory", &(used / 2).to_string()).await?;
        let seen = self.full_redis(random).await;
        let raised = self.configure(&mut redis, "maxmemory", &before.to_string()).await;
        seen?;
        raised?;
        self.follow_a_probe(Kind::RedisFull.name(), Instant::now(), Some(DEPENDENCY_BOUND)).await
    }

    async fn full_redis(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let since = Instant::now();
        while !self.is_refused_as("queue_memory_full").await {
            if since.elapsed() > SAID_WITHIN {
                self.report.violated("a full Redis does not close ingest");
                break;
            }
            self.sleep(Duration::from_millis(50)).await?;
        }
        let drained = async |world: &Self| Ok(world.queue.status().await.is_ok_and(|status| status.jobs == 0));
        if self.holds_within(PATIENCE, drained).await?.is_none() {
            self.report.violated("the queue of a full Redis does not drain");
        }
        self.sleep(between(random, 0, 1_000)).await
    }

    /// A policy that evicts: every process that uses the queue says that it is not ready, and why.
    pub(super) async fn let_redis_evict(&mut self) -> Result<(), ChaosError> {
        let mut redis = self.redis().await?;
        self.configure(&mut redis, "maxmemory-policy", "allkeys-lru").await?;
        let mut unsaid = Vec::new();
        for name in ["ingest", "worker", "cron"] {
            let said = async |world: &Self| Ok(world.complains(name, "maxmemory-policy").await);
            if self.holds_within(SAID_WITHIN, said).await?.is_none() {
                unsaid.push(name);
            }
        }
        self.configure(&mut redis, "maxmemory-policy", "noeviction").await?;
        let since = Instant::now();
        for name in unsaid {
            self.report.violated(format!("{name} does not say on /readyz that Redis may evict jobs"));
        }
        for name in ["ingest", "worker", "cron"] {
            if self.holds_within(SAID_WITHIN, async |world| Ok(world.is_ready(name).await)).await?.is_none() {
                self.report.violated(format!("{name} is not ready again although Redis evicts no more"));
            }
        }
        self.report.recovered(Kind::RedisEvicts.name(), "ready", since.elapsed(), Some(DEPENDENCY_BOUND));
        self.follow_a_probe(Kind::RedisEvicts.name(), Instant::now(), Some(DEPENDENCY_BOUND)).await
    }

    async fn configure(
        &self,
        redis: &mut redis::aio::MultiplexedConnection,
        name: &str,
        value: &str,
    ) -> Result<(), ChaosError> {
        Ok(redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec_async(redis).await?)
    }
}
