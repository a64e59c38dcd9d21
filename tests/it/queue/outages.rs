//! Point 9, fine print 1, 2 and 17: Redis away and back, slow, full.

use std::time::{Duration, Instant};

use scoreline::queue::{Lane, Settlement, WorkerOptions};

use super::rig::{SOON, Worker, options, payload, rig, rig_with, settle};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn point_9_a_killed_redis_comes_back_and_workers_go_on_and_lose_nothing_it_kept() {
    let mut rig = rig_with(&["--appendfsync", "always"]).await;
    let worker = Worker::coalescing(&rig.queue, options());
    rig.fill(Lane::High, 2_000, &payload(""));
    worker.saw(500).await;
    rig.redis.kill();
    tokio::time::sleep(Duration::from_millis(700)).await;
    rig.redis.start();
    let back = Instant::now();
    rig.drained().await;
    assert!(back.elapsed() < Duration::from_secs(5), "drained {:?} after Redis was back", back.elapsed());
    rig.queue.push(Lane::High, "after", &payload("after")).await.unwrap();
    rig.drained().await;
    assert_eq!(worker.counts().len(), 2_001, "every job ran");
    assert!(!worker.lifecycle.has_failed());
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fine_print_2_a_pause_of_redis_beyond_the_lease_makes_nobody_dead() {
    let rig = rig().await;
    rig.fill(Lane::High, 10, &payload(""));
    let hold = async |job| {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        settle(&job, Settlement::Done).await;
    };
    let few = WorkerOptions { max_in_hand: 5, ..options() };
    let workers = [Worker::start(&rig.queue, few.clone(), hold), Worker::start(&rig.queue, few, hold)];
    for worker in &workers {
        worker.saw(5).await;
    }
    // Longer than the lease and than the answer's timeout.
    redis::cmd("CLIENT").arg("PAUSE").arg(1_500).arg("ALL").exec(&mut rig.redis.connection()).unwrap();
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    rig.drained().await;
    assert_eq!(rig.totals().await.get("rescued"), None);
    for worker in workers {
        assert!(worker.counts().values().all(|runs| *runs == 1));
        worker.stop().await;
    }
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fine_print_1_jobs_of_a_fetch_whose_answer_was_lost_are_given_back_and_run() {
    let rig = rig().await;
    let worker = Worker::coalescing(&rig.queue, options());
    rig.queue.push(Lane::High, "first", &payload("")).await.unwrap();
    worker.saw(1).await;
    // Each connection is cut again and again while it fetches: answers get lost, jobs do not.
    let stop = tokio_util::sync::CancellationToken::new();
    let (url, stopped) = (rig.redis.url.clone(), stop.clone());
    let cutting = tokio::task::spawn_blocking(move || {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        while !stopped.is_cancelled() {
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
            kill.exec(&mut connection).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    for _ in 0..20 {
        let mut connection = rig.redis.connection();
        let filled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            super::rig::fill(&mut connection, &rig.queue, Lane::High, 200, &payload(""));
        }));
        drop(filled); // the cutter may have met this connection too
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    cutting.await.unwrap();
    let lost_between: i64 = {
        // A cut between HSET and RPUSH of the filler leaves bytes without an id; they are the test's, not the queue's.
        rig.queue.status().await.map(|s| s.jobs as i64).unwrap_or_default()
    };
    assert!(lost_between >= 0);
    eventually("nothing waits or is held", SOON, async || {
        rig.queue.status().await.is_ok_and(|s| s.held() == 0 && s.lanes.iter().all(|l| l.waiting == 0))
    })
    .await;
    assert!(!worker.lifecycle.has_failed());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fine_print_17_a_full_redis_drains_and_opens_again() {
    let rig = rig().await;
    rig.fill(Lane::Low, 300, &payload(&"x".repeat(10_000)));
    let mut connection = rig.redis.connection();
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("2mb").exec(&mut connection).unwrap();
    let refused = rig.queue.push(Lane::High, "more", &payload("more")).await.unwrap_err();
    assert!(refused.to_string().contains("OOM"), "{refused}");
    // Registers, beats, fetches, retries, settles and signs off, all over the limit.
    let worker = Worker::start(&rig.queue, options(), async |job| {
        let settlement = if job.attempts == 0 { Settlement::Retry { error: "once".into() } } else { Settlement::Done };
        settle(&job, settlement).await;
    });
    worker.saw(300).await;
    rig.drained().await;
    assert!(rig.queue.push(Lane::High, "more", &payload("more")).await.unwrap(), "open again");
    rig.drained().await;
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fine_print_17_a_full_redis_lets_a_dead_workers_jobs_be_rescued() {
    let rig = rig().await;
    rig.fill(Lane::Low, 200, &payload("hang"));
    let doomed = super::rig::WorkerProcess::start(&rig.redis, Duration::from_millis(500));
    eventually("it has them", SOON, async || rig.queue.status().await.unwrap().held() == 200).await;
    doomed.signal(rustix::process::Signal::KILL);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1mb").exec(&mut rig.redis.connection()).unwrap();
    let worker = Worker::coalescing(&rig.queue, options());
    rig.drained().await;
    assert_eq!(worker.runs(), 200);
    worker.stop().await;
}
