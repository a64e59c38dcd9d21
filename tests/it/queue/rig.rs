//! A queue on a Redis of its own, workers in this process, and worker processes.
//!
//! A worker *process*, for tests that kill or freeze one, is this test binary started again with only
//! `queue::rig::act_as_a_worker_process` selected and `SCORELINE_TEST_WORKER` set to the Redis URL. Without that
//! variable the test does nothing. What a job does there stands in its payload (see [`obey`]).

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use scoreline::domain::retry::RetryPolicy;
use scoreline::queue::{Delivery, JobId, JobRunner, Lane, Queue, Settlement, Timeouts, WorkerOptions, run_worker};
use scoreline::runtime::lifecycle::Lifecycle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::support::redis::{TestRedis, redis_with};

pub const SOON: Duration = Duration::from_secs(20);

/// Short leases and delays, so that tests are quick; and few enough jobs in hand that tests can fill it.
pub fn options() -> WorkerOptions {
    WorkerOptions {
        max_in_hand: 500,
        lease: Duration::from_millis(500),
        grace: Duration::from_secs(5),
        poll: Duration::from_millis(200),
        retry: |_| RetryPolicy { first_delay: Duration::from_millis(50), ..RetryPolicy::default() },
        ..WorkerOptions::default()
    }
}

pub struct Rig {
    pub redis: TestRedis,
    pub queue: Queue,
}

pub async fn rig() -> Rig {
    rig_with(&[]).await
}

pub async fn rig_with(extra: &[&str]) -> Rig {
    let redis = redis_with(extra);
    let timeouts = Timeouts { response: Duration::from_millis(500), connect: Duration::from_millis(500) };
    let queue = Queue::connect(&redis.url, "sl", "q0", timeouts).await.unwrap();
    Rig { redis, queue }
}

/// A readable payload of a kind that the queue knows, saying what the job is to do.
pub fn payload(text: &str) -> Vec<u8> {
    [&[1, 1], text.as_bytes()].concat()
}

pub fn text_of(job: &Delivery) -> String {
    String::from_utf8_lossy(&job.bytes[2..]).into_owned()
}

impl Rig {
    /// Queues jobs as ingest does (ids with a time of receipt); returns the ids.
    pub fn fill(&self, lane: Lane, count: usize, bytes: &[u8]) -> Vec<String> {
        fill(&mut self.redis.connection(), &self.queue, lane, count, bytes)
    }

    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut self.redis.connection()).unwrap();
        keys.sort();
        keys
    }

    /// Waits until nothing but the running totals is left (and `workers` workers' registrations).
    pub async fn nothing_stays_behind(&self) {
        let counters = vec![self.queue.keys().counters()];
        crate::support::eventually("nothing but counters stays", SOON, async || self.keys() == counters).await;
    }

    pub async fn drained(&self) {
        crate::support::eventually("the queue is empty", Duration::from_secs(60), async || {
            let status = self.queue.status().await;
            status.is_ok_and(|s| s.jobs == 0 && s.held() == 0)
        })
        .await;
    }

    pub async fn totals(&self) -> std::collections::BTreeMap<String, u64> {
        self.queue.status().await.unwrap().totals
    }
}

pub fn fill(
    connection: &mut impl redis::ConnectionLike,
    queue: &Queue,
    lane: Lane,
    count: usize,
    bytes: &[u8],
) -> Vec<String> {
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query(connection).unwrap();
    let start = seconds * 1_000_000 + micros;
    let ids: Vec<String> =
        (0..count as i64).map(|i| format!("{}-{}-{}", start + i, uuid::Uuid::new_v4(), lane.suffix())).collect();
    for chunk in ids.chunks(1_000) {
        let mut set = redis::cmd("HSET");
        set.arg(queue.keys().jobs());
        for id in chunk {
            set.arg(id).arg(bytes);
        }
        set.exec(connection).unwrap();
        redis::cmd("RPUSH").arg(queue.keys().lane(lane)).arg(chunk).exec(connection).unwrap();
        redis::cmd("PUBLISH").arg(queue.keys().wake_channel()).arg("1").exec(connection).unwrap();
    }
    ids
}

type Act = Arc<dyn Fn(Delivery) -> BoxFuture<'static, ()> + Send + Sync>;

/// Records each run, then does what the test says.
#[derive(Clone)]
pub struct Runner {
    pub runs: Arc<Mutex<Vec<(Delivery, Instant)>>>,
    act: Act,
}

impl JobRunner for Runner {
    async fn run(&self, job: Delivery) {
        self.runs.lock().unwrap().push((job.clone(), Instant::now()));
        (self.act)(job).await;
    }
}

pub async fn settle(job: &Delivery, settlement: Settlement) {
    job.settler().settle(vec![(job.id.clone(), settlement)], false).await;
}

/// A worker in this process.
pub struct Worker {
    pub runner: Runner,
    pub lifecycle: Lifecycle,
    task: JoinHandle<()>,
}

