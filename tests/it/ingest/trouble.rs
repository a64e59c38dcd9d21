//! Back-pressure and a Redis that is full, slow or gone (docs/rules.md#a-full-redis-still-drains).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use scoreline::process::readiness::{Readiness, State};
use scoreline::process::roles::ingest::tell;
use scoreline::runtime::lifecycle::Lifecycle;
use serde_json::{Value, json};

use super::door::{self, SERVER, event, queued};
use crate::support::eventually;
use crate::support::redis::{redis, redis_with};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_full_queue_refuses_and_reopens_below_nine_tenths() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.queue.queue_max_jobs = 10;
    settings.queue.queue_game_share = 100;
    let door = door::open(settings).await;
    for number in 0..10 {
        assert_eq!(door.post(SERVER, &event(number, "t", "p")).await.status, 202);
    }
    let answer = door.post(SERVER, &event(11, "t", "p")).await;
    answer.refused(503, "queue_full");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(queued(&redis), 10);
    // From here on nobody's body is read.
    door.post(SERVER, &json!([{}])).await.refused(503, "queue_full");

    let mut connection = redis.connection();
    let finish = |connection: &mut ::redis::Connection| {
        let id: String = ::redis::cmd("LPOP").arg("{sl:q0}:low").query(connection).unwrap();
        let _: i64 = ::redis::cmd("HDEL").arg("{sl:q0}:jobs").arg(id).query(connection).unwrap();
    };
    finish(&mut connection);
    eventually("the door has looked", SOON, async || door.state.admission().jobs() == 9).await;
    door.post(SERVER, &event(11, "t", "p")).await.refused(503, "queue_full");
    finish(&mut connection);
    eventually("it reopens", SOON, async || door.post(SERVER, &event(11, "t", "p")).await.status == 202).await;
}

#[tokio::test]
async fn admission_closes_before_redis_is_full_and_reopens() {
    let redis = redis_with(&["--maxmemory", "8mb"]);
    let door = door::open(door::settings(&redis)).await;
    let mut connection = redis.connection();
    let filler = "x".repeat(100_000);
    let used = |connection: &mut ::redis::Connection| -> u64 {
        let info: String = ::redis::cmd("INFO").arg("memory").query(connection).unwrap();
        info.lines().find_map(|l| l.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
    };
    let mut fillers = 0;
    while used(&mut connection) < 8 * 1024 * 1024 * 83 / 100 {
        let _: () = ::redis::cmd("SET").arg(format!("filler:{fillers}")).arg(&filler).query(&mut connection).unwrap();
        fillers += 1;
    }
    eventually("admission closes", SOON, async || {
        let answer = door.post(SERVER, &event(1, "t", "p")).await;
        answer.status == 503 && answer.code() == "queue_memory_full"
    })
    .await;
    let before = queued(&redis);
    door.post(SERVER, &event(2, "t", "p")).await.refused(503, "queue_memory_full");
    assert_eq!(queued(&redis), before);
    for number in 0..fillers {
        let _: () = ::redis::cmd("DEL").arg(format!("filler:{number}")).query(&mut connection).unwrap();
    }
    eventually("it reopens", SOON, async || door.post(SERVER, &event(3, "t", "p")).await.status == 202).await;
}

/// The load balancer saw a ready ingest while it refused every batch.
#[tokio::test]
async fn readiness_says_that_nothing_is_taken_and_why() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.queue.queue_max_jobs = 1;
    settings.queue.queue_game_share = 100;
    let door = door::open(settings).await;
    let lifecycle = Lifecycle::default();
    let readiness = Readiness::starting("ingest", lifecycle.soft.clone());
    readiness.started();
    let telling = tokio::spawn(tell(door.state.clone(), readiness.clone(), lifecycle.clone()));
    let says = |state: State, reason: &str| {
        let report = readiness.report();
        report.ready && report.state == state && report.reasons.concat().contains(reason)
    };
    let open = || readiness.of("admission").is_some_and(|it| it.ready) && says(State::Ready, "");
    eventually("it is open", SOON, async || open()).await;
    assert_eq!(door.post(SERVER, &event(1, "t", "p")).await.status, 202);
    door.post(SERVER, &event(2, "t", "p")).await.refused(503, "queue_full");
    eventually("it says that the queue is full", SOON, async || says(State::Degraded, "QUEUE_MAX_JOBS")).await;
    let mut connection = redis.connection();
    let _: () = ::redis::cmd("DEL").arg(&["{sl:q0}:low", "{sl:q0}:jobs"]).query(&mut connection).unwrap();
    eventually("it is open again", SOON, async || open()).await;
    let _: () = ::redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1mb"]).query(&mut connection).unwrap();
    eventually("it says that the memory is full", SOON, async || says(State::Degraded, "maxmemory")).await;
    lifecycle.soft.cancel();
    telling.await.unwrap();
    assert!(!readiness.report().ready, "it stops");
}

