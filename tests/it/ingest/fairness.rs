//! One game cannot hold up, slow, fill or blind another at the door.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::door::{self, CLIENT, Door, OTHER, OTHER_CLIENT, SERVER, event, queued};
use super::limits::batch;
use crate::queue::rig::{Worker, options, settle};
use crate::support::eventually;
use crate::support::redis::{TestRedis, redis, redis_with};
use scoreline::queue::{DeadJob, Lane, Queue, Settlement, Timeouts, WorkerOptions};

const SOON: Duration = Duration::from_secs(20);

/// Sends until it is refused; how many batches were queued, and the refusal.
async fn fill(door: &Door, key: &str, body: &Value) -> (usize, door::Answer) {
    for sent in 0..10_000 {
        let answer = door.post(key, body).await;
        if answer.status != 202 {
            return (sent, answer);
        }
    }
    panic!("the queue takes everything");
}

/// The jobs of each game that Redis stores, as it counts them.
fn shares(redis: &TestRedis) -> BTreeMap<i32, u64> {
    let shares: BTreeMap<i32, u64> =
        ::redis::cmd("HGETALL").arg("{sl:q0}:shares").query(&mut redis.connection()).unwrap();
    shares.into_iter().map(|(game, share)| (game, share >> 40)).collect()
}

