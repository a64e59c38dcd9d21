//! `persist-events` over the real queue and a real database: exactly once, each job settled on its own.

mod blame;
mod faults;
mod letters;
mod months;
mod not_its_fault;
mod roll_out;

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use scoreline::domain::clock::Micros;
use scoreline::domain::event::Event;
use scoreline::domain::ids::GameId;
use scoreline::domain::packed_facts;
use scoreline::domain::retry::RetryPolicy;
use scoreline::queue::payload::{Kind, PersistEventsEncoder};
use scoreline::queue::{Lane, Queue, Timeouts, WorkerOptions, run_worker};
use scoreline::runtime::clock;
use scoreline::runtime::lifecycle::Lifecycle;
use scoreline::store::pool::Pool;
use scoreline::workers::health::WorkHealth;
use scoreline::workers::persist_events::PersistEvents;
use scoreline::workers::settings::WorkerConfig;
use scoreline::workers::{Jobs, dead_letters};
use uuid::Uuid;

use crate::support::postgres::{TestDatabase, database};
use crate::support::redis::{TestRedis, redis};
use crate::support::{self, eventually};

const SOON: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    worker: WorkerConfig,
}

/// A worker in this process, with the game 1 and one leaderboard on `game_ended`.
struct Bench {
    database: TestDatabase,
    redis: TestRedis,
    queue: Queue,
    lifecycle: Lifecycle,
    health: Arc<WorkHealth>,
}

/// Attempts that cost something are over in a moment, so that a test need not wait for their end.
fn impatient(_: Kind) -> RetryPolicy {
    RetryPolicy { first_delay: Duration::from_millis(10), ..RetryPolicy::default() }
}

impl Bench {
    async fn new() -> Self {
        let (database, redis) = (database().await, redis());
        sqlx::raw_sql(
            r#"INSERT INTO games (slug, name) VALUES ('demo', 'Demo');
               INSERT INTO leaderboards (game_id, slug, spec)
               VALUES (1, 'global', '{"slug":"global","event_type":"game_ended","score":"/score"}');
               INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state)
               SELECT id, 1, spec, 'live' FROM leaderboards;"#,
        )
        .execute(&database.pool)
        .await
        .unwrap();
        let queue = Queue::connect(&redis.url, "sl", "q0", Timeouts::default()).await.unwrap();
        Self { database, redis, queue, lifecycle: Lifecycle::default(), health: Arc::default() }
    }

    fn pool(&self) -> &Pool {
        &self.database.pool
    }

    async fn start_worker(&self) {
        self.start_worker_on(self.pool().clone()).await;
    }

    async fn start_worker_on(&self, pool: Pool) {
        self.start_worker_with(&[], pool).await;
    }

    async fn start_worker_with(&self, settings: &[&str], pool: Pool) {
        self.start_worker_apart(settings, pool, &self.lifecycle).await;
    }

    /// Its writers hear of a stop from `writers`.
    async fn start_worker_apart(&self, settings: &[&str], pool: Pool, writers: &Lifecycle) {
        let config = Settings::parse_from([&["test"], settings].concat()).worker;
        let health = Arc::clone(&self.health);
        let persist_events = PersistEvents::start(&config, pool, "q0", health, writers).await.unwrap();
        let grace = Duration::from_secs(2);
        let options = WorkerOptions { grace, retry: impatient, ..WorkerOptions::default() };
        tokio::spawn(run_worker(self.queue.clone(), options, Jobs { persist_events }, self.lifecycle.clone()));
        let mover = dead_letters::run(self.queue.clone(), self.pool().clone(), "q0".to_owned(), self.lifecycle.clone());
        tokio::spawn(mover);
    }

    async fn push(&self, name: &str, bytes: &[u8]) {
        assert!(self.queue.push(Lane::High, name, bytes).await.unwrap());
    }

    async fn drained(&self) {
        eventually("the queue is empty", SOON, || async {
            let jobs: i64 = redis::cmd("HLEN").arg("{sl:q0}:jobs").query(&mut self.redis.connection()).unwrap();
            jobs == 0
        })
        .await;
    }

    /// Waits until somebody waits for a lock in the database; returns the backend.
    async fn waits_for_a_lock(&self) -> i32 {
        let waiting = "SELECT max(pid) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let backend = std::sync::atomic::AtomicI32::new(0);
        eventually("a transaction waits", SOON, || async {
            let pid: Option<i32> = sqlx::query_scalar(waiting).fetch_one(self.pool()).await.unwrap();
            backend.store(pid.unwrap_or_default(), std::sync::atomic::Ordering::Relaxed);
            pid.is_some()
        })
        .await;
        backend.into_inner()
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.pool()).await.unwrap()
    }

    /// Waits until the worker says that nothing can be written, and why; with that nothing has cost an attempt.
    async fn waits_for_postgres(&self, why: &str) {
        eventually("the worker says that it cannot write", SOON, || async {
            self.health.trouble(tokio::time::Instant::now()).is_some_and(|trouble| trouble.contains(why))
        })
        .await;
        self.nothing_was_charged().await;
    }

    async fn nothing_was_charged(&self) {
        let status = self.queue.status().await.unwrap();
        let charged = |what: &str| status.totals.get(what).copied().unwrap_or_default();
        assert_eq!((status.dead, charged("retried"), charged("dead")), (0, 0, 0));
    }

    /// Adds game 2, which has no leaderboard.
    async fn with_another_game(&self) {
        self.run("INSERT INTO games (slug, name) VALUES ('other', 'Other')").await;
    }

    /// What no process may do.
    async fn run(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut self.database.superuser().await).await.unwrap();
    }

    async fn events(&self) -> i64 {
        self.count("SELECT count(*) FROM events").await
    }

    /// The facts in the outbox, of every group.
    async fn facts(&self) -> Vec<(String, i64)> {
        let groups: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT facts FROM score_facts ORDER BY id").fetch_all(self.pool()).await.unwrap();
        let facts = groups.iter().flat_map(|g| packed_facts::unpack(g, |_, _| None).unwrap());
        let mut facts: Vec<_> = facts.map(|f| (f.player_id.to_owned(), f.score)).collect();
        facts.sort();
        facts
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.lifecycle.soft.cancel();
        self.lifecycle.hard.cancel();
    }
}

