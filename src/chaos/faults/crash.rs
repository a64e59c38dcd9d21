//! Processes that die between two steps that must not come apart.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{Took, one_of};
use crate::bench::rig::Role;
use crate::chaos::ChaosError;
use crate::chaos::plan::Kind;
use crate::chaos::world::{PATIENCE, World};

/// How long an armed process may live.
const REACHED_WITHIN: Duration = Duration::from_secs(12);
const SIGABRT: i32 = 6;

/// What makes a process reach a crash point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Events that come.
    Load,
    /// The end of a period, up to a minute away.
    Time,
    /// A job that cannot be read.
    Garbage,
    /// A new leaderboard.
    Board,
}

/// The crash points that a run can reach; `retention::after_fold` takes months (its test is in `cronjobs::retention`).
const POINTS: [(&str, Role, By); 9] = [
    ("ingest::after_enqueue", Role::Ingest, By::Load),
    ("persist_events::before_commit", Role::Worker, By::Load),
    ("persist_events::before_settle", Role::Worker, By::Load),
    ("fold::after_commit", Role::Cron, By::Load),
    ("publish::after_redis", Role::Cron, By::Load),
    ("close::after_freeze", Role::Cron, By::Time),
    ("dead_letters::before_forget", Role::Worker, By::Garbage),
    ("recompute::after_chunk", Role::Cron, By::Board),
    ("recompute::before_swap", Role::Cron, By::Board),
];

impl World {
    /// Arms every process of a role with a crash point, waits until one died there, and starts all of them again.
    pub(super) async fn crash(&mut self, random: &mut StdRng) -> Result<Took, ChaosError> {
        // Periods do not close while clocks are set ahead of the time at which events were received.
        let ahead = self.scenario.ahead > 0;
        let points: Vec<_> = POINTS.into_iter().filter(|(.., by)| !(ahead && *by == By::Time)).collect();
        let (point, role, by) = one_of(random, &points);
        let skip = if by == By::Load { random.random_range(0..4) } else { 0 };
        let armed = if skip == 0 { format!("{point}=return") } else { format!("{point}={skip}*off->return") };
        let names = self.named(role);
        for name in &names {
            self.terminate(name).await?;
            self.report.restarts += 1;
            self.spawn(name, &[("FAILPOINTS", &armed)])?;
        }
        let since = Instant::now();
        let (mut garbage, mut hopeless) = (0, false);
        match by {
            By::Garbage => {
                self.push_garbage().await?;
                garbage = 1;
            }
            By::Board => hopeless = !self.order_board().await?,
            By::Load | By::Time => {}
        }
        let limit = if by == By::Time { PATIENCE + REACHED_WITHIN } else { REACHED_WITHIN };
        let mut died = false;
        while !died && !hopeless && since.elapsed() < limit {
            self.sleep(Duration::from_millis(20)).await?;
            died = !self.rig.dead().is_empty();
        }
        let crashed = self.end_armed(point, &names).await?;
        let restarted = Instant::now();
        for name in &names {
            self.spawn(name, &[])?;
        }
        for name in &names {
            self.ready(name).await?;
        }
        self.report.restarts += names.len() as u64;
        self.follow_a_probe(Kind::CrashPoint.name(), restarted, None).await?;
        if garbage > 0 {
            let there = async |world: &Self| Ok(world.quiet_letters().await);
            if self.holds_within(PATIENCE, there).await?.is_none() {
                self.report.violated("a job that cannot be read did not become a dead letter after a crash");
            }
            self.decide_letters(garbage).await?;
        }
        Ok(if crashed { Took::Place } else { Took::No(point) })
    }

    /// Ends armed processes; those that died must have died at the point. Whether one did.
    async fn end_armed(&mut self, point: &'static str, names: &[&'static str]) -> Result<bool, ChaosError> {
        let mut crashed = false;
        for name in names {
            let dead = self.rig.dead().iter().any(|dead| dead == name);
            let status = if dead { self.rig.ended(name).await? } else { self.rig.stop(name).await? };
            if status.signal() == Some(SIGABRT) {
                *self.report.crashes.entry(point).or_default() += 1;
                crashed = true;
            } else if !status.success() {
                self.report.violated(format!("{name}, armed with {point}, ended with {status}"));
            }
        }
        Ok(crashed)
    }

    /// Whether the one dead letter has been moved and forgotten.
    async fn quiet_letters(&self) -> bool {
        let in_redis = self.queue.status().await.map_or(1, |status| status.dead);
        in_redis == 0 && self.waiting_letters().await.is_ok_and(|letters| !letters.is_empty())
    }
}
