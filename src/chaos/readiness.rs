//! Whether every process says that it is ready, and every worker works: one that never recovers must not hide behind
//! another that does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ChaosError;
use super::probe::WORKER_BOUND;
use super::world::World;
use crate::bench::load::Connection;
use crate::bench::rig::{Role, says_ready};
use crate::telemetry::metrics::JOB_OUTCOMES;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a process is asked.
const ASKED: Duration = Duration::from_secs(40);
const AGAIN: Duration = Duration::from_millis(30);

/// Asks processes until each says that it is ready; ends with this value.
#[derive(Debug)]
pub struct Readiness {
    asking: JoinSet<(String, Option<Duration>)>,
}

impl World {
    /// Begins to ask every process that is not frozen.
    pub fn ask_readiness(&self, since: Instant) -> Readiness {
        let mut asking = JoinSet::new();
        for name in self.rig.names().into_iter().filter(|name| self.frozen.as_deref() != Some(name)) {
            if let Some(address) = self.rig.operations(&name) {
                asking.spawn(async move { (name, ready_after(address, since).await) });
            }
        }
        Readiness { asking }
    }

    /// Waits until all of them are ready; notes how long the last one took, held against `promised`.
    ///
    /// # Errors
    /// [`ChaosError::Interrupted`].
    pub async fn note_readiness(
        &mut self,
        after: &'static str,
        mut readiness: Readiness,
        promised: Option<Duration>,
    ) -> Result<(), ChaosError> {
        let (mut last, mut late) = (Duration::ZERO, Vec::new());
        loop {
            let next = async { Ok::<_, ChaosError>(readiness.asking.join_next().await) };
            let Some(Ok((name, took))) = self.answered("those who are asked", ASKED + ANSWER * 2, next).await? else {
                break;
            };
            match took {
                None => self.report.violated(format!("after {after}: {name} is not ready within {ASKED:?}")),
                Some(took) => {
                    last = last.max(took);
                    if promised.is_some_and(|bound| took > bound) {
                        late.push(name);
                    }
                }
            }
        }
        self.report.recovered(after, "every process is ready", last, promised);
        if !late.is_empty() {
            self.report.violated(format!("after {after}: those who were ready too late: {}", late.join(", ")));
        }
        Ok(())
    }

    /// Every worker must have run a job within the time in which a killed one's jobs run, as long as clients send.
    ///
    /// # Errors
    /// [`ChaosError::Interrupted`].
    pub async fn each_worker_works(&mut self) -> Result<(), ChaosError> {
        let mut before: BTreeMap<&'static str, Option<f64>> = BTreeMap::new();
        for name in self.named(Role::Worker) {
            before.insert(name, self.jobs_done(name).await);
        }
        let since = Instant::now();
        while !before.is_empty() && since.elapsed() < WORKER_BOUND {
            let mut idle = BTreeMap::new();
            for (name, done) in before {
                match (done, self.jobs_done(name).await) {
                    (Some(before), Some(now)) if now > before => {}
                    (before, now) => _ = idle.insert(name, before.or(now)),
                }
            }
            before = idle;
            self.sleep(AGAIN).await?;
        }
        for name in before.into_keys() {
            self.report.violated(format!("{name} has run no job for {WORKER_BOUND:?} although clients send"));
        }
        Ok(())
    }

    /// How many jobs a worker has done since it started, by its metrics.
    async fn jobs_done(&self, name: &str) -> Option<f64> {
        let address = self.rig.operations(name)?;
        let exchange = async {
            let mut connection = Connection::open(address).await.ok()?;
            let (_, body) = connection.get("/metrics", "").await.ok()?;
            let text = String::from_utf8_lossy(body).into_owned();
            let done = text.lines().filter(|line| line.starts_with(JOB_OUTCOMES) && line.contains("outcome=\"done\""));
            Some(done.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
        };
        tokio::time::timeout(ANSWER, exchange).await.ok().flatten()
    }
}

/// How long after `since` a process first said that it is ready.
async fn ready_after(address: SocketAddr, since: Instant) -> Option<Duration> {
    let ends = Instant::now() + ASKED;
    while Instant::now() < ends {
        if tokio::time::timeout(ANSWER, says_ready(address)).await == Ok(true) {
            return Some(since.elapsed());
        }
        tokio::time::sleep(AGAIN).await;
    }
    None
}
