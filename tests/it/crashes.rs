//! Real processes that die between two steps that must not come apart, and what is left when they are started again
//! (invariants 1, 3, 4 and 5). Only a build with the feature `failpoints` can die at its crash points.

use std::os::unix::process::ExitStatusExt;

use scoreline::bench::rig::Role;

use crate::support::eventually;
use crate::support::system::{Aggregate, PATIENCE, System, system};

/// Events of a batch.
const BATCH: usize = 20;
const SIGABRT: i32 = 6;

impl System {
    /// Lets `role` die at `point` (`point=return`: the first time) and starts it again.
    async fn crash(&mut self, role: Role, point: &str) {
        self.rig.stop(role.name()).await.unwrap();
        self.rig.spawn(role, role.name(), &[("FAILPOINTS", point)]).unwrap();
        let status = self.rig.ended(role.name()).await.unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "{} did not die at {point}: {status}", role.name());
        self.rig.start(role).await.unwrap();
    }
}

/// Clients send while `role` dies at each of `points`.
async fn dies_at(role: Role, points: &[&str]) {
    let mut system = system().await;
    system.start_all().await;
    let load = system.load(2, BATCH);
    for point in points {
        system.crash(role, point).await;
        system.progress(1).await;
    }
    let accounts = load.stop().await;
    system.settle(&accounts).await;
}

#[tokio::test]
async fn ingest_that_dies_between_enqueue_and_answer_leaves_a_batch_that_may_be_sent_again() {
    dies_at(Role::Ingest, &["ingest::after_enqueue=return", "ingest::after_enqueue=20*off->return"]).await;
}

#[tokio::test]
async fn a_worker_that_dies_before_commit_or_between_commit_and_acknowledge_stores_events_once() {
    dies_at(Role::Worker, &["persist_events::before_commit=1*off->return", "persist_events::before_settle=return"])
        .await;
}

#[tokio::test]
async fn cron_that_dies_between_commit_publish_and_clear_publishes_what_it_committed() {
    dies_at(Role::Cron, &["fold::after_commit=1*off->return", "publish::after_redis=1*off->return"]).await;
}

#[tokio::test]
async fn a_recompute_that_dies_after_a_chunk_and_before_its_swap_goes_on_to_the_same_board() {
    let mut system = system().await;
    system.start_all().await;
    // Two chunks of game_ended.
    let load = system.load(2, 98);
    eventually("events for two chunks", PATIENCE, || async { system.stored().await > 7_500 }).await;
    let mut accounts = load.stop().await;
    // Others go on, and count for the new board too.
    let load = system.load(1, BATCH);
    system.rig.stop("cron").await.unwrap();
    system.apply_board("later", Aggregate::Sum);
    for point in ["recompute::after_chunk=return", "recompute::before_swap=return"] {
        system.rig.spawn(Role::Cron, "cron", &[("FAILPOINTS", point)]).unwrap();
        let status = system.rig.ended("cron").await.unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "{point}: {status}");
    }
    system.rig.start(Role::Cron).await.unwrap();
    accounts.extend(load.stop().await);
    eventually("the board is swapped in", PATIENCE, || system.is_quiet()).await;
    system.check_board("later", Aggregate::Sum).await;
    system.settle(&accounts).await;
}
