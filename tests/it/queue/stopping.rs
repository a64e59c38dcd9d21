//! A worker stops cleanly (docs/rules.md#a-stop-loses-no-job).

use std::sync::Arc;
use std::time::{Duration, Instant};

use scoreline::queue::{Lane, Settlement, WorkerOptions};
use tokio::sync::Semaphore;

use super::rig::{SOON, Worker, options, payload, rig, settle};
use crate::support::{eventually, lasts, nothing_happens_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_worker_only_finishes_what_it_has() {
    let rig = rig().await;
    rig.fill(Lane::High, 10, &payload(""));
    let few = WorkerOptions { max_in_hand: 4, ..options() };
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let worker = Worker::start(&rig.queue, few, move |job| {
        let gate = opened.clone();
        async move {
            let _open = gate.acquire().await.unwrap();
            settle(&job, Settlement::Done).await;
        }
    });
    worker.saw(4).await;
    worker.lifecycle.soft.cancel();
    nothing_happens_for(Duration::from_millis(50)).await;
    gate.add_permits(4);
    let runner = worker.runner.clone();
    worker.stop().await;
    assert_eq!(runner.runs.lock().unwrap().len(), 4, "nothing new");
    let status = rig.queue.status().await.unwrap();
    assert_eq!((status.totals["done"], status.lanes[0].waiting), (4, 6));
    assert!(status.workers.is_empty(), "it signed off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_grace_the_rest_goes_back_unconsumed() {
    let rig = rig().await;
    rig.fill(Lane::High, 3, &payload(""));
    rig.fill(Lane::Low, 2, &payload(""));
    let impatient = WorkerOptions { grace: Duration::from_millis(200), ..options() };
    let worker = Worker::start(&rig.queue, impatient, async |_| std::future::pending().await);
    worker.saw(5).await;
    worker.stop().await;
    let status = rig.queue.status().await.unwrap();
    assert_eq!((status.held(), status.lanes[0].waiting, status.lanes[1].waiting), (0, 3, 2));
    let next = Worker::start(&rig.queue, options(), async |job| settle(&job, Settlement::Done).await);
    next.saw(5).await;
    assert!(next.seen().iter().all(|job| job.attempts == 0 && job.crashes == 0 && !job.suspect));
    rig.drained().await;
    next.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_worker_at_once() {
    let rig = rig().await;
    rig.fill(Lane::High, 3, &payload(""));
    let patient = WorkerOptions { grace: Duration::from_secs(60), ..options() };
    let worker = Worker::start(&rig.queue, patient, async |_| std::future::pending().await);
    worker.saw(3).await;
    let asked = Instant::now();
    worker.lifecycle.soft.cancel();
    worker.lifecycle.hard.cancel();
    worker.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert_eq!(rig.queue.status().await.unwrap().lanes[0].waiting, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_is_renewed_while_the_worker_drains() {
    let rig = rig().await;
    rig.fill(Lane::High, 1, &payload(""));
    let slow = WorkerOptions { grace: SOON, ..options() };
    let draining = Worker::start(&rig.queue, slow, async |job| {
        lasts(Duration::from_millis(1_800)).await; // more than three leases
        settle(&job, Settlement::Done).await;
    });
    draining.saw(1).await;
    let other = Worker::start(&rig.queue, options(), async |job| settle(&job, Settlement::Done).await);
    draining.stop().await;
    assert_eq!(other.runs(), 0, "nobody rescued what was still running");
    assert_eq!(rig.totals().await.get("rescued"), None);
    other.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_while_it_fetches_leaves_no_job_behind() {
    let rig = rig().await;
    let total = 3_000;
    rig.fill(Lane::High, total, &payload(""));
    for _ in 0..15 {
        let worker = Worker::coalescing(&rig.queue, options());
        eventually("it began", SOON, async || worker.runs() > 0 || rig.queue.status().await.unwrap().jobs == 0).await;
        worker.stop().await;
        let status = rig.queue.status().await.unwrap();
        assert_eq!((status.held(), status.workers.len()), (0, 0));
        assert_eq!(status.jobs, status.lanes[0].waiting, "what is not done waits");
    }
}
