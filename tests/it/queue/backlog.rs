//! Any backlog drains (docs/rules.md#any-backlog-drains), at once, by lanes, and nothing stays behind.

use std::time::{Duration, Instant};

use scoreline::domain::ids::GameId;
use scoreline::queue::{Lane, Queue, Settlement, Timeouts, WorkerOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::rig::{Rig, SOON, Worker, options, payload, rig, settle, text_of};
use crate::support::{eventually, lasts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_backlog_drains_and_leaves_nothing_behind() {
    let rig = rig().await;
    rig.queue.push(Lane::High, "settle-7", &payload("named")).await.unwrap();
    rig.fill(Lane::Low, 15_000, &payload("low"));
    rig.fill(Lane::High, 10_000, &payload("high"));
    let worker = Worker::coalescing(&rig.queue, options());
    rig.drained().await;
    assert_eq!(worker.counts().len(), 25_001);
    assert!(worker.counts().values().all(|runs| *runs == 1), "each ran once");
    assert_eq!(rig.totals().await["done"], 25_001);
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_pushed_to_an_idle_queue_starts_at_once() {
    let rig = rig().await;
    let patient = WorkerOptions { poll: SOON, poll_unsubscribed: SOON, ..options() };
    let worker = Worker::start(&rig.queue, patient, async |job| settle(&job, Settlement::Done).await);
    rig.queue.push(Lane::Low, "first", &payload("")).await.unwrap();
    worker.saw(1).await;
    let mut waits = Vec::new();
    for i in 0..20 {
        rig.drained().await;
        let pushed = Instant::now();
        rig.queue.push(Lane::High, &format!("n-{i}"), &payload("")).await.unwrap();
        worker.saw(2 + i).await;
        waits.push(worker.runner.runs.lock().unwrap()[1 + i].1 - pushed);
    }
    waits.sort();
    assert!(waits[10] < Duration::from_millis(100), "{waits:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_high_job_starts_before_a_hundred_thousand_low_ones() {
    let rig = rig().await;
    rig.fill(Lane::Low, 100_000, &payload("low"));
    let few = WorkerOptions { max_in_hand: 20, ..options() };
    let worker = Worker::start(&rig.queue, few, async |job| {
        lasts(Duration::from_millis(5)).await;
        settle(&job, Settlement::Done).await;
    });
    worker.saw(100).await;
    let pushed = Instant::now();
    rig.queue.push(Lane::High, "urgent", &payload("high")).await.unwrap();
    let is_urgent = |w: &Worker| w.seen().iter().any(|job| text_of(job) == "high");
    eventually("the high job ran", SOON, async || is_urgent(&worker)).await;
    assert!(pushed.elapsed() < Duration::from_millis(500), "{:?}", pushed.elapsed());
    assert!(rig.queue.status().await.unwrap().lanes[1].waiting > 90_000, "the low ones still wait");
    worker.lifecycle.hard.cancel();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn low_gets_a_tenth_of_fetches_under_high_backlog() {
    let rig = rig().await;
    rig.fill(Lane::Low, 2_000, &payload("low"));
    rig.fill(Lane::High, 2_000, &payload("high"));
    let few = WorkerOptions { max_in_hand: 10, spacing: Duration::ZERO, ..options() };
    let worker = Worker::coalescing(&rig.queue, few);
    worker.saw(1_000).await;
    let low = worker.seen()[..1_000].iter().filter(|job| job.lane == Lane::Low).count();
    assert!((20..=300).contains(&low), "{low} of 1,000 were low");
    worker.stop().await;
}

/// A link to a Redis that carries about 4 MB a second to whoever asks. It ends with the set of tasks.
pub async fn slow_link(port: u16) -> (String, JoinSet<()>) {
    const PIECE: usize = 16 << 10;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            connections.spawn(async move {
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let up = tokio::io::copy(&mut from_client, &mut to_server);
                let down = async {
                    let mut piece = vec![0; PIECE];
                    while let Ok(bytes @ 1..) = from_server.read(&mut piece).await
                        && to_client.write_all(&piece[..bytes]).await.is_ok()
                    {
                        lasts(Duration::from_millis(4)).await;
                    }
                };
                tokio::select! {
                    _ = up => {}
                    () = down => {}
                }
            });
        }
    });
    (url, tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_large_jobs_drains_over_a_slow_link() {
    let rig = rig().await;
    let (url, _link) = slow_link(rig.redis.port).await;
    // All of them together take three times as long as Redis may take to answer, and a slice of them longer too.
    let timeouts = Timeouts { response: Duration::from_millis(400), connect: Duration::from_secs(2) };
    let queue = Queue::connect(&url, "sl", "q0", timeouts).await.unwrap();
    rig.fill(Lane::Low, 60, &payload(&"x".repeat(100_000)));
    let patient = WorkerOptions { lease: SOON, ..options() };
    let worker = Worker::start(&queue, patient, async |job| settle(&job, Settlement::Done).await);
    rig.drained().await;
    assert_eq!(rig.totals().await["done"], 60);
    worker.stop().await;
}

/// Puts jobs that `fill` made among the delayed, due one after the other in their order since `since` (ms).
fn delay(rig: &Rig, ids: &[String], trouble: &str, since: i64) {
    let (mut redis, keys) = (rig.redis.connection(), rig.queue.keys());
    for (n, id) in ids.iter().enumerate() {
        let received_at: i64 = id.split('-').next().unwrap().parse().unwrap();
        let mut all = redis::pipe();
        all.lrem(keys.lane(Lane::High), 1, id).ignore();
        all.hset(keys.trouble(), id, trouble).ignore();
        all.zadd(keys.troubled_at(), id, received_at).ignore();
        all.zadd(keys.delayed(), id, since + n as i64).ignore();
        all.exec(&mut redis).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_set_aside_hold_nobody_up_and_all_get_their_turn() {
    let rig = rig().await;
    let aside = rig.fill(Lane::High, 2_000, &payload("aside"));
    let retried = rig.fill(Lane::High, 1, &payload("retried"));
    // All are due, the ordinary attempt last.
    delay(&rig, &aside, "0 0 blocked 30, game 2: refused", 1_000);
    delay(&rig, &retried, "1 0 failed", 9_000);
    // And one of a game that has no other.
    let alone = format!("{}-{}@7.100-h", retried[0].split('-').next().unwrap(), uuid::Uuid::new_v4());
    redis::cmd("HSET")
        .arg(rig.queue.keys().jobs())
        .arg(&alone)
        .arg(payload("alone"))
        .exec(&mut rig.redis.connection())
        .unwrap();
    delay(&rig, &[alone], "0 0 blocked 3, game 7: refused", 8_000);
    rig.fill(Lane::High, 300, &payload("fresh"));
    let worker = Worker::start(&rig.queue, options(), async |job| {
        let settlement = match text_of(&job).as_str() {
            "aside" => Settlement::Blocked { game: GameId(2), error: "refused".into() },
            _ => Settlement::Done,
        };
        settle(&job, settlement).await;
    });
    eventually("each ran", SOON * 2, async || worker.runs() >= 2_302).await;
    let seen = worker.seen();
    let last = |text: &str| seen.iter().rposition(|job| text_of(job) == text).unwrap();
    assert!(last("fresh") < 600, "the last fresh job ran as number {}", last("fresh"));
    assert!(last("retried") < 1_000, "the attempt that was due ran as number {}", last("retried"));
    assert!(last("alone") < 1_000, "the only one of its game ran as number {}", last("alone"));
    let ran: Vec<&str> = seen.iter().filter(|job| text_of(job) == "aside").map(|job| job.id.as_str()).collect();
    let place: std::collections::HashMap<&str, usize> =
        aside.iter().enumerate().map(|(place, id)| (id.as_str(), place)).collect();
    let out_of_turn = ran.iter().enumerate().map(|(at, id)| at.abs_diff(place[id])).max();
    assert!(ran.len() == 2_000 && out_of_turn < Some(100), "{} ran, up to {out_of_turn:?} places off", ran.len());
    let status = rig.queue.status().await.unwrap();
    assert_eq!((status.jobs, status.lanes[0].waiting), (2_000, 0), "they are neither lost nor done");
    worker.stop().await;
}
