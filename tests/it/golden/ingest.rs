//! Every refusal of the public HTTP door of ingest, as its client reads it.

use std::sync::Arc;

use axum::response::IntoResponse as _;
use scoreline::http::body::BodyError;
use scoreline::http::problem::Problem;
use scoreline::ingest::DoorSettings;
use serde_json::json;

use super::{answer_text, compare};
use crate::ingest::door::{self, Answer, CLIENT, Door, SERVER, event};
use crate::support::eventually;
use crate::support::redis::{TestRedis, redis};

/// What both doors say before any of their routes is asked.
#[tokio::test]
async fn what_both_doors_refuse_is_told_the_same() {
    let mut found = String::new();
    for problem in [
        Problem::key_missing(),
        Problem::key_unknown(),
        Problem::too_many_unknown_keys(60),
        Problem::too_many_connections(),
        Problem::no_body(BodyError::TooLarge, 65_536),
        Problem::no_body(BodyError::Stalled, 65_536),
        Problem::no_body(BodyError::BrokeOff, 65_536),
        Problem::internal_error(),
    ] {
        let body = String::from_utf8(problem.body()).unwrap();
        let (what, status) = (problem.code, problem.status.as_u16());
        let response = problem.into_response();
        let headers = response.headers().iter();
        let headers: Vec<_> =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        found += &answer_text(what, status, &headers, &body);
    }
    let raw = Problem::too_many_connections().raw_answer(super::stored::NOW);
    found += &format!(
        "## as bytes, before anything of a request is read\n{}\n",
        String::from_utf8(raw).unwrap().replace('\r', "\\r")
    );
    compare("refusals/both-doors.txt", &found);
}

/// An answer as text. What Redis's clock decides is left out: when a window ends.
fn told(what: &str, answer: &Answer) -> String {
    let by_clock = ["address_limit", "events_over_limit", "idempotency_full", "idempotency_exhausted"];
    let mut text = answer.text.clone();
    let mut headers: Vec<(String, String)> = answer.headers.clone().into_iter().collect();
    for (name, value) in &mut headers {
        if name == "ratelimit"
            && let Some((state, _)) = value.split_once(";t=")
        {
            *value = format!("{state};t=<seconds>");
        }
        if name == "retry-after" && by_clock.contains(&answer.code()) {
            text = text.replace(&format!("\"retry_after\":{value}"), "\"retry_after\":<seconds>");
            *value = "<seconds>".to_owned();
        }
        if name == "content-length" && by_clock.contains(&answer.code()) {
            *value = "<length>".to_owned();
        }
    }
    if let Some(id) = answer.body["batch_id"].as_str() {
        text = text.replace(id, "<batch>");
    }
    answer_text(what, answer.status, &headers, &text)
}

/// A door of its own among those of one Redis.
fn settings(redis: &TestRedis, prefix: &str) -> DoorSettings {
    let mut settings = door::settings(redis);
    settings.redis.redis_prefix = prefix.to_owned();
    settings
}

async fn one(door: &Door, what: &str, key: &str, headers: &[(&str, &str)], body: &[u8], found: &mut String) {
    *found += &told(what, &door.send(key, headers, body).await);
}

#[tokio::test]
async fn requests_that_cannot_be_taken_are_refused_the_same() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let mut found = String::new();
    let good = event(1, "t", "p").to_string();
    for body in [&b""[..], b"[{\"type\":", b"[NaN]", b"{]", b"[\"\xff\"]", b"7", b"{\"events\":7}", b"[]", b"[7]"] {
        let what = format!("body {}", body.escape_ascii());
        one(&door, &what, SERVER, &[], body, &mut found).await;
    }
    for header in [
        ("content-type", "text/plain"),
        ("content-encoding", "compress"),
        ("content-encoding", "gzip"),
        ("idempotency-key", "too-short"),
    ] {
        one(&door, &format!("{}: {}", header.0, header.1), SERVER, &[header], good.as_bytes(), &mut found).await;
    }
    let long = json!((0..101).map(|number| event(number, "t", "p")).collect::<Vec<_>>()).to_string();
    one(&door, "101 events", SERVER, &[], long.as_bytes(), &mut found).await;
    one(&door, "a body of too many bytes", SERVER, &[], &vec![b' '; 512 * 1024 + 1], &mut found).await;
    one(&door, "an unknown key", "unknown", &[], good.as_bytes(), &mut found).await;
    for (method, path, headers) in [
        ("POST", "/v1/nothing", vec![]),
        ("GET", "/v1/events", vec![]),
        ("POST", "/v1/events", vec![]),
        ("POST", "/v1/events", vec![("authorization", "Digest abc")]),
    ] {
        let answer = door.request(method, path, &headers, good.as_bytes()).await;
        found += &told(&format!("{method} {path} {headers:?}"), &answer);
    }
    let keyed = [("idempotency-key", "the-key-of-a-batch")];
    assert_eq!(door.send(SERVER, &keyed, good.as_bytes()).await.status, 202);
    let other = event(2, "t", "p").to_string();
    one(&door, "another body under a key", SERVER, &keyed, other.as_bytes(), &mut found).await;
    let name = "{sl:q0}:idem:1:2:the-key-of-a-newer";
    ::redis::cmd("SET").arg(name).arg(&[9u8; 80][..]).exec(&mut redis.connection()).unwrap();
    let newer = [("idempotency-key", "the-key-of-a-newer")];
    one(&door, "a receipt of a newer version", SERVER, &newer, good.as_bytes(), &mut found).await;
    door.directory.store(Arc::default());
    one(&door, "no directory", SERVER, &[], good.as_bytes(), &mut found).await;
    compare("refusals/ingest.txt", &found);
}

