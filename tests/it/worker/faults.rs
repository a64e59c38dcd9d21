//! What goes wrong while jobs are written, and what is told afterwards.

use futures_util::StreamExt;
use scoreline::domain::clock::Micros;
use scoreline::domain::event::Event;
use scoreline::domain::ids::GameId;
use scoreline::queue::payload::PersistEventsEncoder;
use scoreline::runtime::lifecycle::Lifecycle;
use scoreline::store::dead_letter_intake::{self, NewDeadLetter};
use uuid::Uuid;

use super::{Bench, SOON, event, job, now};
use crate::support::eventually;

impl Bench {
    /// Stops the worker and starts one that remembers nothing.
    async fn replace_worker(&mut self) {
        self.lifecycle.soft.cancel();
        eventually("the worker signs off", SOON, || async { self.queue.status().await.unwrap().workers.is_empty() })
            .await;
        self.lifecycle = Lifecycle::default();
        self.start_worker().await;
    }

    /// Queues a job under an id, as ingest does.
    fn queue_as(&self, id: &str, bytes: &[u8]) {
        let mut redis = self.redis.connection();
        redis::cmd("HSET").arg("{sl:q0}:jobs").arg(id).arg(bytes).exec(&mut redis).unwrap();
        redis::cmd("RPUSH").arg("{sl:q0}:high").arg(id).exec(&mut redis).unwrap();
        redis::cmd("PUBLISH").arg("sl:q0:wake").arg("1").exec(&mut redis).unwrap();
    }
}