#[tokio::test]
async fn a_redis_out_of_memory_takes_nothing_of_a_batch() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let mut connection = redis.connection();
    assert_eq!(door.post(SERVER, &event(1, "t", "p")).await.status, 202);
    let keys_before: u64 = ::redis::cmd("DBSIZE").query(&mut connection).unwrap();
    let _: () = ::redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1mb"]).query(&mut connection).unwrap();
    let body = json!([event(2, "t", "p"), event(3, "game_ended", "p")]).to_string();
    let keyed = [("idempotency-key", "while-out-of-memory")];
    door.send(SERVER, &keyed, body.as_bytes()).await.refused(503, "queue_memory_full");
    let keys: u64 = ::redis::cmd("DBSIZE").query(&mut connection).unwrap();
    assert_eq!((keys, queued(&redis)), (keys_before, 1));
}

#[tokio::test]
async fn an_answer_waits_for_redis_and_silence_is_503() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    assert_eq!(door.post(SERVER, &event(1, "t", "p")).await.status, 202);
    let mut connection = redis.connection();
    let _: () = ::redis::cmd("CLIENT").arg(&["PAUSE", "4000", "ALL"]).query(&mut connection).unwrap();
    let answer = door.post(SERVER, &event(2, "t", "p")).await;
    answer.refused(503, "queue_unreachable");
    assert!(answer.body["detail"].as_str().unwrap().contains("sending it again unchanged is safe"));
    // From here it is refused at once, without waiting for Redis again.
    let started = std::time::Instant::now();
    for _ in 0..20 {
        door.post(SERVER, &event(3, "t", "p")).await.refused(503, "queue_unreachable");
    }
    assert!(started.elapsed() < Duration::from_secs(1), "fails fast");
    eventually("it resumes", SOON, async || door.post(SERVER, &event(4, "t", "p")).await.status == 202).await;
}

/// What is logged, as one text.
#[derive(Clone, Default)]
pub struct Log(pub Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn who_is_refused_often_does_not_hide_an_outage_from_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let mut redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 0;
    let door = door::open(settings).await;
    for _ in 0..30 {
        door.send("", &[], b"[]").await.refused(401, "key_missing");
    }
    redis.kill();
    door.post(SERVER, &event(1, "t", "p")).await.refused(503, "queue_unreachable");
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines = lines.iter().filter(|line| line["target"].as_str().unwrap().starts_with("scoreline::ingest"));
    let (faults, refusals): (Vec<&Value>, Vec<&Value>) = lines.partition(|line| line["level"] == "WARN");
    assert_eq!(refusals.len(), 5, "of 30 within a second");
    assert_eq!(faults.len(), 1, "one line for one batch: {faults:?}");
    assert_eq!(faults[0]["fields"]["code"], "queue_unreachable");
    assert!(faults[0]["fields"]["error"].as_str().unwrap().starts_with("Redis is unreachable: "), "{faults:?}");
}

#[tokio::test]
async fn a_restarted_redis_has_what_was_acknowledged_and_takes_more() {
    let mut redis = redis_with(&["--appendfsync", "always"]);
    let door = door::open(door::settings(&redis)).await;
    for number in 0..20 {
        assert_eq!(door.post(SERVER, &event(number, "t", "p")).await.status, 202);
    }
    redis.kill();
    door.post(SERVER, &event(20, "t", "p")).await.refused(503, "queue_unreachable");
    redis.start();
    eventually("it resumes", Duration::from_secs(5), async || {
        door.post(SERVER, &event(21, "t", "p")).await.status == 202
    })
    .await;
    let events = super::door::lane(&redis, "low");
    for number in (0..20).chain([21]) {
        let id = event(number, "t", "p")["event_id"].as_str().unwrap().to_owned();
        assert!(events.iter().any(|(found, _)| *found == id), "{number}");
    }
}

#[tokio::test]
async fn a_push_into_an_empty_lane_is_announced_once() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let client = ::redis::Client::open(redis.url.as_str()).unwrap();
    let mut listening = client.get_async_pubsub().await.unwrap();
    listening.subscribe("sl:q0:wake").await.unwrap();
    let mut announced = listening.on_message();
    for number in 0..3 {
        door.post(SERVER, &event(number, "t", "p")).await;
    }
    door.post(SERVER, &json!([event(4, "game_ended", "p"), event(5, "t", "p")])).await;
    // A marker of our own ends the count.
    let _: i64 = ::redis::cmd("PUBLISH").arg("sl:q0:wake").arg("end").query(&mut redis.connection()).unwrap();
    let mut count = 0;
    while let Some(message) = futures_util::StreamExt::next(&mut announced).await {
        if message.get_payload::<String>().unwrap() == "end" {
            break;
        }
        count += 1;
    }
    assert_eq!(count, 2, "the first low job and the first high job");
}

#[tokio::test]
async fn start_waits_for_redis() {
    let mut redis = redis();
    redis.kill();
    let opening = tokio::spawn(door::open(door::settings(&redis)));
    redis.start();
    let door = opening.await.unwrap();
    assert_eq!(door.post(SERVER, &event(1, "t", "p")).await.status, 202);
}