impl Worker {
    /// Starts one that does `act` with each job.
    pub fn start<F, Fut>(queue: &Queue, options: WorkerOptions, act: F) -> Self
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let runner = Runner { runs: Arc::default(), act: Arc::new(move |job| Box::pin(act(job))) };
        let lifecycle = Lifecycle::default();
        let task = tokio::spawn(run_worker(queue.clone(), options, runner.clone(), lifecycle.clone()));
        Self { runner, lifecycle, task }
    }

    /// Starts one that settles every job as done, many at a time.
    pub fn coalescing(queue: &Queue, options: WorkerOptions) -> Self {
        let (send, mut receive) = mpsc::channel::<(Delivery, oneshot::Sender<()>)>(1_000);
        tokio::spawn(async move {
            let mut group = Vec::new();
            while receive.recv_many(&mut group, 250).await > 0 {
                let (jobs, waiting): (Vec<_>, Vec<_>) = group.drain(..).unzip();
                let done: Vec<(JobId, Settlement)> = jobs.iter().map(|j| (j.id.clone(), Settlement::Done)).collect();
                jobs[0].settler().settle(done, true).await;
                for waiting in waiting {
                    let _ = waiting.send(());
                }
            }
        });
        Self::start(queue, options, move |job| {
            let send = send.clone();
            async move {
                let (done, settled) = oneshot::channel();
                send.send((job, done)).await.unwrap();
                let _ = settled.await;
            }
        })
    }

    pub fn runs(&self) -> usize {
        self.runner.runs.lock().unwrap().len()
    }

    pub fn seen(&self) -> Vec<Delivery> {
        self.runner.runs.lock().unwrap().iter().map(|(job, _)| job.clone()).collect()
    }

    /// How often each job ran.
    pub fn counts(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for job in self.seen() {
            *counts.entry(job.id.as_str().to_owned()).or_default() += 1;
        }
        counts
    }

    pub async fn saw(&self, runs: usize) {
        crate::support::eventually(&format!("{runs} runs"), SOON, async || self.runs() >= runs).await;
    }

    /// Stops it as soon as its first job is delayed.
    pub async fn stop_after_first_run(self, rig: &Rig, id: &str) {
        crate::support::eventually("the job is delayed", SOON, async || {
            let delayed = rig.queue.keys().delayed();
            let due: Option<f64> =
                redis::cmd("ZSCORE").arg(delayed).arg(id).query(&mut rig.redis.connection()).unwrap();
            due.is_some()
        })
        .await;
        self.stop().await;
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(self) {
        self.lifecycle.soft.cancel();
        tokio::time::timeout(SOON, self.task).await.expect("the worker ends").unwrap();
        self.lifecycle.tasks.close();
        tokio::time::timeout(SOON, self.lifecycle.tasks.wait()).await.expect("its tasks end");
        assert!(!self.lifecycle.has_failed(), "no essential task died");
    }
}

/// A worker in a process of its own; killed with this value.
pub struct WorkerProcess(pub Child);

impl WorkerProcess {
    pub fn start(redis: &TestRedis, lease: Duration) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "queue::rig::act_as_a_worker_process", "--nocapture"])
            .env("SCORELINE_TEST_WORKER", &redis.url)
            .env("SCORELINE_TEST_LEASE_MS", lease.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.0.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn act_as_a_worker_process() {
    let Ok(url) = std::env::var("SCORELINE_TEST_WORKER") else { return };
    let lease: u64 = std::env::var("SCORELINE_TEST_LEASE_MS").unwrap().parse().unwrap();
    let queue = Queue::connect(&url, "sl", "q0", Timeouts::default()).await.unwrap();
    let options = WorkerOptions { lease: Duration::from_millis(lease), ..options() };
    let worker = Worker::start(&queue, options, move |job| obey(url.clone(), job));
    crate::support::lasts(Duration::from_secs(120)).await; // the test ends this process long before
    worker.stop().await;
}

/// Does what the payload says: `hang` never ends; `wait` neither, and says so; `crash` kills this process; `slow` is
/// done after 300 ms; anything else is done at once. Each beginning and end is counted in Redis, under `ran:<payload>`
/// and `ended:<payload>`.
async fn obey(url: String, job: Delivery) {
    let text = text_of(&job);
    let mut connection = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let count = async |connection: &mut redis::aio::MultiplexedConnection, what: &str| {
        redis::cmd("INCR").arg(format!("{what}:{text}")).exec_async(connection).await.unwrap();
    };
    count(&mut connection, "ran").await;
    match text.as_str() {
        "crash" => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        "hang" => std::future::pending().await,
        "wait" => job.settler().charge_no_wait(&job.id, std::future::pending()).await,
        "slow" => crate::support::lasts(Duration::from_millis(300)).await,
        _ => {}
    }
    settle(&job, Settlement::Done).await;
    count(&mut connection, "ended").await;
}