#[tokio::test]
async fn a_stored_row_is_not_its_jobs_fault() {
    let mut bench = Bench::new().await;
    let bytes = job(1, &[event(1, "p-1", r#"{"score":5}"#)]);
    bench.push("one", &bytes).await;
    bench.start_worker().await;
    bench.drained().await;
    bench.replace_worker().await;
    bench.push("two", &bytes).await;
    bench.drained().await;
    assert_eq!((bench.events().await, bench.facts().await.len()), (1, 1));
    assert_eq!(bench.count("SELECT count(*) FROM dead_letters").await, 0);
    bench.nothing_was_charged().await;
}

#[tokio::test]
async fn a_connection_that_ends_within_a_transaction_is_nobodys_fault() {
    let bench = Bench::new().await;
    bench.start_worker().await;
    let mut held = bench.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM games WHERE id = 1 FOR UPDATE").execute(&mut *held).await.unwrap();
    bench.push("unlucky", &job(1, &[event(1, "p-1", r#"{"score":5}"#)])).await;
    let backend = bench.waits_for_a_lock().await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(backend).execute(bench.pool()).await.unwrap();
    held.rollback().await.unwrap();
    bench.drained().await;
    assert_eq!((bench.events().await, bench.facts().await.len()), (1, 1));
    assert_eq!(bench.count("SELECT count(*) FROM dead_letters").await, 0);
    bench.nothing_was_charged().await;
}

#[tokio::test]
async fn a_refused_event_is_kept_once_over_many_runs() {
    let bench = Bench::new().await;
    bench.start_worker().await;
    // No JSON: what the door would have refused.
    let bytes = job(1, &[event(1, "p-1", r#"{"score":5}"#), event(2, "p-1", "{")]);
    let id = format!("{}-{}-h", now().0, Uuid::new_v4());
    for _ in 0..2 {
        bench.queue_as(&id, &bytes);
        bench.drained().await;
    }
    assert_eq!((bench.events().await, bench.facts().await.len()), (1, 1));
    assert_eq!(bench.count("SELECT count(*) FROM dead_letters").await, 1);
}

/// Identity is game, `event_id` and `occurred_at`: a batch may hold two that differ in the moment alone.
#[tokio::test]
async fn refused_events_that_share_an_event_id_have_a_letter_each() {
    let bench = Bench::new().await;
    bench.start_worker().await;
    let first = event(1, "p-1", "{");
    let second = Event { occurred_at: Micros(first.occurred_at.0 + 1_000), ..first };
    let bytes = job(1, &[first, second, event(2, "p-1", "{}")]);
    let id = format!("{}-{}-h", now().0, Uuid::new_v4());
    for _ in 0..2 {
        bench.queue_as(&id, &bytes);
        bench.drained().await;
    }
    assert_eq!(bench.events().await, 1);
    let moments: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT body->'events'->0->>'occurred_at' FROM dead_letters")
            .fetch_all(bench.pool())
            .await
            .unwrap();
    assert_eq!(moments.len(), 2, "{moments:?}");
    assert_eq!(bench.count("SELECT count(*) FROM dead_letters").await, 2);
}

/// Earlier versions named letters without the moment: that letter stays the event's, and is no other's.
#[tokio::test]
async fn a_letter_that_an_earlier_version_kept_is_its_events_and_no_others() {
    let bench = Bench::new().await;
    bench.start_worker().await;
    let first = event(2, "p-1", "{");
    let second = Event { occurred_at: Micros(first.occurred_at.0 + 1_000), ..first };
    let received_at = now();
    let earlier = NewDeadLetter {
        id: Uuid::new_v4(),
        job_id: format!("{}-{}.{}-h", received_at.0, Uuid::from_u128(1).simple(), first.event_id.simple()),
        queue: "q0".to_owned(),
        lane: "high".to_owned(),
        kind: "persist-events".to_owned(),
        game_id: Some(GameId(1)),
        reason: "data_refused".to_owned(),
        error: "no".to_owned(),
        attempts: 0,
        crashes: 0,
        payload: job(1, &[first]),
        body: None,
        received_at,
    };
    let mut connection = bench.pool().acquire().await.unwrap();
    assert!(dead_letter_intake::keep(&mut connection, &earlier).await.unwrap());
    bench.queue_as(&format!("{}-{}-h", received_at.0, Uuid::from_u128(1)), &job(1, &[first, second]));
    bench.drained().await;
    let payloads: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT payload FROM dead_letters").fetch_all(&mut *connection).await.unwrap();
    assert_eq!(payloads.len(), 2);
    assert!(payloads.contains(&job(1, &[first])) && payloads.contains(&job(1, &[second])));
}

#[tokio::test]
async fn a_stopping_worker_gives_back_what_it_cannot_store() {
    let mut bench = Bench::new().await;
    let away = sqlx::postgres::PgPoolOptions::new().connect(&bench.database.url).await.unwrap();
    bench.start_worker_on(away.clone().into()).await;
    away.close().await;
    bench.push("unstored", &job(1, &[event(1, "p-1", r#"{"score":5}"#)])).await;
    eventually("it is in hand", SOON, || async { bench.queue.status().await.unwrap().held() == 1 }).await;
    bench.lifecycle.soft.cancel();
    bench.lifecycle.hard.cancel();
    bench.replace_worker().await;
    bench.drained().await;
    assert_eq!((bench.events().await, bench.facts().await.len()), (1, 1));
    assert_eq!(bench.count("SELECT count(*) FROM dead_letters").await, 0);
}

/// Before the worker signs off, so that what they say of the job counts.
#[tokio::test]
async fn writers_that_stop_let_go_of_what_they_could_not_store() {
    let mut bench = Bench::new().await;
    let away = sqlx::postgres::PgPoolOptions::new().connect(&bench.database.url).await.unwrap();
    let writers = Lifecycle::default();
    bench.start_worker_apart(&[], away.clone().into(), &writers).await;
    away.close().await;
    bench.push("unstored", &job(1, &[event(1, "p-1", r#"{"score":5}"#)])).await;
    eventually("it is in hand", SOON, || async { bench.queue.status().await.unwrap().held() == 1 }).await;
    writers.hard.cancel();
    eventually("it has been let go", SOON, || async { bench.queue.status().await.unwrap().held() == 0 }).await;
    bench.replace_worker().await;
    bench.drained().await;
    assert_eq!((bench.events().await, bench.facts().await.len()), (1, 1));
    bench.nothing_was_charged().await;
}

#[tokio::test]
async fn a_board_for_servers_counts_what_a_server_key_sent_and_nothing_else() {
    let bench = Bench::new().await;
    sqlx::raw_sql(
        r#"UPDATE leaderboard_generations SET spec = spec || '{"server_only": true}';
           UPDATE leaderboards SET spec = spec || '{"server_only": true}';"#,
    )
    .execute(bench.pool())
    .await
    .unwrap();
    bench.start_worker().await;
    let (of_client, of_server) = (event(1, "client", r#"{"score":5}"#), event(2, "server", r#"{"score":6}"#));
    bench.push("of-a-client", &job(1, &[of_client])).await;
    let mut encoder = PersistEventsEncoder::new(GameId(1), Uuid::from_u128(1), true, 0);
    encoder.push(&of_server);
    bench.push("of-a-server", &encoder.finish()).await;
    bench.drained().await;
    assert_eq!(bench.facts().await, [("server".to_owned(), 6)]);
    let from_server: Vec<bool> =
        sqlx::query_scalar("SELECT from_server FROM events ORDER BY event_id").fetch_all(bench.pool()).await.unwrap();
    assert_eq!(from_server, [false, true]);
}

#[tokio::test]
async fn facts_are_announced_when_they_are_committed() {
    let bench = Bench::new().await;
    let mut listening = redis::Client::open(bench.redis.url.as_str()).unwrap().get_async_pubsub().await.unwrap();
    listening.subscribe(bench.queue.keys().facts_channel()).await.unwrap();
    bench.start_worker().await;
    bench.push("scores", &job(1, &[event(1, "p-1", r#"{"score":5}"#)])).await;
    let mut announced = listening.on_message();
    tokio::time::timeout(SOON, announced.next()).await.expect("facts are announced").unwrap();
    assert_eq!(bench.facts().await, [("p-1".to_owned(), 5)]);
}

/// By COPY, and by INSERT where a repeat is likely.
#[tokio::test]
async fn a_payload_is_stored_byte_for_byte_either_way() {
    let bench = Bench::new().await;
    bench.start_worker().await;
    let payload = r#"{ "b":1.50, "a": [1e3,-0.0 ,1e307] , "a ":"\u00e9\/" }"#;
    let first = event(1, "p-1", payload);
    bench.push("copied", &job(1, &[first])).await;
    bench.drained().await;
    bench.push("inserted", &job(1, &[first, event(2, "p-1", payload)])).await;
    bench.drained().await;
    let stored: Vec<String> =
        sqlx::query_scalar("SELECT payload::text FROM events").fetch_all(bench.pool()).await.unwrap();
    assert_eq!(stored, [payload, payload]);
}
