//! Attempts, delays, what a handler says (docs/rules.md#retries-wait-ever-longer); payloads that nobody can read
//! (docs/rules.md#unreadable-jobs-become-dead-letters).

use std::time::Duration;

use scoreline::domain::retry::RetryPolicy;
use scoreline::queue::{Lane, Settlement, WorkerOptions};

use super::rig::{SOON, Worker, options, payload, rig, settle, text_of};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_attempts_with_growing_delays_make_a_dead_letter() {
    let rig = rig().await;
    rig.queue.push(Lane::High, "stubborn", &payload("")).await.unwrap();
    let worker = Worker::start(&rig.queue, options(), async |job| {
        settle(&job, Settlement::Retry { error: format!("failure {}", job.attempts + 1) }).await;
    });
    eventually("it is dead", SOON, async || rig.queue.status().await.unwrap().dead == 1).await;
    let attempts: Vec<u32> = worker.seen().iter().map(|job| job.attempts).collect();
    assert_eq!(attempts, [0, 1, 2]);
    let at: Vec<_> = worker.runner.runs.lock().unwrap().iter().map(|(_, at)| *at).collect();
    assert!(at[1] - at[0] >= Duration::from_millis(39), "50 ms less a fifth and rounding");
    assert!(at[2] - at[1] >= Duration::from_millis(79), "100 ms less a fifth and rounding");
    let dead = rig.queue.take_dead(10).await.unwrap();
    assert_eq!((dead[0].reason.as_str(), dead[0].attempts), ("attempts_exhausted", 3));
    assert_eq!(dead[0].error, "failure 3");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_are_kept_in_redis_and_survive_the_worker() {
    let rig = rig().await;
    rig.queue.push(Lane::Low, "unlucky", &payload("")).await.unwrap();
    let slow = WorkerOptions {
        retry: |_| RetryPolicy { first_delay: Duration::from_millis(300), ..RetryPolicy::default() },
        ..options()
    };
    let fails = async |job| settle(&job, Settlement::Retry { error: "no".into() }).await;
    let first = Worker::start(&rig.queue, slow, fails);
    eventually("it waits", SOON, async || rig.queue.status().await.unwrap().delayed == 1).await;
    first.stop().await;
    let second = Worker::start(&rig.queue, options(), async |job| settle(&job, Settlement::Done).await);
    second.saw(1).await;
    assert_eq!(second.seen()[0].attempts, 1);
    assert!(second.seen()[0].ran_before());
    rig.drained().await;
    second.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_dependency_costs_no_attempt_and_slows_the_worker() {
    let rig = rig().await;
    rig.fill(Lane::High, 40, &payload(""));
    let down = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_down = down.clone();
    let few = WorkerOptions { max_in_hand: 4, ..options() };
    let worker = Worker::start(&rig.queue, few, move |job| {
        let down = is_down.load(std::sync::atomic::Ordering::Relaxed);
        async move {
            let settlement = if down { Settlement::Transient { error: "down".into() } } else { Settlement::Done };
            settle(&job, settlement).await;
        }
    });
    // Four at a time, and a pause after those that met it.
    worker.saw(5).await;
    let pause = {
        let runs = worker.runner.runs.lock().unwrap();
        runs[4].1 - runs[3].1
    };
    assert!(pause > Duration::from_millis(50), "it does not back off: {pause:?}");
    assert!(rig.queue.status().await.unwrap().delayed <= 8, "the backlog is churned");
    down.store(false, std::sync::atomic::Ordering::Relaxed);
    rig.drained().await;
    assert!(worker.seen().iter().all(|job| job.attempts == 0), "no attempt was consumed");
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_script_settles_many_jobs_each_on_its_own() {
    let rig = rig().await;
    let ids = rig.fill(Lane::High, 4, &payload(""));
    let all = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let worker = Worker::start(&rig.queue, WorkerOptions { max_in_hand: 4, ..options() }, move |job| {
        let (all, ids) = (all.clone(), ids.clone());
        async move {
            let settler = job.settler().clone();
            let (how, first_time) = match job.id.as_str() {
                id if id == ids[1] => (Settlement::Retry { error: "again".into() }, job.attempts == 0),
                id if id == ids[2] => (Settlement::fail("hopeless", "never"), true),
                _ => (Settlement::Done, true),
            };
            if !first_time {
                return settle(&job, Settlement::Done).await;
            }
            let group = {
                let mut all = all.lock().unwrap();
                all.push((job.id.clone(), how));
                if all.len() == 4 { std::mem::take(&mut *all) } else { Vec::new() }
            };
            if group.is_empty() {
                eventually("its group is settled", SOON, async || !settler.holds(&job.id)).await;
            } else {
                settler.settle(group, true).await;
            }
        }
    });
    eventually("three are done, one is dead", SOON, async || {
        let status = rig.queue.status().await.unwrap();
        status.totals.get("done") == Some(&3) && status.dead == 1 && status.held() == 0
    })
    .await;
    assert_eq!(worker.runs(), 5);
    assert_eq!(rig.queue.take_dead(9).await.unwrap()[0].reason, "hopeless");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_its_runner_forgets_or_panics_on_is_retried() {
    let rig = rig().await;
    rig.queue.push(Lane::High, "panics", &payload("panic")).await.unwrap();
    rig.queue.push(Lane::High, "forgets", &payload("forget")).await.unwrap();
    let worker = Worker::start(&rig.queue, options(), async |job| {
        if job.attempts == 1 {
            settle(&job, Settlement::Done).await;
        } else if text_of(&job) == "panic" {
            panic!("a bug");
        }
    });
    rig.drained().await;
    assert_eq!(worker.runs(), 4);
    assert_eq!(rig.totals().await["retried"], 2);
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_payload_becomes_a_dead_letter() {
    let rig = rig().await;
    for (name, bytes) in [("empty", &[][..]), ("text", b"nonsense"), ("unknown", &[1, 200, 7])] {
        rig.queue.push(Lane::High, name, bytes).await.unwrap();
    }
    rig.queue.push(Lane::High, "fine", &payload("fine")).await.unwrap();
    let worker = Worker::start(&rig.queue, options(), async |job| settle(&job, Settlement::Done).await);
    eventually("three are dead, one is done", SOON, async || {
        let status = rig.queue.status().await.unwrap();
        status.dead == 3 && status.totals.get("done") == Some(&1)
    })
    .await;
    let mut reasons: Vec<String> = rig.queue.take_dead(9).await.unwrap().into_iter().map(|d| d.reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["undecodable", "unknown_kind", "unknown_version"]);
    assert_eq!(worker.runs(), 1, "no runner ever sees them");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_a_newer_program_waits_for_it_and_never_dies() {
    let rig = rig().await;
    for (name, bytes) in [("version", &[2, 1, 7][..]), ("kind", &[1, 2, 7])] {
        rig.queue.push(Lane::High, name, bytes).await.unwrap();
    }
    rig.queue.push(Lane::High, "fine", &payload("fine")).await.unwrap();
    let worker = Worker::start(&rig.queue, options(), async |job| settle(&job, Settlement::Done).await);
    eventually("both are set aside, one is done", SOON, async || {
        let status = rig.queue.status().await.unwrap();
        status.delayed == 2 && status.totals.get("done") == Some(&1)
    })
    .await;
    let status = rig.queue.status().await.unwrap();
    assert_eq!((status.dead, status.jobs, worker.runs()), (0, 2, 1));
    let troubles: std::collections::HashMap<String, String> =
        redis::cmd("HGETALL").arg(rig.queue.keys().trouble()).query(&mut rig.redis.connection()).unwrap();
    assert!(troubles.values().all(|trouble| trouble.starts_with("0 0 ")), "no attempt is charged: {troubles:?}");
    worker.stop().await;
}
