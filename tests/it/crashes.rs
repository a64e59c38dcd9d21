//! Real processes that die between two steps that must not come apart, and what is left when they are started again
//! (ARCHITECTURE.md#invariants). Only a build with the feature `failpoints` can die at its crash points.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;

use scoreline::bench::rig::Role;
use scoreline::domain::clock::Micros;
use scoreline::domain::event::Event;
use scoreline::domain::ids::GameId;
use scoreline::queue::payload::PersistEventsEncoder;
use scoreline::queue::{Lane, Queue, Timeouts};
use scoreline::runtime::clock;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::eventually;
use crate::support::system::{Aggregate, PATIENCE, System, system};
use scoreline::chaos::accounts::Account;

/// Events of a batch.
const BATCH: usize = 20;
const SIGABRT: i32 = 6;

impl System {
    /// Starts `role`, which is stopped, and lets it die at `point` (`point=return`: the first time).
    async fn die(&mut self, role: Role, point: &str) {
        self.rig.spawn(role, role.name(), &[("FAILPOINTS", point)]).unwrap();
        let status = self.rig.ended(role.name()).await.unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "{} did not die at {point}: {status}", role.name());
    }

    /// Lets `role` die at `point` and starts it again.
    async fn crash(&mut self, role: Role, point: &str) {
        self.rig.stop(role.name()).await.unwrap();
        self.die(role, point).await;
        self.rig.start(role).await.unwrap();
    }

    /// Queues a score of each player as ingest does, as if it had been received when it was reached. Waits until all
    /// are stored; returns the events.
    async fn receive(&self, at: Micros, scores: &[(&str, i64)]) -> Vec<Uuid> {
        let mut encoder = PersistEventsEncoder::new(GameId(1), Uuid::new_v4(), false, 0);
        let stored = self.stored().await;
        let mut ids = Vec::new();
        for (player_id, score) in scores {
            let (event_id, payload) = (Uuid::new_v4(), json!({"score": score}).to_string());
            let event_type = "game_ended";
            let (session_id, schema_version, payload) = (None, None, payload.as_str());
            encoder.push(&Event {
                event_id,
                event_type,
                player_id,
                session_id,
                schema_version,
                occurred_at: at,
                payload,
            });
            ids.push(event_id);
        }
        let (mut redis, id) = (self.redis.connection(), format!("{}-{}-h", at.0, Uuid::new_v4()));
        redis::cmd("HSET").arg("{sl:q0}:jobs").arg(&id).arg(encoder.finish()).exec(&mut redis).unwrap();
        redis::cmd("RPUSH").arg("{sl:q0}:high").arg(&id).exec(&mut redis).unwrap();
        redis::cmd("PUBLISH").arg("sl:q0:wake").arg("1").exec(&mut redis).unwrap();
        self.progress_to(stored + ids.len() as i64).await;
        ids
    }

    async fn progress_to(&self, stored: i64) {
        eventually("the events are stored", PATIENCE, || async { self.stored().await == stored }).await;
    }

    async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
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
    // The first group is of what waited, so there are scores in it.
    let before_commit = ["persist_events::before_commit=return", "persist_events::before_commit=1*off->return"];
    dies_at(Role::Worker, &[before_commit[0], before_commit[1], "persist_events::before_settle=return"]).await;
}

#[tokio::test]
async fn cron_that_dies_between_commit_publish_and_clear_publishes_what_it_committed() {
    dies_at(Role::Cron, &["fold::after_commit=1*off->return", "publish::after_redis=1*off->return"]).await;
}

/// Later scores would publish again what was lost; here there are none.
#[tokio::test]
async fn what_cron_committed_before_it_died_is_published_though_nobody_plays_on() {
    let mut system = system().await;
    system.start_all().await;
    let mut account = Account::default();
    for (point, player) in [("fold::after_commit=return", "first"), ("publish::after_redis=return", "second")] {
        system.rig.stop("cron").await.unwrap();
        account.sent.extend(system.receive(clock::system().now(), &[(player, 5)]).await);
        system.die(Role::Cron, point).await;
        system.rig.start(Role::Cron).await.unwrap();
    }
    account.acknowledged = account.sent.clone();
    system.settle(&[account]).await;
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
    for point in ["recompute::after_chunk=return", "recompute::before_swap=return", "recompute::after_swap=return"] {
        system.die(Role::Cron, point).await;
    }
    system.rig.start(Role::Cron).await.unwrap();
    accounts.extend(load.stop().await);
    eventually("the board is swapped in", PATIENCE, || system.is_quiet()).await;
    system.check_board("later", Aggregate::Sum).await;
    system.settle(&accounts).await;
}

