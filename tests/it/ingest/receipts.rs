//! Receipts under an `Idempotency-Key` where they meet limits (fine print 8 and 16), and what a job says of its batch.

use serde_json::json;

use super::door::{self, CLIENT, SERVER, event, lane, queued};
use super::limits::batch;
use crate::support::redis::{TestRedis, redis};

async fn limited(redis: &TestRedis, requests: u32, player: u32) -> door::Door {
    let mut settings = door::settings(redis);
    settings.limits.rate_limit_requests = requests;
    door::open_with(settings, door::directory(door::game(1, "demo", Some(player), None))).await
}

#[tokio::test]
async fn fine_print_16_a_batch_that_was_only_over_a_limit_is_not_remembered() {
    let redis = redis();
    let door = limited(&redis, 0, 10).await;
    door.post(SERVER, &batch(10, "p")).await.counts(10, 0, 0, 0);
    let keyed = [("idempotency-key", "first-over-the-limit")];
    let body = batch(5, "p").to_string();
    for _ in 0..2 {
        door.send(SERVER, &keyed, body.as_bytes()).await.refused(429, "events_over_limit");
    }
    // As if the minute had passed.
    let limit = "{sl:q0}:limit:player:1:p";
    assert_eq!(::redis::cmd("DEL").arg(limit).query::<u32>(&mut redis.connection()).unwrap(), 1);
    let accepted = door.send(SERVER, &keyed, body.as_bytes()).await;
    accepted.counts(5, 0, 0, 0);
    assert_eq!((accepted.status, queued(&redis)), (202, 15), "acknowledged is queued");
    // From now on it is remembered.
    let again = door.send(SERVER, &keyed, body.as_bytes()).await;
    assert_eq!((again.text, queued(&redis)), (accepted.text, 15));
}

#[tokio::test]
async fn fine_print_16_the_receipt_of_a_batch_that_was_partly_over_a_limit_says_what_was_queued() {
    let redis = redis();
    let door = limited(&redis, 0, 10).await;
    let keyed = [("idempotency-key", "partly-over-the-limit")];
    let body = batch(15, "p").to_string();
    let first = door.send(SERVER, &keyed, body.as_bytes()).await;
    first.counts(10, 0, 0, 5);
    let again = door.send(SERVER, &keyed, body.as_bytes()).await;
    assert_eq!((again.status, &again.text, queued(&redis)), (202, &first.text, 10));
}

#[tokio::test]
async fn fine_print_16_a_repeat_counts_against_its_address_like_any_request() {
    let redis = redis();
    let door = limited(&redis, 3, 0).await;
    let keyed = [("idempotency-key", "the-same-again-and-again")];
    let body = event(1, "t", "p").to_string();
    for _ in 0..3 {
        assert_eq!(door.send(CLIENT, &keyed, body.as_bytes()).await.status, 202);
    }
    door.send(CLIENT, &keyed, body.as_bytes()).await.refused(429, "address_limit");
    assert_eq!(queued(&redis), 1);
}

/// The door's clock judges events; when a batch was received is Redis's word, because late is decided by it.
#[tokio::test]
async fn fine_print_6_a_batch_is_received_at_the_time_of_redis() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let now = || -> i64 {
        let (seconds, micros): (i64, i64) = ::redis::cmd("TIME").query(&mut redis.connection()).unwrap();
        seconds * 1_000_000 + micros
    };
    let before = now();
    door.post(SERVER, &json!([event(1, "t", "p"), event(2, "game_ended", "p")])).await.counts(2, 0, 0, 0);
    let after = now();
    let jobs: Vec<String> = ::redis::cmd("HKEYS").arg("{sl:q0}:jobs").query(&mut redis.connection()).unwrap();
    assert_eq!(jobs.len(), 2);
    for job in jobs {
        let received_at: i64 = job.split('-').next().unwrap().parse().unwrap();
        assert!((before..=after).contains(&received_at), "{before} {job} {after}");
    }
}

#[tokio::test]
async fn fine_print_13_a_payload_is_queued_byte_for_byte() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let payload = r#"{ "b":1.50, "a": [1e3,-0.0 ,18446744073709551616] , "\u00e9":"\/" }"#;
    let event = event(1, "t", "p").to_string().replace(r#"{"score":4200}"#, payload);
    assert!(event.contains(payload));
    door.send(SERVER, &[], event.as_bytes()).await.counts(1, 0, 0, 0);
    let jobs: Vec<Vec<u8>> = ::redis::cmd("HVALS").arg("{sl:q0}:jobs").query(&mut redis.connection()).unwrap();
    let job = scoreline::queue::payload::decode_persist_events(&jobs[0]).unwrap();
    assert_eq!((job.events[0].payload, lane(&redis, "low").len()), (payload, 1));
}
