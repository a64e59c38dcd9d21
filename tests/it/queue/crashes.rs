//! Workers that are killed or frozen, and the jobs they had in hand (docs/rules.md#only-lone-jobs-are-charged).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::Commands;
use rustix::process::Signal;
use scoreline::queue::{Lane, Settlement, WorkerOptions};

use super::rig::{Rig, SOON, Worker, WorkerProcess, options, payload, rig, settle};
use crate::support::{eventually, lasts};

const LEASE: Duration = Duration::from_millis(500);

fn count(rig: &Rig, key: &str) -> i64 {
    let value: Option<i64> = rig.redis.connection().get(key).unwrap();
    value.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_killed_worker_rerun_uncharged() {
    let rig = rig().await;
    rig.fill(Lane::High, 600, &payload("hang"));
    let doomed = WorkerProcess::start(&rig.redis, LEASE);
    eventually("it has its hands full", SOON, async || count(&rig, "ran:hang") == 500).await;
    let worker = Worker::coalescing(&rig.queue, options());
    eventually("the other worker is there", SOON, async || worker.runs() == 100).await;
    doomed.signal(Signal::KILL);
    let killed = Instant::now();
    worker.saw(600).await;
    let rescued_in = killed.elapsed();
    assert!(rescued_in < LEASE * 20, "all ran {rescued_in:?} after the kill");
    rig.drained().await;
    let again: Vec<_> = worker.seen().into_iter().filter(|job| job.suspect).collect();
    assert_eq!(again.len(), 500, "all were rescued, to run apart from the others");
    assert!(again.iter().all(|job| job.crashes == 0 && job.attempts == 0 && job.ran_before()));
    assert_eq!(rig.totals().await["rescued"], 500);
    rig.redis.connection().del::<_, ()>("ran:hang").unwrap();
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_third_crash_of_a_lone_job_is_the_last() {
    let rig = rig().await;
    rig.fill(Lane::High, 5, &payload("ok"));
    rig.fill(Lane::High, 1, &payload("crash"));
    rig.fill(Lane::Low, 5, &payload("slow"));
    let process = std::sync::Mutex::new(WorkerProcess::start(&rig.redis, LEASE));
    eventually("one is dead and the others are done", Duration::from_secs(60), async || {
        {
            // A new worker for each that dies, as a process manager would start it.
            let mut process = process.lock().unwrap();
            if process.has_ended() {
                *process = WorkerProcess::start(&rig.redis, LEASE);
            }
        }
        let status = rig.queue.status().await.unwrap();
        status.dead == 1 && status.jobs == 1
    })
    .await;
    assert_eq!(count(&rig, "ran:crash"), 5, "once among all, once among a few, three times alone");
    assert_eq!(rig.totals().await["done"], 10, "the others flowed on");
    let dead = rig.queue.take_dead(9).await.unwrap();
    assert_eq!((dead[0].reason.as_str(), dead[0].crashes), ("crashed", 3));
    assert_eq!(dead[0].bytes, payload("crash"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_suspects_run_their_worker_runs_nothing_else() {
    let rig = rig().await;
    rig.fill(Lane::High, 3, &payload("hang"));
    let doomed = WorkerProcess::start(&rig.redis, LEASE);
    eventually("it has them", SOON, async || count(&rig, "ran:hang") == 3).await;
    doomed.signal(Signal::KILL);
    rig.fill(Lane::High, 200, &payload("fresh"));
    let running = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    let beside = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (now, most) = (running.clone(), beside.clone());
    let queue = rig.queue.clone();
    let worker = Worker::start(&rig.queue, options(), move |job| {
        let (now, most, queue) = (now.clone(), most.clone(), queue.clone());
        async move {
            let at_first = now.fetch_add(i64::from(!job.suspect), std::sync::atomic::Ordering::SeqCst);
            if job.suspect {
                queue.push(Lane::High, job.id.as_str(), &payload("more")).await.unwrap();
            }
            // Time for fresh ones to be started beside it.
            lasts(Duration::from_millis(30)).await;
            if job.suspect {
                most.lock().unwrap().push(at_first.max(now.load(std::sync::atomic::Ordering::SeqCst)));
            }
            now.fetch_sub(i64::from(!job.suspect), std::sync::atomic::Ordering::SeqCst);
            settle(&job, Settlement::Done).await;
        }
    });
    // There are always fresh ones in hand when the suspects are rescued.
    eventually("three suspects ran", SOON, async || {
        rig.fill(Lane::High, 2, &payload("fresh"));
        beside.lock().unwrap().len() == 3
    })
    .await;
    assert_eq!(*beside.lock().unwrap(), [0, 0, 0]);
    rig.drained().await;
    worker.stop().await;
}

/// One at a time, what a busy worker leaves behind took half a minute where a commit takes 50 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspects_run_a_few_together() {
    let rig = rig().await;
    rig.fill(Lane::High, 100, &payload("hang"));
    let doomed = WorkerProcess::start(&rig.redis, LEASE);
    eventually("it has them", SOON, async || count(&rig, "ran:hang") == 100).await;
    doomed.signal(Signal::KILL);
    let running = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    let most = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    let (now, at_once) = (running.clone(), most.clone());
    let worker = Worker::start(&rig.queue, options(), move |job| {
        let (now, at_once) = (now.clone(), at_once.clone());
        async move {
            let beside = now.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            at_once.fetch_max(beside, std::sync::atomic::Ordering::SeqCst);
            lasts(Duration::from_millis(50)).await;
            now.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            settle(&job, Settlement::Done).await;
        }
    });
    rig.drained().await;
    assert_eq!(most.load(std::sync::atomic::Ordering::SeqCst), 16);
    assert!(worker.seen().iter().all(|job| job.suspect && job.crashes == 0));
    let marks: Vec<String> = rig.redis.connection().hvals(rig.queue.keys().alone()).unwrap();
    assert_eq!(marks, Vec::<String>::new(), "what it runs from now on was in no company of suspects");
    rig.redis.connection().del::<_, ()>("ran:hang").unwrap();
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

/// A row that is locked, and a process manager without patience, made a dead letter of a job that had no fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_that_only_waits_is_charged_no_crash() {
    let rig = rig().await;
    rig.fill(Lane::High, 1, &payload("wait"));
    for run in 1..=5 {
        let doomed = WorkerProcess::start(&rig.redis, LEASE);
        eventually("it has the job", SOON, async || count(&rig, "ran:wait") == run).await;
        // The first time it is no suspect yet.
        eventually("it says that it waits", SOON, async || {
            let marks: Vec<String> = rig.redis.connection().hvals(rig.queue.keys().alone()).unwrap();
            marks.len() == usize::from(run > 1) && marks.iter().all(|mark| mark == "waiting")
        })
        .await;
        doomed.signal(Signal::KILL);
        let doomed = std::sync::Mutex::new(doomed);
        eventually("it is gone", SOON, async || doomed.lock().unwrap().has_ended()).await;
    }
    let worker = Worker::start(&rig.queue, options(), async |job| settle(&job, Settlement::Done).await);
    rig.drained().await;
    assert!(worker.seen()[0].suspect);
    assert_eq!(worker.seen().iter().map(|job| job.crashes).collect::<Vec<_>>(), [0]);
    rig.redis.connection().del::<_, ()>("ran:wait").unwrap();
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_a_longer_lease_than_others_is_not_taken_for_dead() {
    let rig = rig().await;
    let beats = || -> HashMap<String, String> { rig.redis.connection().hgetall(rig.queue.keys().workers()).unwrap() };
    let of = |beat: &str, part: usize| beat.split(' ').nth(part).and_then(|number| number.parse::<u64>().ok());
    let patient = WorkerOptions { lease: Duration::from_secs(120), ..options() };
    let worker = Worker::start(&rig.queue, patient, async |job| settle(&job, Settlement::Done).await);
    eventually("it beats", SOON, async || beats().values().any(|beat| of(beat, 3) == Some(120_000))).await;
    let name = beats().into_keys().next().unwrap();
    let other = Worker::start(&rig.queue, options(), async |job| settle(&job, Settlement::Done).await);
    eventually("it goes on beating beside one with a short lease", SOON, async || {
        beats().get(&name).and_then(|beat| of(beat, 0)) > Some(5)
    })
    .await;
    assert_eq!(beats().len(), 2);
    rig.fill(Lane::High, 1, &payload("ok"));
    rig.drained().await;
    worker.stop().await;
    other.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_worker_that_wakes_late_changes_nothing() {
    let rig = rig().await;
    let ids = rig.fill(Lane::High, 1, &payload("slow"));
    let frozen = WorkerProcess::start(&rig.redis, LEASE);
    eventually("it has the job", SOON, async || count(&rig, "ran:slow") == 1).await;
    frozen.signal(Signal::STOP);
    // The other worker gets the job and keeps it.
    let worker = Worker::start(&rig.queue, options(), async |_| std::future::pending().await);
    worker.saw(1).await;
    assert_eq!(worker.seen()[0].id.as_str(), ids[0]);
    let served: Vec<String> = rig.redis.connection().hkeys(rig.queue.keys().fetches()).unwrap();
    assert_eq!(served.len(), 1, "under its old name the frozen one is given nothing more");
    frozen.signal(Signal::CONT);
    eventually("the frozen one ended its job", SOON, async || count(&rig, "ended:slow") == 1).await;
    let status = rig.queue.status().await.unwrap();
    assert_eq!((status.jobs, status.held()), (1, 1), "the job is still there, in the other's hands");
    assert_eq!(status.totals.get("done"), None);
    // And the frozen one works again, under a new name.
    rig.fill(Lane::High, 1, &payload("ok"));
    eventually("it works on", SOON, async || count(&rig, "ended:ok") == 1).await;
    worker.lifecycle.hard.cancel();
    worker.stop().await;
}
