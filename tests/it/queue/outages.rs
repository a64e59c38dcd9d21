//! Redis away and back, slow (docs/rules.md#workers-survive-a-redis-outage), full
//! (docs/rules.md#a-full-redis-still-drains).

use std::sync::Arc;
use std::time::{Duration, Instant};

use scoreline::domain::retry::RetryPolicy;
use scoreline::queue::{Keys, Lane, Queue, Settlement, Timeouts, WorkerOptions};
use tokio::sync::Semaphore;

use super::rig::{SOON, Worker, options, payload, rig, rig_with, settle, text_of};
use crate::support::proxy::Proxy;
use crate::support::redis::TestRedis;
use crate::support::{eventually, lasts, nothing_happens_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_go_on_when_a_killed_redis_returns() {
    let mut rig = rig_with(&["--appendfsync", "always"]).await;
    let worker = Worker::coalescing(&rig.queue, options());
    rig.fill(Lane::High, 2_000, &payload(""));
    worker.saw(500).await;
    rig.redis.kill();
    lasts(Duration::from_millis(700)).await; // longer than the lease
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
async fn a_pause_of_redis_beyond_the_lease_makes_nobody_dead() {
    let rig = rig().await;
    rig.fill(Lane::High, 10, &payload(""));
    let hold = async |job| {
        lasts(Duration::from_millis(2_500)).await;
        settle(&job, Settlement::Done).await;
    };
    let few = WorkerOptions { max_in_hand: 5, ..options() };
    let workers = [Worker::start(&rig.queue, few.clone(), hold), Worker::start(&rig.queue, few, hold)];
    for worker in &workers {
        worker.saw(5).await;
    }
    // Longer than the lease and than the answer's timeout.
    redis::cmd("CLIENT").arg("PAUSE").arg(1_500).arg("ALL").exec(&mut rig.redis.connection()).unwrap();
    rig.drained().await;
    assert_eq!(rig.totals().await.get("rescued"), None);
    for worker in workers {
        assert!(worker.counts().values().all(|runs| *runs == 1));
        worker.stop().await;
    }
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_fetch_whose_answer_was_lost_run() {
    let rig = rig().await;
    let proxy = Proxy::before(rig.redis.port).await;
    let timeouts = Timeouts { response: Duration::from_millis(300), connect: Duration::from_millis(300) };
    let through_proxy = Queue::connect(&proxy.url, "sl", "q0", timeouts).await.unwrap();
    let worker = Worker::coalescing(&through_proxy, WorkerOptions { lease: Duration::from_secs(60), ..options() });
    rig.queue.push(Lane::High, "first", &payload("")).await.unwrap();
    rig.drained().await;
    proxy.swallow_answers_from(1_000); // what brings jobs, and not what says that there are none
    let ids = rig.fill(Lane::High, 400, &payload(""));
    eventually("Redis gave jobs out", SOON, async || rig.queue.status().await.unwrap().held() > 0).await;
    nothing_happens_for(Duration::from_millis(400)).await;
    assert_eq!(worker.runs(), 1, "nobody heard of them");
    proxy.swallow_nothing();
    rig.drained().await;
    let counts = worker.counts();
    assert!(ids.iter().all(|id| counts.get(id) == Some(&1)), "each ran, and once");
    assert!(rig.totals().await["returned"] > 0);
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_whose_answer_was_lost_is_repeated_and_changes_nothing_more() {
    let rig = rig().await;
    let proxy = Proxy::before(rig.redis.port).await;
    let timeouts = Timeouts { response: Duration::from_millis(300), connect: Duration::from_millis(300) };
    let through_proxy = Queue::connect(&proxy.url, "sl", "q0", timeouts).await.unwrap();
    // Nothing but settlements goes through the proxy while it swallows.
    let quiet = WorkerOptions { lease: SOON * 30, poll: SOON * 30, ..options() };
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let worker = Worker::start(&through_proxy, quiet, move |job| {
        let gate = opened.clone();
        async move {
            if job.attempts == 0 {
                gate.acquire().await.unwrap().forget();
                return settle(&job, Settlement::Retry { error: "once".into() }).await;
            }
            settle(&job, Settlement::Done).await;
        }
    });
    rig.fill(Lane::High, 1, &payload("")); // so that Redis knows the script
    gate.add_permits(1);
    rig.drained().await;
    rig.fill(Lane::High, 5, &payload(""));
    worker.saw(7).await;
    proxy.swallow_answers_from(0);
    gate.add_permits(5);
    eventually("Redis settled them", SOON, async || rig.totals().await.get("retried") == Some(&6)).await;
    nothing_happens_for(Duration::from_millis(400)).await;
    proxy.swallow_nothing();
    rig.drained().await;
    let totals = rig.totals().await;
    assert_eq!((totals["done"], worker.runs()), (6, 12), "each was retried once, and done");
    assert!(worker.seen().iter().all(|job| job.attempts < 2));
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

/// Whoever crashed a worker, or may have, must go on running alone: among others it would take them along, uncharged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_that_is_given_back_after_a_lost_answer_stays_one() {
    let rig = rig().await;
    let proxy = Proxy::before(rig.redis.port).await;
    let timeouts = Timeouts { response: Duration::from_millis(300), connect: Duration::from_millis(300) };
    let through_proxy = Queue::connect(&proxy.url, "sl", "q0", timeouts).await.unwrap();
    let worker = Worker::coalescing(&through_proxy, WorkerOptions { lease: Duration::from_secs(60), ..options() });
    rig.fill(Lane::High, 1, &payload(""));
    rig.drained().await;
    proxy.swallow_answers_from(1_000);
    let mut connection = rig.redis.connection();
    let (id, keys) = ("7-suspect-h", rig.queue.keys());
    redis::pipe()
        .atomic()
        .hset(keys.jobs(), id, payload(&"x".repeat(2_000)))
        .hset(keys.trouble(), id, "0 1 its worker died while running it alone")
        .zadd(keys.troubled_at(), id, 7)
        .rpush(keys.suspect(), id)
        .publish(keys.wake_channel(), "1")
        .exec(&mut connection)
        .unwrap();
    eventually("Redis gave it out", SOON, async || rig.queue.status().await.unwrap().held() == 1).await;
    nothing_happens_for(Duration::from_millis(400)).await;
    assert_eq!(worker.runs(), 1, "nobody heard of it");
    proxy.swallow_nothing();
    rig.drained().await;
    let seen = worker.seen();
    let run = seen.last().unwrap();
    assert_eq!((run.suspect, run.crashes, worker.runs()), (true, 1, 2));
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

/// A settlement is repeated until Redis answers. Meanwhile the job may have run elsewhere, and come to this worker once
/// more by a fetch whose answer was lost as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_settlement_takes_nothing_back_that_happened_elsewhere() {
    for settlement in [Settlement::Retry { error: "once".into() }, Settlement::fail("test", "for good")] {
        let rig = rig().await;
        let proxy = Proxy::before(rig.redis.port).await;
        let timeouts = Timeouts { response: Duration::from_millis(300), connect: Duration::from_millis(300) };
        let through_proxy = Queue::connect(&proxy.url, "sl", "q0", timeouts).await.unwrap();
        let retry = |_| RetryPolicy { first_delay: Duration::from_secs(60), max_attempts: 9, ..RetryPolicy::default() };
        let quiet = WorkerOptions { lease: SOON * 30, poll: SOON * 30, retry, ..options() };
        let gate = Arc::new(Semaphore::new(0));
        let (opened, first) = (gate.clone(), settlement.clone());
        let worker = Worker::start(&through_proxy, quiet, move |job| {
            let (gate, first) = (opened.clone(), first.clone());
            async move {
                if text_of(&job) == "x" && job.attempts == 0 {
                    gate.acquire().await.unwrap().forget();
                    return settle(&job, first).await;
                }
                settle(&job, Settlement::Done).await;
            }
        });
        rig.fill(Lane::High, 1, &payload("")); // so that Redis knows the script
        rig.drained().await;
        let id = rig.fill(Lane::High, 1, &payload("x")).remove(0);
        worker.saw(2).await;
        let (mut connection, keys) = (rig.redis.connection(), rig.queue.keys().clone());
        let names: Vec<String> = redis::cmd("HKEYS").arg(keys.workers()).query(&mut connection).unwrap();
        proxy.swallow_answers_from(0);
        gate.add_permits(1);
        eventually("Redis settled it", SOON, async || rig.queue.status().await.unwrap().held() == 0).await;
        // Elsewhere it ran twice more; and then this worker fetched it.
        let received = id.split('-').next().unwrap();
        redis::pipe()
            .atomic()
            .zrem(keys.delayed(), &id)
            .hdel(keys.dead(), &id)
            .hset(keys.trouble(), &id, "3 0 elsewhere")
            .zadd(keys.held(&names[0]), &id, received)
            .exec(&mut connection)
            .unwrap();
        nothing_happens_for(Duration::from_millis(800)).await;
        let status = rig.queue.status().await.unwrap();
        assert_eq!((status.delayed, status.dead, status.held()), (0, 0, 1), "{settlement:?}");
        proxy.swallow_nothing();
        rig.drained().await;
        let runs: Vec<u32> = worker.seen().iter().filter(|job| text_of(job) == "x").map(|job| job.attempts).collect();
        assert_eq!(runs, [0, 3], "it ran again with what was charged to it: {settlement:?}");
        worker.stop().await;
        rig.nothing_stays_behind().await;
    }
}

/// Two suspects in the hands of one worker, which has settled the first and runs the second: nothing is fetched beside
/// a suspect.
pub struct Suspects {
    keys: Keys,
    ids: [&'static str; 2],
}

impl Suspects {
    pub fn wait_on(redis: &mut redis::Connection, keys: &Keys, ids: &[&'static str; 2]) -> Self {
        for id in ids {
            let mut suspects = redis::pipe();
            suspects.hset(keys.jobs(), id, payload(&id[2..])).zadd(keys.troubled_at(), id, &id[..1]);
            suspects.rpush(keys.suspect(), id).exec(redis).unwrap();
        }
        Self { keys: keys.clone(), ids: *ids }
    }

    /// Its second job ends once the gate has two permits: it may run again.
    pub fn start_worker(&self, queue: &Queue) -> (Worker, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        let (opened, second) = (gate.clone(), self.ids[1]);
        let worker = Worker::start(queue, options(), move |job| {
            let gate = opened.clone();
            async move {
                if job.id.as_str() == second {
                    gate.acquire().await.unwrap().forget();
                }
                settle(&job, Settlement::Done).await;
            }
        });
        (worker, gate)
    }

    pub async fn first_is_done(&self, queue: &Queue) -> bool {
        queue.status().await.is_ok_and(|status| status.totals.get("done") == Some(&1))
    }

    fn worker_name(&self, redis: &mut redis::Connection) -> String {
        redis::cmd("HKEYS").arg(self.keys.workers()).query::<Vec<String>>(redis).unwrap().remove(0)
    }

    /// As it was a moment ago.
    pub fn first_is_held_again(&self, redis: &mut redis::Connection) {
        let (name, first) = (self.worker_name(redis), self.ids[0]);
        let mut back = redis::pipe();
        back.hset(self.keys.jobs(), first, payload(&first[2..])).zadd(self.keys.held(&name), first, 7);
        back.exec(redis).unwrap();
    }

    pub async fn heart_beats_twice(&self, server: &TestRedis) {
        let beats = || -> u64 {
            let mut redis = server.connection();
            let name = self.worker_name(&mut redis);
            let beat: String = redis::cmd("HGET").arg(self.keys.workers()).arg(name).query(&mut redis).unwrap();
            beat.split(' ').next().unwrap().parse().unwrap()
        };
        let before = beats();
        eventually("its heart beats again", SOON, async || beats() > before + 1).await;
    }
}

/// Redis went back a moment, to when a job that is done now was held. Only the heartbeat met that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_redis_that_went_back_lists_as_held_does_not_stay_so() {
    let rig = rig().await;
    let (mut connection, ids) = (rig.redis.connection(), ["7-first-h", "8-second-h"]);
    let suspects = Suspects::wait_on(&mut connection, rig.queue.keys(), &ids);
    let queue = Queue::connect(&rig.redis.url, "sl", "q0", Timeouts::default()).await.unwrap();
    let (worker, gate) = suspects.start_worker(&queue);
    eventually("the first is done", SOON, async || suspects.first_is_done(&rig.queue).await).await;
    suspects.first_is_held_again(&mut connection);
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut connection).unwrap();
    suspects.heart_beats_twice(&rig.redis).await;
    gate.add_permits(2);
    rig.drained().await;
    assert_eq!(worker.counts()[ids[0]], 2, "it ran again, which changes nothing");
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_drains_and_opens_again() {
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
async fn a_full_redis_lets_a_dead_workers_jobs_be_rescued() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_ran_before_costs_no_tenure_and_no_job() {
    let rig = rig().await;
    let long = WorkerOptions { lease: Duration::from_secs(60), ..options() };
    let worker = Worker::start(&rig.queue, long, async |job| settle(&job, Settlement::Done).await);
    rig.queue.push(Lane::High, "first", &payload("")).await.unwrap();
    rig.drained().await;
    // As if its next fetches had run, brought a job and got no answer: the library of a cluster's client
    // sent them twice.
    let (key, held) = (rig.queue.keys().fetches(), rig.fill(Lane::Low, 1, &payload("")));
    let mut connection = rig.redis.connection();
    let name: String = redis::cmd("HKEYS").arg(&key).query::<Vec<String>>(&mut connection).unwrap().remove(0);
    redis::cmd("HSET").arg(&key).arg(&name).arg(1_000_000).exec(&mut connection).unwrap();
    rig.fill(Lane::High, 50, &payload(""));
    rig.drained().await;
    assert_eq!(worker.counts().get(&held[0]), Some(&1));
    assert!(worker.seen().iter().all(|job| !job.suspect), "nobody was given up");
    let names: Vec<String> = redis::cmd("HKEYS").arg(&key).query(&mut connection).unwrap();
    assert_eq!(names, [name], "under the same name");
    worker.stop().await;
}
