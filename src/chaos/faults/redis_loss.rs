//! A Redis that forgets: emptied, or back at what it was a moment ago, as a replica is that lags and takes over.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::between;
use crate::chaos::ChaosError;
use crate::chaos::plan::Kind;
use crate::chaos::probe::DEPENDENCY_BOUND;
use crate::chaos::world::{PATIENCE, World};
use crate::queue::payload::decode_persist_events;

/// How long writes may be held up while the data are copied.
const HELD_UP: Duration = Duration::from_secs(20);

type Jobs = HashMap<String, Vec<u8>>;

impl World {
    /// FLUSHALL: what was queued at that moment is gone, and with it everything that is only remembered there.
    pub(super) async fn empty_redis(&mut self) -> Result<(), ChaosError> {
        let mut redis = self.redis().await?;
        let (jobs, ()): (Jobs, ()) =
            redis::pipe().atomic().hgetall(self.queue.keys().jobs()).cmd("FLUSHALL").query_async(&mut redis).await?;
        let since = Instant::now();
        self.lose(&jobs);
        self.follow_a_probe(Kind::RedisEmptied.name(), since, Some(DEPENDENCY_BOUND)).await
    }

    /// Puts back what Redis held some seconds ago. What was queued since is gone; what was done since is done again.
    pub(super) async fn take_redis_back(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let (data, copy) = (self.stack.home().join("redis"), self.stack.home().join("redis.copy"));
        let failed = |e: std::io::Error| ChaosError::Io("a copy of Redis", e);
        let mut redis = self.redis().await?;
        let before = self.held_still(&mut redis).await?;
        let copied = copy_folder(&data, &copy).map_err(failed);
        redis::cmd("CLIENT").arg("UNPAUSE").exec_async(&mut redis).await?;
        copied?;
        self.sleep(between(random, 500, 4_000)).await?;
        let mut jobs = self.held_still(&mut redis).await?;
        *self.report.kills.entry("redis").or_default() += 1;
        self.stack.kill_redis().await;
        jobs.retain(|name, _| !before.contains_key(name));
        self.lose(&jobs);
        let put_back = std::fs::remove_dir_all(&data).and_then(|()| std::fs::rename(&copy, &data)).map_err(failed);
        self.report.restarts += 1;
        self.stack.start_redis_again().await?;
        put_back?;
        self.follow_a_probe(Kind::RedisGoesBack.name(), Instant::now(), Some(DEPENDENCY_BOUND)).await
    }

    /// Lets nobody write and waits until everything answered is in the file; the jobs of that moment.
    async fn held_still(&self, redis: &mut MultiplexedConnection) -> Result<Jobs, ChaosError> {
        redis::cmd("CLIENT").arg("PAUSE").arg(HELD_UP.as_millis() as u64).arg("WRITE").exec_async(redis).await?;
        let written = async |world: &Self| {
            let mut redis = world.redis().await?;
            let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut redis).await?;
            Ok(info.lines().any(|line| line.trim() == "aof_buffer_length:0"))
        };
        self.until("Redis has written its file", PATIENCE, written).await?;
        Ok(redis.hgetall(self.queue.keys().jobs()).await?)
    }

    /// Names the events of jobs that are gone.
    fn lose(&mut self, jobs: &Jobs) {
        let before = self.may_lose.len();
        for bytes in jobs.values() {
            let events = decode_persist_events(bytes).map(|job| job.events).unwrap_or_default();
            self.may_lose.extend(events.iter().map(|event| event.event_id));
        }
        tracing::info!(jobs = jobs.len(), events = self.may_lose.len() - before, "lost with the queue");
    }
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if let Err(error) = std::fs::copy(entry.path(), &target) {
            // What is temporary may be gone.
            if error.kind() != std::io::ErrorKind::NotFound {
                return Err(error);
            }
        }
    }
    Ok(())
}