/// Posts a batch under an `Idempotency-Key`; `None`: the connection ended without an answer.
async fn post_keyed(address: SocketAddr, key: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Idempotency-Key: lost-with-its-answer\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // However a connection ends with its process: what counts is whether there was an answer.
    let _ = stream.read_to_string(&mut answer).await;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The events have no identity of their own: only the receipt that Redis remembers keeps them from counting twice.
#[tokio::test]
async fn a_lost_receipt_is_given_by_the_next_ingest() {
    let mut system = system().await;
    system.start_all().await;
    system.rig.stop("ingest").await.unwrap();
    system.rig.spawn(Role::Ingest, "ingest", &[("FAILPOINTS", "ingest::after_enqueue=return")]).unwrap();
    system.rig.ready("ingest").await.unwrap();
    let event =
        |player: &str, score: i64| json!({"type": "game_ended", "player_id": player, "payload": {"score": score}});
    let body = json!([event("a", 3), event("b", 5), event("a", 7)]).to_string();
    assert_eq!(post_keyed(system.rig.ingest, &system.server_key, &body).await, None);
    assert_eq!(system.rig.ended("ingest").await.unwrap().signal(), Some(SIGABRT));
    system.rig.start(Role::Ingest).await.unwrap();
    let (status, receipt) = post_keyed(system.rig.ingest, &system.server_key, &body).await.unwrap();
    assert_eq!(status, 202, "{receipt}");
    let again = post_keyed(system.rig.ingest, &system.server_key, &body).await.unwrap();
    assert_eq!(again, (202, receipt.clone()));
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    let assigned = receipt["results"].as_array().unwrap().iter();
    let sent: HashSet<Uuid> = assigned.map(|row| row["event_id"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!((sent.len(), receipt["accepted"].as_u64()), (3, Some(3)));
    let account = Account { acknowledged: sent.clone(), sent, ..Account::default() };
    system.settle(&[account]).await;
}

#[tokio::test]
async fn a_worker_that_dies_between_keeping_and_forgetting_dead_letters_keeps_each_once() {
    let mut system = system().await;
    system.rig.start(Role::Worker).await.unwrap();
    let queue = Queue::connect(&system.redis.url, "sl", "q0", Timeouts::default()).await.unwrap();
    for name in ["one", "two", "three"] {
        queue.push(Lane::High, name, b"nonsense").await.unwrap();
    }
    system.crash(Role::Worker, "dead_letters::before_forget=return").await;
    eventually("Redis has forgotten them", PATIENCE, || async { system.jobs() == 0 }).await;
    assert_eq!(system.count("SELECT count(*) FROM dead_letters WHERE reason = 'unknown_version'").await, 3);
    assert_eq!(system.count("SELECT count(*) FROM dead_letters").await, 3);
}

#[tokio::test]
async fn cron_that_dies_between_freezing_a_period_and_ranking_it_ranks_it_when_it_is_back() {
    let mut system = system().await;
    system.start_all().await;
    system.apply(
        &json!({"slug": "hourly", "event_type": "game_ended", "score": "/score", "reset": {"cron": "0 * * * *"}}),
    );
    eventually("the board is live", PATIENCE, || system.is_quiet()).await;
    system.rig.stop("cron").await.unwrap();
    let ended = clock::system().now().plus_seconds(-3 * 3_600);
    let events = system.receive(ended, &[("a", 3), ("b", 5), ("c", 5)]).await;
    system.die(Role::Cron, "close::after_freeze=return").await;
    assert_eq!(
        system.count("SELECT count(*) FROM leaderboard_periods WHERE state = 'closed' AND closed_at IS NULL").await,
        1
    );
    assert_eq!(system.count("SELECT count(*) FROM period_standings").await, 0);
    // Somebody who scores now is late for what is frozen.
    let late = system.receive(ended.plus_seconds(1), &[("d", 9)]).await;
    system.rig.start(Role::Cron).await.unwrap();
    eventually("the period is closed", PATIENCE, || async {
        system.count("SELECT count(*) FROM leaderboard_periods WHERE state = 'closed' AND closed_at IS NOT NULL").await
            == 1
    })
    .await;
    let standings: Vec<(i64, String)> = sqlx::query_as("SELECT rank, player_id FROM period_standings ORDER BY rank")
        .fetch_all(&system.pool)
        .await
        .unwrap();
    let names: Vec<&str> = standings.iter().map(|(_, player)| player.as_str()).collect();
    assert_eq!(names, ["b", "c", "a"], "as it was frozen");
    let sent: HashSet<Uuid> = events.into_iter().chain(late).collect();
    system.settle(&[Account { acknowledged: sent.clone(), sent, ..Account::default() }]).await;
}

#[tokio::test]
async fn cron_that_dies_between_counting_a_month_and_dropping_it_counts_it_once() {
    let mut system = system().await;
    system.start_all().await;
    let long_ago = clock::system().now().plus_seconds(-75 * 86_400);
    system.receive(long_ago, &[("a", 3), ("b", 5), ("a", 7)]).await;
    eventually("they are folded", PATIENCE, || system.is_quiet()).await;
    system.rig.stop("cron").await.unwrap();
    system.rig.environment.push(("RETENTION_DAYS".to_owned(), "8".to_owned()));
    system.die(Role::Cron, "retention::after_fold=return").await;
    assert_eq!(system.stored().await, 3, "counted, and not dropped yet");
    // Who finds the lease of the dead one at the start looks again at the next tick, minutes later.
    eventually("the lease of the dead one ends", PATIENCE, || async {
        let held = "SELECT count(*) FROM leases WHERE name = 'job-drop-old-months' AND expires_at > clock_timestamp()";
        system.count(held).await == 0
    })
    .await;
    system.rig.start(Role::Cron).await.unwrap();
    eventually("the month is dropped", PATIENCE, || async { system.stored().await == 0 }).await;
    // Nothing but the baseline explains the entries now.
    assert_eq!(system.count("SELECT count(*) FROM entry_baseline").await, 2 * 2);
    assert_eq!(system.cli(&["audit", "--json"])["clean"], true);
}