async fn small_queue(redis: &TestRedis, max_jobs: u64) -> Door {
    let mut settings = door::settings(redis);
    settings.queue.queue_max_jobs = max_jobs;
    settings.limits.rate_limit_requests = 0;
    door::open(settings).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_game_that_fills_the_queue_leaves_room_for_others() {
    let redis = redis();
    let door = small_queue(&redis, 100).await;
    let one = event(1, "t", "p");
    let (queued_of_one, refusal) = fill(&door, SERVER, &one).await;
    refusal.refused(429, "game_share");
    assert!(refusal.headers.contains_key("retry-after"));
    assert_eq!(queued_of_one, 50, "half of the queue, by default");
    door.post(SERVER, &one).await.refused(429, "game_share");
    let (queued_of_another, refusal) = fill(&door, OTHER, &one).await;
    refusal.refused(429, "game_share");
    assert_eq!(queued_of_another, 34, "a third, and the rest is for a third");
    assert_eq!((shares(&redis)[&1], shares(&redis)[&2]), (50, 34));
    // As the jobs go the shares go with them.
    let queue = Queue::connect(&redis.url, "sl", "q0", Timeouts::default()).await.unwrap();
    let worker = Worker::start(&queue, options(), async |job| settle(&job, Settlement::Done).await);
    eventually("all are done", SOON, async || queue.status().await.is_ok_and(|s| s.jobs == 0)).await;
    worker.stop().await;
    assert_eq!(shares(&redis), BTreeMap::new());
    // For a moment, by the door's clock, a flood is refused without a question to Redis.
    door.post(SERVER, &one).await.refused(429, "game_share");
    door.pass(1);
    assert_eq!(door.post(SERVER, &one).await.status, 202);
}

/// While a release rolls out, or was rolled back, workers of before end jobs and take none off their games' shares.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_older_workers_leave_in_a_games_share_refuses_nobody() {
    let redis = redis_with(&["--maxmemory", "256mb"]);
    let door = small_queue(&redis, 100).await;
    // One job stays, so that the queue is never empty.
    assert_eq!(door.post(OTHER, &event(1, "t", "p")).await.status, 202);
    let mut connection = redis.connection();
    for number in 0..300 {
        let answer = door.post(SERVER, &event(number, "t", "p")).await;
        assert_eq!(answer.status, 202, "{number}: {answer:?}, of {:?}", shares(&redis));
        let jobs: Vec<String> = ::redis::cmd("HKEYS").arg("{sl:q0}:jobs").query(&mut connection).unwrap();
        let ended = jobs.iter().find(|id| id.contains("@1.")).unwrap();
        ::redis::pipe()
            .cmd("HDEL")
            .arg("{sl:q0}:jobs")
            .arg(ended)
            .cmd("LREM")
            .arg("{sl:q0}:low")
            .arg(1)
            .arg(ended)
            .exec(&mut connection)
            .unwrap();
    }
    assert_eq!(shares(&redis)[&2], 1, "what is there counts as before");
    // An api of before replayed a large job without counting it, and it was taken off when it was done.
    let below: u64 = (3 << 40) - 500_000;
    ::redis::cmd("HSET").arg("{sl:q0}:shares").arg(1).arg(below).exec(&mut connection).unwrap();
    let answer = door.post(SERVER, &event(300, "t", "p")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(shares(&redis), BTreeMap::from([(1, 1), (2, 1)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_and_dead_jobs_count_for_their_games_share() {
    let redis = redis();
    let door = small_queue(&redis, 100).await;
    for key in [SERVER, OTHER] {
        for _ in 0..10 {
            assert_eq!(door.post(key, &event(1, "t", "p")).await.status, 202);
        }
    }
    let before = shares(&redis);
    let queue = Queue::connect(&redis.url, "sl", "q0", Timeouts::default()).await.unwrap();
    let patient = WorkerOptions {
        retry: |_| scoreline::domain::retry::RetryPolicy { first_delay: SOON * 3, ..Default::default() },
        ..options()
    };
    let number = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let worker = Worker::start(&queue, patient, move |job| {
        let odd = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 2 == 1;
        async move {
            let later = Settlement::Retry { error: "later".to_owned() };
            settle(&job, if odd { later } else { Settlement::fail("test", "dead") }).await;
        }
    });
    eventually("half wait and half are dead", SOON, async || {
        queue.status().await.is_ok_and(|s| (s.delayed, s.dead) == (10, 10))
    })
    .await;
    worker.stop().await;
    assert_eq!(shares(&redis), before, "all are there still");
    let dead = queue.take_dead(100).await.unwrap();
    // One that was not forgotten was never taken off.
    let (kept, forgotten) = dead.split_at(3);
    for letter in kept.iter().chain(kept) {
        queue.replay(&letter.job_id, Lane::Low, &letter.bytes, letter.received_at).await.unwrap();
    }
    assert_eq!(shares(&redis), before, "replayed while it is there, each counts once");
    let letters: Vec<&DeadJob> = forgotten.iter().collect();
    for _ in 0..2 {
        queue.forget_dead(&letters).await.unwrap();
        let left = shares(&redis);
        assert_eq!(left[&1] + left[&2], 13);
    }
    for letter in dead.iter().chain(&dead) {
        queue.replay(&letter.job_id, Lane::Low, &letter.bytes, letter.received_at).await.unwrap();
    }
    assert_eq!(shares(&redis), before, "replayed, each counts again, once");
    let status = queue.status().await.unwrap();
    assert_eq!((status.lanes[1].waiting, status.jobs), (10, 20), "and waits once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_game_that_fills_memory_leaves_room_for_others() {
    let redis = redis_with(&["--maxmemory", "48mb"]);
    let door = small_queue(&redis, 1_000_000).await;
    let text = "x".repeat(30_000);
    let heavy: Vec<Value> =
        (0..13).map(|n| json!({"type": "t", "player_id": format!("p{n}"), "payload": {"text": &text}})).collect();
    let (sent, refusal) = fill(&door, SERVER, &json!(heavy)).await;
    refusal.refused(429, "game_share");
    let share = sent * 13 * 30_000;
    assert!((10 << 20..24 << 20).contains(&share), "{share} bytes of 38 MB");
    for number in 0..20 {
        assert_eq!(door.post(OTHER, &event(number, "t", "p")).await.status, 202);
    }
    assert_eq!(door.post(OTHER, &json!(heavy)).await.status, 202);
}

#[tokio::test]
async fn a_game_alone_may_fill_the_queue() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.queue.queue_max_jobs = 10;
    let mut alone = door::directory(door::game(1, "demo", None, None));
    alone.games.retain(|slug, _| slug.as_str() == "demo");
    let door = door::open_with(settings, alone).await;
    let (sent, refusal) = fill(&door, SERVER, &event(1, "t", "p")).await;
    refusal.refused(503, "queue_full");
    assert_eq!(sent, 10);
}

#[tokio::test]
async fn addresses_are_counted_while_the_queue_is_full() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.queue.queue_max_jobs = 1;
    settings.queue.queue_game_share = 100;
    settings.limits.rate_limit_requests = 5;
    let door = door::open(settings).await;
    assert_eq!(door.post(SERVER, &event(1, "t", "p")).await.status, 202);
    let mut refused = 0;
    while door.post(CLIENT, &event(1, "t", "p")).await.code() != "address_limit" {
        refused += 1;
        assert!(refused < 20, "an address may ask as often as it likes");
    }
    assert!(refused >= 5, "{refused}");
    // Who has the queue's last word counts too, where a receipt was the matter.
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 5;
    settings.ingest.max_idempotency_keys = 0;
    let door = door::open(settings).await;
    ::redis::cmd("FLUSHALL").exec(&mut redis.connection()).unwrap();
    for number in 0..6 {
        let key = format!("not-one-receipt-{number}");
        let answer = door.send(CLIENT, &[("idempotency-key", &key)], event(1, "t", "p").to_string().as_bytes()).await;
        assert_eq!(answer.code(), if number < 5 { "idempotency_full" } else { "address_limit" }, "{answer:?}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_before_a_body_is_read() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.queue.queue_max_jobs = 1;
    settings.queue.queue_game_share = 100;
    let door = door::open(settings).await;
    assert_eq!(door.post(SERVER, &event(1, "t", "p")).await.status, 202);
    door.post(SERVER, &event(1, "t", "p")).await.refused(503, "queue_full");
    // The body never comes, and nobody waits for it.
    for more in ["", "idempotency-key: without-a-receipt\r\n"] {
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {SERVER}\r\nconnection: close\r\n{more}content-length: 400000\r\n\r\n"
        );
        let started = Instant::now();
        door.raw(head.as_bytes()).await.refused(503, "queue_full");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn receipts_of_all_games_together_are_bounded() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.ingest.max_idempotency_keys_in_all = 3;
    let door = door::open(settings).await;
    let send = async |number: u32, key: &str| {
        let name = format!("of-all-games-{number:06}");
        door.send(key, &[("idempotency-key", &name)], event(1, "t", "p").to_string().as_bytes()).await
    };
    for (number, key) in [SERVER, CLIENT, OTHER].into_iter().enumerate() {
        assert_eq!(send(number as u32, key).await.status, 202);
    }
    let full = send(4, OTHER).await;
    full.refused(503, "idempotency_exhausted");
    assert!(full.headers["retry-after"].parse::<u64>().unwrap() > 80_000);
    assert_eq!(queued(&redis), 3);
    assert_eq!(send(0, SERVER).await.status, 202, "what is remembered is still answered");
    assert_eq!(door.post(OTHER, &event(1, "t", "p")).await.status, 202, "without a key nothing is to be remembered");
}

#[tokio::test]
async fn one_games_clients_do_not_use_up_anothers_address() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 3;
    let door = door::open(settings).await;
    for _ in 0..3 {
        assert_eq!(door.post(CLIENT, &event(1, "t", "p")).await.status, 202);
    }
    door.post(CLIENT, &event(1, "t", "p")).await.refused(429, "address_limit");
    assert_eq!(door.post(OTHER_CLIENT, &event(1, "t", "p")).await.status, 202);
}

#[tokio::test]
async fn ingest_limits_by_itself_while_the_limits_server_is_away() {
    let (queue, mut limits) = (redis(), redis());
    let mut settings = door::settings(&queue);
    settings.redis.redis_limits_url = Some(limits.url.clone().into());
    settings.limits.rate_limit_requests = 5;
    let door = door::open_with(settings, door::directory(door::game(1, "demo", Some(10), None))).await;
    assert_eq!(door.post(CLIENT, &event(1, "t", "p")).await.status, 202);
    limits.kill();
    let keyed = [("idempotency-key", "while-limits-are-away")];
    let body = batch(3, "q").to_string();
    for _ in 0..4 {
        assert_eq!(door.send(CLIENT, &keyed, body.as_bytes()).await.status, 202);
    }
    assert_eq!(queued(&queue), 4);
    eventually("the address is over its limit", SOON, async || {
        door.post(CLIENT, &event(2, "t", "p")).await.code() == "address_limit"
    })
    .await;
    assert_eq!(door.post(SERVER, &event(3, "t", "p")).await.status, 202);
    assert_eq!(door.state.admission().closed(), None);
    limits.start();
    let number = std::sync::atomic::AtomicU32::new(10);
    eventually("it counts there again", SOON, async || {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let player = format!("r{number}");
        door.post(SERVER, &event(number, "t", &player)).await;
        let key = format!("{{sl:g:1}}:limit:player:1:{player}");
        ::redis::cmd("EXISTS").arg(key).query(&mut limits.connection()).unwrap()
    })
    .await;
}

#[tokio::test]
async fn retry_after_is_when_the_rest_fits() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 0;
    let door = door::open_with(settings, door::directory(door::game(1, "demo", Some(5), None))).await;
    let first = door.post(SERVER, &batch(8, "p")).await;
    first.counts(5, 0, 0, 3);
    let after: i64 = first.headers["retry-after"].parse().unwrap();
    assert_eq!(first.body["results"][0]["retry_after"], after);
    // The client waits for as long as it was told: its window began so much earlier.
    let wait = |milliseconds: i64| {
        let (key, mut connection) = ("{sl:q0}:limit:player:1:p", redis.connection());
        let began: i64 = ::redis::cmd("HGET").arg(key).arg("s").query(&mut connection).unwrap();
        ::redis::cmd("HSET").arg(key).arg("s").arg(began - milliseconds).exec(&mut connection).unwrap();
    };
    // Over what the present window holds, and then over what is left of the one before.
    let (mut rest, mut after) = (3, after);
    for _ in 0..2 {
        wait((after - 6) * 1_000);
        let early = door.post(SERVER, &batch(rest, "p")).await;
        assert!(early.body["retry"].as_u64().unwrap() > 0, "not much earlier: {early:?}");
        rest -= early.body["accepted"].as_u64().unwrap() as u32;
        after = early.headers["retry-after"].parse().unwrap();
    }
    wait(after * 1_000);
    door.post(SERVER, &batch(rest, "p")).await.counts(u64::from(rest), 0, 0, 0);
}

/// All at once: a game that floods with everything it has, beside one that must not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_game_that_misbehaves_is_not_noticed_by_another() {
    let redis = redis_with(&["--maxmemory", "64mb"]);
    let mut settings = door::settings(&redis);
    settings.queue.queue_max_jobs = 1_000;
    settings.ingest.max_idempotency_keys = 50;
    let door = std::sync::Arc::new(door::open(settings).await);
    let stop = tokio_util::sync::CancellationToken::new();
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..4u32 {
        let (door, stop) = (door.clone(), stop.clone());
        flood.spawn(async move {
            let large = json!({"type": "t", "player_id": "p", "payload": {"text": "x".repeat(30_000)}}).to_string();
            let mut sent = 0u32;
            while !stop.is_cancelled() {
                sent += 1;
                let key = format!("flood-{number}-{sent:010}");
                let keyed = [("idempotency-key", key.as_str())];
                match number {
                    0 => door.send(SERVER, &[], large.as_bytes()).await,
                    1 => door.send(SERVER, &keyed, large.as_bytes()).await,
                    2 => door.send(CLIENT, &keyed, b"[{}]").await,
                    _ => door.send(CLIENT, &keyed, event(sent, "t", "p").to_string().as_bytes()).await,
                };
            }
            sent
        });
    }
    eventually("the flood is refused", SOON, async || door.post(SERVER, &event(1, "t", "p")).await.status != 202).await;
    let mut longest = Duration::ZERO;
    for number in 0..100 {
        for key in [OTHER, OTHER_CLIENT] {
            let (name, started) = (format!("unnoticed-{number:06}"), Instant::now());
            let keyed: &[(&str, &str)] = if number % 5 == 0 { &[("idempotency-key", &name)] } else { &[] };
            let answer = door.send(key, keyed, event(number, "t", "p").to_string().as_bytes()).await;
            assert_eq!(answer.status, 202, "{number}: {answer:?}");
            longest = longest.max(started.elapsed());
        }
    }
    stop.cancel();
    let sent: u32 = flood.join_all().await.into_iter().sum();
    assert!(longest < Duration::from_secs(3), "{longest:?} beside {sent} requests");
}