fn now() -> Micros {
    clock::system().now()
}

fn event<'a>(id: u128, player: &'a str, payload: &'a str) -> Event<'a> {
    Event {
        event_id: Uuid::from_u128(id),
        event_type: "game_ended",
        player_id: player,
        session_id: None,
        schema_version: None,
        occurred_at: Micros(now().0 / 1_000_000 * 1_000_000),
        payload,
    }
}

fn job(game: i32, events: &[Event<'_>]) -> Vec<u8> {
    let mut encoder = PersistEventsEncoder::new(GameId(game), Uuid::from_u128(1), false, 0);
    for event in events {
        encoder.push(event);
    }
    encoder.finish()
}

#[tokio::test]
async fn a_batch_sent_twice_is_stored_once_and_makes_its_facts_once() {
    let bench = Bench::new().await;
    let events = [event(1, "p-1", r#"{"score":5}"#), event(2, "p-2", r#"{"score":7}"#)];
    bench.push("one", &job(1, &events)).await;
    bench.push("two", &job(1, &events)).await;
    bench.start_worker().await;
    bench.drained().await;
    bench.push("three", &job(1, &events)).await;
    let fresh = event(3, "p-3", r#"{"score":9}"#);
    bench.push("four", &job(1, &[events[0], fresh])).await;
    bench.drained().await;
    assert_eq!(bench.events().await, 3);
    let expected = [("p-1", 5), ("p-2", 7), ("p-3", 9)].map(|(p, s)| (p.to_owned(), s));
    assert_eq!(bench.facts().await, expected);
}

#[tokio::test]
async fn waiting_jobs_share_a_transaction_and_pack_their_facts() {
    let bench = Bench::new().await;
    for i in 0..200u128 {
        let player = format!("p-{i}");
        bench.push(&format!("job-{i}"), &job(1, &[event(i, &player, r#"{"score":1}"#)])).await;
    }
    bench.start_worker().await;
    bench.drained().await;
    assert_eq!(bench.events().await, 200);
    assert_eq!(bench.facts().await.len(), 200);
    let transactions = bench.count("SELECT count(DISTINCT xmin::text) FROM events").await;
    assert!(transactions < 50, "{transactions} transactions for 200 jobs");
}

#[tokio::test]
async fn an_event_that_postgres_refuses_suffers_alone() {
    let bench = Bench::new().await;
    for i in 0..20u128 {
        // No JSON: the door would have refused it; here it stands for whatever the database will not take.
        let payload = if i == 7 { "{\"score\":" } else { r#"{"score":1}"# };
        let events = [event(100 + i, "p-1", r#"{"score":2}"#), event(i, "p-2", payload)];
        bench.push(&format!("job-{i}"), &job(1, &events)).await;
    }
    bench.start_worker().await;
    bench.drained().await;
    assert_eq!(bench.events().await, 39);
    let letters: Vec<(String, String, i32)> =
        sqlx::query_as("SELECT reason, kind, game_id FROM dead_letters").fetch_all(bench.pool()).await.unwrap();
    assert_eq!(letters, [("data_refused".to_owned(), "persist-events".to_owned(), 1)]);
    let body: String = sqlx::query_scalar("SELECT body::text FROM dead_letters").fetch_one(bench.pool()).await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["events"].as_array().unwrap().len(), 1);
    assert_eq!(body["events"][0]["event_id"], Uuid::from_u128(7).to_string());
}

#[tokio::test]
async fn undecodable_jobs_and_unknown_games_become_dead_letters_and_others_flow_on() {
    let bench = Bench::new().await;
    let good = event(1, "p-1", r#"{"score":1}"#);
    let mut truncated = job(1, &[event(2, "p-2", "{}")]);
    truncated.pop();
    bench.push("truncated", &truncated).await;
    bench.push("nonsense", b"nonsense").await;
    bench.push("stranger", &job(99, &[event(3, "p-3", "{}")])).await;
    bench.push("good", &job(1, &[good])).await;
    bench.start_worker().await;
    bench.drained().await;
    assert_eq!(bench.events().await, 1);
    eventually("the dead letters are in Postgres", SOON, || async {
        bench.count("SELECT count(*) FROM dead_letters").await == 3
    })
    .await;
    let reasons: Vec<String> = sqlx::query_scalar("SELECT DISTINCT reason FROM dead_letters ORDER BY reason")
        .fetch_all(bench.pool())
        .await
        .unwrap();
    assert_eq!(reasons, ["undecodable", "unknown_game", "unknown_version"]);
}

/// A definition that changes under a running worker is noticed in the transaction.
#[tokio::test]
async fn facts_follow_a_changed_definition_at_once() {
    let bench = Bench::new().await;
    bench.start_worker().await;
    bench.push("before", &job(1, &[event(1, "p-1", r#"{"score":1}"#)])).await;
    bench.drained().await;
    let mut change = bench.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM games WHERE id = 1 FOR UPDATE").execute(&mut *change).await.unwrap();
    bench.push("during", &job(1, &[event(2, "p-2", r#"{"score":1}"#)])).await;
    bench.waits_for_a_lock().await;
    sqlx::raw_sql(
        "UPDATE games SET definitions_generation = 2 WHERE id = 1;
         UPDATE leaderboard_generations SET state = 'retired';
         INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state)
         SELECT id, 2, spec || '{\"score\": 42}', 'building' FROM leaderboards;",
    )
    .execute(&mut *change)
    .await
    .unwrap();
    change.commit().await.unwrap();
    bench.drained().await;
    let stamps: Vec<i32> = sqlx::query_scalar("SELECT definitions_generation FROM events ORDER BY event_id")
        .fetch_all(bench.pool())
        .await
        .unwrap();
    assert_eq!(stamps, [1, 2]);
    assert_eq!(bench.facts().await, [("p-1".to_owned(), 1), ("p-2".to_owned(), 42)]);
}

/// It is never taken for faulty data (docs/rules.md#partitions-are-made-ahead).
#[tokio::test]
async fn a_missing_partition_is_made() {
    let bench = Bench::new().await;
    bench.start_worker().await;
    let far = Event { occurred_at: Micros::from_seconds(2_000_000_000), ..event(1, "p-1", "{}") };
    bench.push("far", &job(1, &[far, event(2, "p-1", "{}")])).await;
    bench.drained().await;
    assert_eq!(bench.events().await, 2);
    assert_eq!(bench.count("SELECT count(*) FROM dead_letters").await, 0);
}

/// A lost connection is nobody's fault (docs/rules.md#faulty-events-suffer-alone): the work is repeated in place and
/// counts once.
#[tokio::test]
async fn terminated_connections_cost_nothing() {
    let bench = Bench::new().await;
    bench.start_worker().await;
    for i in 0..300u128 {
        bench.push(&format!("job-{i}"), &job(1, &[event(i, "p-1", r#"{"score":1}"#)])).await;
        if i % 30 == 0 {
            // Everyone but this session, among them a worker in the middle of its transaction.
            sqlx::query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .execute(bench.pool())
            .await
            .ok();
        }
    }
    bench.drained().await;
    assert_eq!(bench.events().await, 300);
    assert_eq!(bench.facts().await.len(), 300);
    assert_eq!(bench.count("SELECT count(*) FROM dead_letters").await, 0);
}

#[tokio::test]
async fn moments_pass_through_postgres_exactly() {
    let database = support::postgres::database().await;
    for micros in [0, 1, -1, 1_763_719_200_123_457, -62_135_596_800_000_000] {
        let moment = Micros(micros);
        let (back, text): (Micros, String) =
            sqlx::query_as("SELECT $1, to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')")
                .bind(moment)
                .fetch_one(&database.pool)
                .await
                .unwrap();
        assert_eq!(back, moment, "{text}");
        let many: Vec<Micros> = sqlx::query_scalar("SELECT unnest($1::timestamptz[])")
            .bind(vec![moment; 2])
            .fetch_all(&database.pool)
            .await
            .unwrap();
        assert_eq!(many, [moment; 2]);
    }
}
