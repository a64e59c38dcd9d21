//! The server's clock goes back, or another server takes over that knows less: no job is passed by the low-water mark,
//! and none waits for as long as the clock went back.

use std::time::Duration;

use scoreline::domain::clock::Micros;
use scoreline::domain::ids::GameId;
use scoreline::domain::retry::RetryPolicy;
use scoreline::queue::enqueue::{EnqueueReply, EnqueueRequest, Enqueuer};
use scoreline::queue::{Lane, Settlement, WorkerOptions};
use scoreline::runtime::lifecycle::Lifecycle;

use super::rig::{Rig, Worker, options, payload, rig, settle};

const HOUR: i64 = 3_600_000_000;

fn now(rig: &Rig) -> i64 {
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query(&mut rig.redis.connection()).unwrap();
    seconds * 1_000_000 + micros
}

/// Has Redis believe that it stamped an hour from now: what is left of a clock that has gone back since.
fn stamped_ahead(rig: &Rig) -> i64 {
    let ahead = now(rig) + HOUR;
    let stamp = redis::cmd("HSET").arg(rig.queue.keys().counters()).arg("stamp").arg(ahead).clone();
    stamp.exec(&mut rig.redis.connection()).unwrap();
    ahead
}

async fn received_at(enqueuer: &Enqueuer) -> i64 {
    let request = EnqueueRequest {
        game: GameId(1),
        batch_id: uuid::Uuid::new_v4(),
        queued_before: 0,
        share_percent: 100,
        address: None,
        quotas: &[],
        high: &payload("x"),
        low: &[],
        remember: None,
    };
    match enqueuer.enqueue(&request).await.reply.unwrap() {
        EnqueueReply::Done { received_at, .. } => received_at.0,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_goes_back_stamps_nothing_earlier() {
    let rig = rig().await;
    let ahead = stamped_ahead(&rig);
    let enqueuer =
        Enqueuer::connect(&rig.redis.url, None, "sl", 1_000, &Lifecycle::default()).await.expect("Redis answers");
    assert_eq!(received_at(&enqueuer).await, ahead);
    assert_eq!(rig.queue.status().await.unwrap().at, Micros(ahead), "what is compared with it is no earlier");
    rig.queue.push(Lane::Low, "internal", &payload("x")).await.unwrap();
    let ids: Vec<String> = redis::cmd("HKEYS").arg(rig.queue.keys().jobs()).query(&mut rig.redis.connection()).unwrap();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| id.starts_with(&format!("{ahead}-"))), "{ids:?}");
    assert!(!rig.totals().await.contains_key("stamp"), "a stamp is no total");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_knows_less_is_told_before_it_stamps() {
    let rig = rig().await;
    let ahead = stamped_ahead(&rig);
    let enqueuer =
        Enqueuer::connect(&rig.redis.url, None, "sl", 1_000, &Lifecycle::default()).await.expect("Redis answers");
    received_at(&enqueuer).await;
    let low_water = scoreline::aggregator::hooks::low_water(rig.queue.clone());
    assert_eq!(low_water(Micros(i64::MAX)).await.unwrap().mark(), Micros(ahead), "the job that waits");
    // Another server takes over, which has neither the stamp nor its clock.
    redis::cmd("FLUSHALL").exec(&mut rig.redis.connection()).unwrap();
    assert_eq!(received_at(&enqueuer).await, ahead, "ingest knows what it was told");
    redis::cmd("FLUSHALL").exec(&mut rig.redis.connection()).unwrap();
    assert_eq!(low_water(Micros(i64::MAX)).await.unwrap().mark(), Micros(ahead), "so does who asks for the mark");
    let other =
        Enqueuer::connect(&rig.redis.url, None, "sl", 1_000, &Lifecycle::default()).await.expect("Redis answers");
    assert_eq!(received_at(&other).await, ahead, "the mark was raised for who knows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_ingest_tells_a_server_holds_for_the_others() {
    let rig = rig().await;
    let ahead = stamped_ahead(&rig);
    let connect = async || Enqueuer::connect(&rig.redis.url, None, "sl", 1_000, &Lifecycle::default()).await.unwrap();
    let told = connect().await;
    received_at(&told).await;
    // Another server takes over that knows nothing, and nobody has asked for the mark yet.
    redis::cmd("FLUSHALL").exec(&mut rig.redis.connection()).unwrap();
    assert_eq!(received_at(&told).await, ahead);
    assert_eq!(received_at(&connect().await).await, ahead, "lanes stand in the order of receipt");
    rig.queue.push(Lane::Low, "internal", &payload("x")).await.unwrap();
    let ids: Vec<String> = redis::cmd("HKEYS").arg(rig.queue.keys().jobs()).query(&mut rig.redis.connection()).unwrap();
    assert!(ids.len() == 3 && ids.iter().all(|id| id.starts_with(&format!("{ahead}-"))), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mark_of_an_empty_queue_is_passed_by_no_later_job() {
    let rig = rig().await;
    let low_water = scoreline::aggregator::hooks::low_water(rig.queue.clone());
    let mark = low_water(Micros(i64::MAX)).await.unwrap().mark();
    let stamp: i64 =
        redis::cmd("HGET").arg(rig.queue.keys().counters()).arg("stamp").query(&mut rig.redis.connection()).unwrap();
    assert_eq!(Micros(stamp), mark, "a clock that goes back after the answer stamps nothing before it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_job_does_not_wait_for_a_clock_that_went_back() {
    let rig = rig().await;
    let ids = rig.fill(Lane::High, 1, &payload("x"));
    let slow = WorkerOptions {
        retry: |_| RetryPolicy { first_delay: Duration::from_secs(60), ..RetryPolicy::default() },
        ..options()
    };
    let worker = Worker::start(&rig.queue, slow, |job| async move {
        settle(&job, Settlement::Retry { error: "x".into() }).await;
    });
    worker.stop_after_first_run(&rig, &ids[0]).await;
    // Delayed by a clock that was an hour ahead.
    let delayed = rig.queue.keys().delayed();
    let due = (now(&rig) + HOUR) / 1_000;
    redis::cmd("ZADD").arg(&delayed).arg("XX").arg(due).arg(&ids[0]).exec(&mut rig.redis.connection()).unwrap();
    // One whose time has not come stays where it is.
    let soon = now(&rig) / 1_000 + 60_000;
    redis::cmd("ZADD").arg(&delayed).arg(soon).arg("later").exec(&mut rig.redis.connection()).unwrap();
    let worker = Worker::start(&rig.queue, options(), |job| async move { settle(&job, Settlement::Done).await });
    worker.saw(1).await;
    let left: Vec<String> =
        redis::cmd("ZRANGE").arg(&delayed).arg(0).arg(-1).query(&mut rig.redis.connection()).unwrap();
    assert_eq!(left, ["later"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_delay_is_longer_than_the_longest() {
    let rig = rig().await;
    let options = WorkerOptions {
        retry: |_| RetryPolicy { first_delay: Duration::from_secs(3_000), ..RetryPolicy::default() },
        ..options()
    };
    let ids = rig.fill(Lane::High, 1, &payload("x"));
    let worker = Worker::start(&rig.queue, options, |job| async move {
        settle(&job, Settlement::Retry { error: "x".into() }).await;
    });
    worker.stop_after_first_run(&rig, &ids[0]).await;
    let due: i64 =
        redis::cmd("ZSCORE").arg(rig.queue.keys().delayed()).arg(&ids[0]).query(&mut rig.redis.connection()).unwrap();
    assert!(due <= now(&rig) / 1_000 + 120_000, "another worker would take it for one that a clock left behind");
}