#[tokio::test]
async fn limits_refuse_the_same() {
    let redis = redis();
    let mut found = String::new();
    let (first, second) = (event(1, "t", "p").to_string(), event(2, "t", "p").to_string());

    let mut few = settings(&redis, "a");
    few.limits.rate_limit_requests = 1;
    let door = door::open(few).await;
    assert_eq!(door.send(CLIENT, &[], first.as_bytes()).await.status, 202);
    one(&door, "an address over its limit", CLIENT, &[], second.as_bytes(), &mut found).await;

    let demo = door::game(1, "demo", Some(1), None);
    let door = door::open_with(settings(&redis, "b"), door::directory(demo)).await;
    assert_eq!(door.send(CLIENT, &[], first.as_bytes()).await.status, 202);
    one(&door, "a player over the limit", CLIENT, &[], second.as_bytes(), &mut found).await;

    for (of_game, of_all) in [(1, 100), (100, 1)] {
        let mut receipts = settings(&redis, if of_game == 1 { "c" } else { "d" });
        receipts.ingest.max_idempotency_keys = of_game;
        receipts.ingest.max_idempotency_keys_in_all = of_all;
        let door = door::open(receipts).await;
        let mut refused = None;
        for number in 0..50 {
            let key = format!("the-key-of-batch-{number:04}");
            let answer = door.send(SERVER, &[("idempotency-key", &key)], first.as_bytes()).await;
            if answer.status != 202 {
                refused = Some(answer);
                break;
            }
        }
        found += &told("too many receipts", &refused.unwrap());
    }

    for share in [50, 100] {
        let mut small = settings(&redis, if share == 50 { "e" } else { "f" });
        small.queue.queue_max_jobs = 20;
        small.queue.queue_game_share = share;
        let door = door::open(small).await;
        let mut answer = door.send(SERVER, &[], first.as_bytes()).await;
        for _ in 0..20 {
            if answer.status != 202 {
                break;
            }
            answer = door.send(SERVER, &[], first.as_bytes()).await;
        }
        found += &told(&format!("a game may fill {share} percent of the queue"), &answer);
    }

    let mut unlimited = settings(&redis, "g");
    unlimited.limits.rate_limit_requests = 0;
    let door = door::open(unlimited).await;
    for guess in 0..scoreline::http::failed_guesses::MAX_FAILED_GUESSES {
        assert_eq!(door.send(&format!("guess-{guess}"), &[], first.as_bytes()).await.code(), "key_unknown");
    }
    one(&door, "too many guesses at keys", "another", &[], first.as_bytes(), &mut found).await;
    compare("refusals/ingest-limits.txt", &found);
}

#[tokio::test]
async fn a_queue_that_does_not_take_it_refuses_the_same() {
    let mut redis = redis();
    let mut found = String::new();
    let body = event(1, "t", "p").to_string();
    let doors = [door::open(settings(&redis, "a")).await, door::open(settings(&redis, "b")).await];
    let mut connection = redis.connection();
    // Somebody else's value stands where jobs are.
    ::redis::cmd("SET").arg("{a:q0}:high").arg("x").exec(&mut connection).unwrap();
    ::redis::cmd("SET").arg("{a:q0}:low").arg("x").exec(&mut connection).unwrap();
    one(&doors[0], "a queue that answers with an error", SERVER, &[], body.as_bytes(), &mut found).await;
    ::redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1mb"]).exec(&mut connection).unwrap();
    eventually("memory is full", std::time::Duration::from_secs(10), async || {
        doors[1].send(SERVER, &[], body.as_bytes()).await.code() == "queue_memory_full"
    })
    .await;
    one(&doors[1], "a queue without memory", SERVER, &[], body.as_bytes(), &mut found).await;
    redis.kill();
    eventually("the queue is away", std::time::Duration::from_secs(10), async || {
        doors[1].send(SERVER, &[], body.as_bytes()).await.code() == "queue_unreachable"
    })
    .await;
    one(&doors[1], "a queue that is away", SERVER, &[], body.as_bytes(), &mut found).await;
    compare("refusals/ingest-queue.txt", &found);
}
