//! Receipts under an `Idempotency-Key` where they meet limits (docs/rules.md#a-repeat-keeps-its-receipt), and what a
//! job says of its batch.

use serde_json::json;

use super::door::{self, CLIENT, NOW, SERVER, event, lane, queued};
use super::limits::batch;
use crate::support::redis::{TestRedis, redis, redis_with};
use crate::support::{eventually, nothing_happens_for};

async fn limited(redis: &TestRedis, requests: u32, player: u32) -> door::Door {
    let mut settings = door::settings(redis);
    settings.limits.rate_limit_requests = requests;
    door::open_with(settings, door::directory(door::game(1, "demo", Some(player), None))).await
}

#[tokio::test]
async fn a_batch_wholly_over_a_limit_is_not_remembered() {
    let redis = redis();
    let door = limited(&redis, 0, 10).await;
    door.post(SERVER, &batch(10, "p")).await.counts(10, 0, 0, 0);
    let keyed = [("idempotency-key", "first-over-the-limit")];
    let body = batch(5, "p").to_string();
    for _ in 0..2 {
        door.send(SERVER, &keyed, body.as_bytes()).await.refused(429, "events_over_limit");
        let kept: Vec<String> = ::redis::cmd("KEYS").arg("*idem*").query(&mut redis.connection()).unwrap();
        assert_eq!(kept, Vec::<String>::new());
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
async fn a_batch_partly_over_a_limit_remembers_what_was_queued() {
    let redis = redis();
    let door = limited(&redis, 0, 10).await;
    let keyed = [("idempotency-key", "partly-over-the-limit")];
    let body = batch(15, "p").to_string();
    let first = door.send(SERVER, &keyed, body.as_bytes()).await;
    first.counts(10, 0, 0, 5);
    let again = door.send(SERVER, &keyed, body.as_bytes()).await;
    again.counts(10, 0, 0, 5);
    assert_eq!((&again.body["batch_id"], queued(&redis)), (&first.body["batch_id"], 10));
}

#[tokio::test]
async fn a_repeat_counts_against_its_address_like_any_request() {
    let redis = redis();
    let door = limited(&redis, 3, 0).await;
    let keyed = [("idempotency-key", "the-same-again-and-again")];
    let body = event(1, "t", "p").to_string();
    for _ in 0..3 {
        assert_eq!(door.send(CLIENT, &keyed, body.as_bytes()).await.status, 202);
    }
    // From here on nothing new comes through; what is queued is still told, as often again as the limit says.
    door.post(CLIENT, &event(2, "t", "p")).await.refused(429, "address_limit");
    for _ in 0..3 {
        assert_eq!(door.send(CLIENT, &keyed, body.as_bytes()).await.status, 202);
    }
    door.send(CLIENT, &keyed, body.as_bytes()).await.refused(429, "address_limit");
    assert_eq!(queued(&redis), 1);
}

/// The door's clock judges events; when a batch was received is Redis's word, because late is decided by it.
#[tokio::test]
async fn a_batch_is_received_at_the_time_of_redis() {
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
async fn a_payload_is_queued_byte_for_byte() {
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

#[tokio::test]
async fn nothing_is_kept_of_a_batch_of_which_nothing_was_accepted() {
    let redis = redis();
    let door = limited(&redis, 0, 0).await;
    let keyed = [("idempotency-key", "all-rejected-batch")];
    for _ in 0..2 {
        let answer = door.send(SERVER, &keyed, b"[{}]").await;
        answer.refused(422, "all_events_rejected");
    }
    let keys: Vec<String> = ::redis::cmd("KEYS").arg("*").query(&mut redis.connection()).unwrap();
    assert_eq!(keys, Vec::<String>::new());
    // The key is free for another batch.
    assert_eq!(door.send(SERVER, &keyed, event(1, "t", "p").to_string().as_bytes()).await.status, 202);
}

#[tokio::test]
async fn a_body_that_says_the_same_gets_the_same_receipt() {
    let redis = redis();
    let door = limited(&redis, 0, 0).await;
    let keyed = |kind: &'static str| [("idempotency-key", "written-anew-by-the-client"), ("content-type", kind)];
    let body = r#"{"sent_at":1,"events":[{"type":"t","player_id":"p","payload":{"a":1,"b":{"c":[1,2],"d":"\u00e9"}}},{"type":"u","player_id":"p"}]}"#;
    let first = door.send(SERVER, &keyed("application/json"), body.as_bytes()).await;
    first.counts(2, 0, 0, 0);
    for (kind, same) in [
        ("application/json", body.replace("\"sent_at\":1", "\"sent_at\":4")),
        ("application/json", format!(" {body}\n")),
        ("application/json", body.replace("[{", "[{\"sent_at\":\"2027-01-15T08:00:04Z\",")),
        (
            "application/json",
            r#"[{"payload":{"b":{"d":"é","c":[ 1,2]},"a":1},"player_id":"p","type":"t"},{"player_id":"p","type":"u"}]"#.to_owned(),
        ),
        (
            "application/x-ndjson",
            "{\"type\":\"t\",\"player_id\":\"p\",\"payload\":{\"a\":1,\"b\":{\"c\":[1,2],\"d\":\"é\"}}}\n{\"type\":\"u\",\"player_id\":\"p\"}\n"
                .to_owned(),
        ),
    ] {
        let again = door.send(SERVER, &keyed(kind), same.as_bytes()).await;
        assert_eq!((again.status, &again.text), (202, &first.text), "{same}");
    }
    for other in [
        body.replace("[1,2]", "[2,1]"),
        body.replace("\"u\"", "\"v\""),
        body.replace(",{\"type\":\"u\",\"player_id\":\"p\"}", ""),
    ] {
        let answer = door.send(SERVER, &keyed("application/json"), other.as_bytes()).await;
        answer.refused(422, "idempotency_key_reused");
    }
    assert_eq!(queued(&redis), 2);
}

#[tokio::test]
async fn a_repeat_queues_what_was_over_a_limit_under_the_same_batch() {
    let redis = redis();
    let door = limited(&redis, 0, 10).await;
    let keyed = [("idempotency-key", "what-was-over-the-limit")];
    let unnamed = json!({"type": "t", "player_id": "p"});
    let body = json!((0..15).map(|_| unnamed.clone()).collect::<Vec<_>>()).to_string();
    let first = door.send(SERVER, &keyed, body.as_bytes()).await;
    first.counts(10, 0, 0, 5);
    for _ in 0..2 {
        // As if the minute had passed.
        ::redis::cmd("DEL").arg("{sl:q0}:limit:player:1:p").exec(&mut redis.connection()).unwrap();
        let sends = (0..8).map(|_| door.send(SERVER, &keyed, body.as_bytes()));
        for again in futures_util::future::join_all(sends).await {
            again.counts(15, 0, 0, 0);
            assert_eq!(again.body["batch_id"], first.body["batch_id"]);
            assert!(again.body.get("retry_safe").is_none() && !again.headers.contains_key("retry-after"));
        }
        assert_eq!(queued(&redis), 15, "each event once");
    }
    let mut ids: Vec<String> = lane(&redis, "low").into_iter().map(|(id, _)| id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 15);
    let jobs: Vec<String> = ::redis::cmd("HKEYS").arg("{sl:q0}:jobs").query(&mut redis.connection()).unwrap();
    let batch_id = first.body["batch_id"].as_str().unwrap();
    assert!(jobs.len() == 2 && jobs.iter().all(|id| id.contains(batch_id)), "{jobs:?}");
    let later = format!("-{batch_id}.10@");
    assert_eq!(jobs.iter().filter(|id| id.contains(&later)).count(), 1, "no clock makes one id of both: {jobs:?}");
}

#[tokio::test]
async fn too_early_is_not_final_under_a_key() {
    let redis = redis();
    let door = limited(&redis, 0, 0).await;
    let keyed = [("idempotency-key", "too-early-for-the-server")];
    let mut early = event(1, "t", "p");
    early["occurred_at"] = json!((NOW + 630) * 1_000);
    let body = json!([early, event(2, "t", "p"), {"type": "t"}]).to_string();
    let first = door.send(SERVER, &keyed, body.as_bytes()).await;
    first.counts(1, 0, 2, 0);
    assert_eq!(first.body["results"][0]["code"], "occurred_at_in_future");
    door.pass(10);
    let again = door.send(SERVER, &keyed, body.as_bytes()).await;
    again.counts(1, 0, 2, 0);
    let message = again.body["results"][0]["message"].as_str().unwrap();
    assert!(message.contains("2027-01-15T08:00:10Z"), "the server's time as it is now: {message}");
    door.pass(44);
    for _ in 0..2 {
        let again = door.send(SERVER, &keyed, body.as_bytes()).await;
        again.counts(2, 0, 1, 0);
        assert_eq!((&again.body["batch_id"], queued(&redis)), (&first.body["batch_id"], 2));
    }
    // Alone it is like that too.
    let alone = json!([{"type": "t", "player_id": "p", "occurred_at": (NOW + 700) * 1_000}]).to_string();
    let keyed = [("idempotency-key", "too-early-and-alone")];
    door.send(SERVER, &keyed, alone.as_bytes()).await.refused(422, "all_events_rejected");
    door.pass(60);
    door.send(SERVER, &keyed, alone.as_bytes()).await.counts(1, 0, 0, 0);
}

#[tokio::test]
async fn a_receipt_of_the_version_before_is_found_by_its_own_rule() {
    use sha2::{Digest as _, Sha256};
    let redis = redis();
    let door = limited(&redis, 0, 0).await;
    let body = json!([event(1, "t", "p"), {"type": "t"}, event(2, "t", "p")]).to_string();
    // As the version before wrote it: accepted, rejected (16: player_id_required), over the player's limit (4).
    let mut golden = vec![1];
    golden.extend_from_slice(&Sha256::digest(body.as_bytes()));
    golden.extend_from_slice(&[7; 16]);
    golden.extend_from_slice(&(NOW * 1_000_000).to_le_bytes());
    golden.extend_from_slice(&60u32.to_le_bytes());
    golden.extend_from_slice(&[0, 16, 4]);
    let mut set = ::redis::cmd("SET");
    set.arg("{sl:q0}:idem:1:2:of-the-version-before").arg(golden).arg("PX").arg(60_000);
    set.exec(&mut redis.connection()).unwrap();
    let keyed = [("idempotency-key", "of-the-version-before")];
    door.send(SERVER, &keyed, format!("{body} ").as_bytes()).await.refused(422, "idempotency_key_reused");
    let found = door.send(SERVER, &keyed, body.as_bytes()).await;
    found.counts(2, 0, 1, 0);
    assert_eq!(found.body["batch_id"], "07070707-0707-0707-0707-070707070707");
    assert_eq!(queued(&redis), 1, "only what had to be sent again");
    // Kept anew by the rule of today, for as long as the first one.
    door.send(SERVER, &keyed, format!("{body} ").as_bytes()).await.counts(2, 0, 1, 0);
    let ttl: i64 =
        ::redis::cmd("PTTL").arg("{sl:q0}:idem:1:2:of-the-version-before").query(&mut redis.connection()).unwrap();
    assert!((1..=60_000).contains(&ttl), "{ttl}");
    let later = [("idempotency-key", "of-a-version-to-come")];
    ::redis::cmd("SET")
        .arg("{sl:q0}:idem:1:2:of-a-version-to-come")
        .arg(vec![3_u8; 80])
        .exec(&mut redis.connection())
        .unwrap();
    door.send(SERVER, &later, body.as_bytes()).await.refused(503, "idempotency_unreadable");
}

/// A client whose answer was lost must not hear "nothing was queued" of a batch that is.
#[tokio::test]
async fn a_receipt_is_told_before_anything_is_refused() {
    for apart in [false, true] {
        let (redis, limits) = (redis_with(&["--maxmemory", "64mb"]), redis());
        let mut settings = door::settings(&redis);
        settings.redis.redis_limits_url = apart.then(|| limits.url.clone().into());
        settings.limits.rate_limit_requests = 4;
        settings.queue.queue_max_jobs = 3;
        settings.queue.queue_game_share = 100;
        let open =
            async || door::open_with(settings.clone(), door::directory(door::game(1, "demo", Some(10), None))).await;
        let door = open().await;
        let keyed = [("idempotency-key", "whose-answer-was-lost")];
        let body = batch(10, "p").to_string();
        let first = door.send(CLIENT, &keyed, body.as_bytes()).await;
        first.counts(10, 0, 0, 0);
        let told = async |why: &str| {
            let again = door.send(CLIENT, &keyed, body.as_bytes()).await;
            assert_eq!((again.status, &again.text), (202, &first.text), "apart {apart}, {why}");
        };
        told("the player's limit is used up by the batch itself").await;
        door.post(SERVER, &batch(1, "q")).await.counts(1, 0, 0, 0);
        door.post(SERVER, &batch(1, "q")).await.counts(1, 0, 0, 0);
        door.post(SERVER, &batch(1, "q")).await.refused(503, "queue_full");
        told("the queue is full").await;
        ::redis::cmd("DEL").arg("{sl:q0}:jobs").arg("{sl:q0}:low").exec(&mut redis.connection()).unwrap();
        eventually("it reopens", std::time::Duration::from_secs(10), async || {
            door.state.admission().closed().is_none()
        })
        .await;
        ::redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1mb"]).exec(&mut redis.connection()).unwrap();
        eventually("memory is full", std::time::Duration::from_secs(10), async || {
            door.state.admission().closed().is_some()
        })
        .await;
        door.post(SERVER, &batch(1, "q")).await.refused(503, "queue_memory_full");
        told("memory is full").await;
        ::redis::cmd("CONFIG").arg(&["SET", "maxmemory", "64mb"]).exec(&mut redis.connection()).unwrap();
        eventually("it reopens", std::time::Duration::from_secs(10), async || {
            door.state.admission().closed().is_none()
        })
        .await;
        eventually("the address is over its limit", std::time::Duration::from_secs(10), async || {
            door.post(CLIENT, &event(1, "t", "r")).await.code() == "address_limit"
        })
        .await;
        told("the address is blocked").await;
        let again = open().await.send(CLIENT, &keyed, body.as_bytes()).await;
        assert_eq!((again.status, &again.text), (202, &first.text), "apart {apart}, by one who hears of the block now");
        // A new key of a blocked address costs no body and no place.
        let fresh = [("idempotency-key", "of-a-blocked-address")];
        door.send(CLIENT, &fresh, body.as_bytes()).await.refused(429, "address_limit");
    }
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_is_said_once() {
    let log = super::trouble::Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let redis = redis();
    let door = limited(&redis, 0, 0).await;
    assert_eq!(door.post(SERVER, &event(0, "t", "p")).await.status, 202);
    let replicas = |count: &str| {
        ::redis::cmd("CONFIG").arg(&["SET", "min-replicas-to-write", count]).exec(&mut redis.connection()).unwrap();
    };
    replicas("1");
    let started = std::time::Instant::now();
    while started.elapsed() < std::time::Duration::from_secs(3) {
        door.post(SERVER, &event(1, "t", "p")).await.refused(503, "queue_unreachable");
        nothing_happens_for(std::time::Duration::from_millis(20)).await;
    }
    replicas("0");
    eventually("it takes batches again", std::time::Duration::from_secs(10), async || {
        door.post(SERVER, &event(1, "t", "p")).await.status == 202
    })
    .await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let of_admission = text.lines().filter(|line| line.contains("scoreline::queue::enqueue::admission"));
    assert_eq!(of_admission.count(), 2, "{text}");
}
