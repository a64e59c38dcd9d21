//! What is to be seen from outside (docs/rules.md#a-queue-shows-its-state); what the server must be.

use std::time::Duration;

use scoreline::domain::clock::Micros;
use scoreline::domain::ids::GameId;
use scoreline::domain::low_water::Hold;
use scoreline::domain::retry::RetryPolicy;
use scoreline::queue::payload::PersistEventsEncoder;
use scoreline::queue::server::{self, Persistence};
use scoreline::queue::{Lane, QueueError, Settlement, WorkerOptions};

use uuid::Uuid;

use super::rig::{SOON, Worker, options, payload, rig, rig_with, settle, text_of};
use crate::support::{eventually, nothing_happens_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depth_age_hands_workers_and_totals_are_seen_from_outside() {
    let rig = rig().await;
    rig.fill(Lane::High, 3, &payload("keep"));
    rig.queue.push(Lane::High, "fails", &payload("fail")).await.unwrap();
    rig.queue.push(Lane::High, "later", &payload("later")).await.unwrap();
    let patient = WorkerOptions {
        max_in_hand: 5,
        retry: |_| RetryPolicy { first_delay: Duration::from_secs(60), ..RetryPolicy::default() },
        ..options()
    };
    let worker = Worker::start(&rig.queue, patient, async |job| match text_of(&job).as_str() {
        "fail" => settle(&job, Settlement::fail("test", "x")).await,
        "later" => settle(&job, Settlement::Retry { error: "x".into() }).await,
        _ => std::future::pending().await,
    });
    eventually("three run, one is dead, one is delayed", SOON, async || {
        let s = rig.queue.status().await.unwrap();
        (s.held(), s.dead, s.delayed) == (3, 1, 1) && s.workers[0].oldest_running_ms > 0
    })
    .await;
    rig.queue.pause().await.unwrap();
    let ids = rig.fill(Lane::Low, 7, &payload("low"));
    nothing_happens_for(Duration::from_millis(50)).await;
    let status = rig.queue.status().await.unwrap();
    assert!(status.paused);
    assert_eq!((status.lanes[0].waiting, status.lanes[1].waiting, status.jobs), (0, 7, 12));
    let first: i64 = ids[0].split('-').next().unwrap().parse().unwrap();
    assert_eq!(status.lanes[1].oldest, Some(Micros(first)));
    assert!(status.oldest_seconds(Lane::Low) < 5.0);
    assert_eq!((status.totals["dead"], status.totals["retried"]), (1, 1));
    assert_eq!(worker.runs(), 5, "a held queue hands nothing out");
    worker.lifecycle.hard.cancel();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pausing_holds_the_queue_and_resuming_is_noticed_at_once() {
    let rig = rig().await;
    rig.queue.pause().await.unwrap();
    let patient = WorkerOptions { poll: SOON, poll_unsubscribed: SOON, ..options() };
    let worker = Worker::start(&rig.queue, patient, async |job| settle(&job, Settlement::Done).await);
    rig.fill(Lane::High, 5, &payload(""));
    nothing_happens_for(Duration::from_millis(300)).await;
    assert_eq!(worker.runs(), 0);
    rig.queue.resume().await.unwrap();
    eventually("it goes on", Duration::from_millis(900), async || worker.runs() == 5).await;
    rig.drained().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_low_water_mark_sees_jobs_in_every_state() {
    let rig = rig().await;
    assert_eq!(rig.queue.low_water(Micros(i64::MAX)).await.unwrap().oldest(), None);
    let received = |id: &str| Micros(id.split('-').next().unwrap().parse().unwrap());
    let ids = rig.fill(Lane::High, 4, &payload("0"));
    let mark = async || rig.queue.low_water(Micros(i64::MAX)).await.unwrap().oldest();
    assert_eq!(mark().await, Some(received(&ids[0])), "waiting");

    let delayed_for_long = WorkerOptions {
        max_in_hand: 1,
        retry: |_| RetryPolicy { first_delay: Duration::from_secs(60), ..RetryPolicy::default() },
        grace: Duration::ZERO,
        ..options()
    };
    // The first is delayed, the second dead, the third held for ever, the fourth waits.
    let order = ids.clone();
    let worker = Worker::start(&rig.queue, delayed_for_long, move |job| {
        let order = order.clone();
        async move {
            match order.iter().position(|id| id == job.id.as_str()) {
                Some(0) => settle(&job, Settlement::Retry { error: "x".into() }).await,
                Some(1) => settle(&job, Settlement::fail("test", "x")).await,
                _ => std::future::pending().await,
            }
        }
    });
    worker.saw(3).await;
    assert_eq!(mark().await, Some(received(&ids[0])), "delayed");
    let mut redis = rig.redis.connection();
    let keys = rig.queue.keys();
    redis::cmd("ZREM").arg(keys.troubled_at()).arg(&ids[0]).exec(&mut redis).unwrap();
    assert_eq!(mark().await, Some(received(&ids[1])), "dead");
    let dead = rig.queue.take_dead(9).await.unwrap();
    assert_eq!(rig.queue.forget_dead(&dead.iter().collect::<Vec<_>>()).await.unwrap(), 1);
    assert_eq!(mark().await, Some(received(&ids[2])), "held");
    worker.stop().await;
    assert_eq!(mark().await, Some(received(&ids[2])), "given back, behind a younger head");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_evicts_is_refused_and_persistence_is_reported() {
    let good = rig().await;
    let report = server::inspect(good.queue.connection()).await.unwrap();
    assert_eq!((report.unsafe_for_queue(), report.persistence), (None, Persistence::AofEverySecond));
    assert_eq!(report.run_id.len(), 40);
    let bad = rig_with(&["--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb", "--appendonly", "no"]).await;
    let report = server::inspect(bad.queue.connection()).await.unwrap();
    assert!(report.unsafe_for_queue().unwrap().contains("allkeys-lru"));
    assert_eq!((report.persistence, report.maxmemory), (Persistence::NotDurable, 100 << 20));
    assert!(report.memory_share() > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_internal_job_exists_once_while_it_waits_and_may_come_again_after() {
    let rig = rig().await;
    assert!(rig.queue.push(Lane::High, "settle-7", &payload("a")).await.unwrap());
    assert!(!rig.queue.push(Lane::High, "settle-7", &payload("b")).await.unwrap());
    let worker = Worker::start(&rig.queue, options(), async |job| settle(&job, Settlement::Done).await);
    rig.drained().await;
    assert!(rig.queue.push(Lane::High, "settle-7", &payload("c")).await.unwrap());
    rig.drained().await;
    assert_eq!(worker.runs(), 2);
    let refused = rig.queue.push(Lane::High, "a{b}", &[]).await.unwrap_err();
    assert!(matches!(refused, QueueError::BadName(_)));
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

/// A job in trouble that carries events of this game.
fn job_of(game: i32) -> Vec<u8> {
    PersistEventsEncoder::new(GameId(game), Uuid::nil(), false, 0).finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_in_trouble_holds_its_own_game_only() {
    let rig = rig().await;
    let replay = async |id: &str, bytes: &[u8], received_at: i64| {
        assert!(rig.queue.replay(id, Lane::High, bytes, Micros(received_at)).await.unwrap());
    };
    rig.queue.pause().await.unwrap();
    // More than are asked for in one call.
    for n in 0..250 {
        replay(&format!("7-{n}-h"), &job_of(1), 7).await;
    }
    replay("9-x-h", &job_of(2), 9).await;
    let holds = async |game: i32, until: i64| {
        rig.queue.low_water(Micros(until)).await.unwrap().holds(GameId(game), Micros(until))
    };
    assert_eq!((holds(1, 7).await, holds(2, 7).await, holds(3, 7).await), (vec![Hold::Jobs], vec![], vec![]));
    assert_eq!((holds(1, 9).await, holds(2, 9).await, holds(3, 9).await), (vec![Hold::Jobs], vec![Hold::Jobs], vec![]));
    // Whoever cannot be read may be anybody's, but no longer than a person is waited for.
    replay("3-y-h", &[99, 1, 1, 0, 0, 0], 3).await;
    assert_eq!((holds(1, 3).await, holds(3, 3).await), (vec![Hold::UnreadJobs], vec![Hold::UnreadJobs]));
    assert!(Hold::UnreadJobs.is_bounded() && !Hold::Jobs.is_bounded());
    // A job that waits its turn moves by itself and holds everybody.
    let ids = rig.fill(Lane::Low, 1, &job_of(1));
    let received: i64 = ids[0].split('-').next().unwrap().parse().unwrap();
    assert!(holds(3, received).await.contains(&Hold::Queue));
    assert!(!holds(3, received - 1).await.contains(&Hold::Queue));
}

/// While a script runs Redis answers nobody else, and what the script copies comes on top of `maxmemory`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_large_jobs_copies_few_of_them_at_once() {
    let rig = rig().await;
    rig.queue.pause().await.unwrap();
    let large = [job_of(1), vec![0; 500_000]].concat();
    for n in 0..100 {
        assert!(rig.queue.replay(&format!("7-{n}-h"), Lane::High, &large, Micros(7)).await.unwrap());
    }
    // A reply that a script has got counts for the peak.
    let peak = || -> u64 {
        let info: String = redis::cmd("INFO").arg("memory").query(&mut rig.redis.connection()).unwrap();
        let bytes = info.lines().find_map(|line| line.strip_prefix("used_memory_peak:")).unwrap();
        bytes.trim().parse().unwrap()
    };
    let before = peak();
    let water = rig.queue.low_water(Micros(7)).await.unwrap();
    let copied = peak() - before;
    let holds = |game: i32| water.holds(GameId(game), Micros(7));
    assert_eq!((holds(1), holds(2)), (vec![Hold::Jobs], vec![]), "one look has read all of them");
    assert!(copied < 8 << 20, "{copied} bytes");
}
