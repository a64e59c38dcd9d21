//! One hash tag per queue, so that it lives in one slot of a Redis Cluster (docs/rules.md#a-queue-has-one-slot).

use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt as _;
use scoreline::domain::clock::Micros;
use scoreline::queue::enqueue::{EnqueueError, Enqueuer};
use scoreline::queue::{Lane, Queue, Settlement, Timeouts, server};
use scoreline::runtime::lifecycle::Lifecycle;

use super::outages::Suspects;
use super::rig::{SOON, Worker, fill, options, payload, settle};
use crate::support::eventually;
use crate::support::redis::{TestRedis, redis_node};

/// A Redis Cluster of three nodes without replicas that answers, and its URL.
pub async fn cluster() -> (Vec<TestRedis>, String) {
    let nodes: Vec<TestRedis> = (0..3).map(|_| redis_node()).collect();
    let hosts: Vec<String> = nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
    let mut create = Command::new("redis-cli");
    create.args(["--cluster", "create"]).args(&hosts).args(["--cluster-replicas", "0", "--cluster-yes"]);
    let created = create.output().unwrap();
    assert!(created.status.success(), "{created:?}");
    let url = format!("redis-cluster://{}", hosts.join(","));
    eventually("the cluster is up", SOON, async || {
        nodes.iter().all(|n| {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut n.connection()).unwrap();
            info.contains("cluster_state:ok")
        })
    })
    .await;
    (nodes, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_work_on_a_redis_cluster_and_spread_over_it() {
    let (nodes, url) = cluster().await;
    let hosts: Vec<String> = nodes.iter().map(|n| n.url.clone()).collect();
    let mut cluster = redis::cluster::ClusterClient::new(hosts).unwrap().get_connection().unwrap();
    for name in ["q0", "q1", "q2"] {
        let queue = Queue::connect(&url, "sl", name, Timeouts::default()).await.unwrap();
        assert_eq!(server::inspect(queue.connection()).await.unwrap().unsafe_for_queue(), None);
        every_state_works(&queue, &mut cluster).await;
    }
    let with_keys = nodes.iter().filter(|n| redis::cmd("DBSIZE").query::<u64>(&mut n.connection()).unwrap() > 0);
    assert!(with_keys.count() > 1, "the queues spread over the nodes");
}

/// The node of a cluster that owns the queue, and those that have nothing to do with it.
pub fn owner_and_others<'n>(nodes: &'n [TestRedis], queue: &str) -> (&'n TestRedis, Vec<&'n TestRedis>) {
    let key = format!("{{sl:{queue}}}:jobs");
    // Only the owner answers; the others say where it is.
    let owns = |node: &&TestRedis| redis::cmd("EXISTS").arg(&key).query::<u32>(&mut node.connection()).is_ok();
    let (mut owners, others): (Vec<_>, Vec<_>) = nodes.iter().partition(owns);
    (owners.pop().unwrap(), others)
}

/// Nodes answer no client for so long. The cluster is not to notice: without those nodes' slots it would be down.
pub fn silence(silent: &[&TestRedis], nodes: &[TestRedis], time: Duration) {
    for node in nodes {
        let mut config = redis::cmd("CONFIG");
        config.arg(&["SET", "cluster-node-timeout", "60000", "cluster-require-full-coverage", "no"]);
        config.exec(&mut node.connection()).unwrap();
    }
    for node in silent {
        let mut pause = redis::cmd("CLIENT");
        pause.arg("PAUSE").arg(time.as_millis() as u64).arg("ALL").exec(&mut node.connection()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_do_not_wait_for_a_silent_node_without_the_queue() {
    let (nodes, url) = cluster().await;
    // An announcement names a channel, which is no key of the queue: the crate would take it to the node of that name.
    const QUEUE: &str = "q2";
    let (owner, others) = owner_and_others(&nodes, QUEUE);
    let timeouts = Timeouts { response: Duration::from_millis(500), connect: Duration::from_millis(500) };
    // It has a connection to each node: to one that was silent before it would have none, and ask it nothing.
    let connected = Queue::connect(&url, "sl", QUEUE, timeouts).await.unwrap();
    let channel = connected.keys().wake_channel();
    let owns = |node: &&&TestRedis| redis::cmd("EXISTS").arg(&channel).query::<u32>(&mut node.connection()).is_ok();
    let silent = others.iter().find(owns).expect("the channel's name belongs to another node than the queue");
    silence(&[*silent], &nodes, Duration::from_secs(60));
    let later = Queue::connect(&url, "sl", QUEUE, timeouts).await.unwrap();
    for (round, queue) in [connected, later].iter().enumerate() {
        let worker = Worker::start(queue, options(), async |job| settle(&job, Settlement::Done).await);
        for name in ["before", "after"] {
            let name = format!("{name}-{round}");
            // The owner knows no script, as after a restart; the silent node could not be told any.
            redis::cmd("SCRIPT").arg("FLUSH").exec(&mut owner.connection()).unwrap();
            // Neither a script nor an announcement waits for the silent node: the call would fail.
            assert!(queue.push(Lane::High, &name, &payload(&name)).await.unwrap());
            queue.resume().await.unwrap();
            eventually("it has run", SOON, async || queue.status().await.is_ok_and(|s| s.jobs == 0)).await;
        }
        worker.stop().await;
    }
}

/// The library would send an announcement to the node that owns the slot of the channel's name: of that of
/// facts another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_announced_is_heard_while_all_nodes_without_the_queue_are_silent() {
    let (nodes, url) = cluster().await;
    let (owner, others) = owner_and_others(&nodes, "q0");
    let timeouts = Timeouts { response: Duration::from_millis(500), connect: Duration::from_millis(500) };
    let queue = Queue::connect(&url, "sl", "q0", timeouts).await.unwrap();
    let mut heard = redis::Client::open(owner.url.as_str()).unwrap().get_async_pubsub().await.unwrap();
    let channels = [queue.keys().facts_channel(), queue.keys().wake_channel()];
    heard.subscribe(&channels).await.unwrap();
    silence(&others, &nodes, Duration::from_secs(60));
    queue.announce_facts().await;
    queue.resume().await.unwrap();
    let mut heard = heard.into_on_message();
    for channel in channels {
        let message = tokio::time::timeout(SOON, heard.next()).await.expect("it is announced").unwrap();
        assert_eq!(message.get_channel_name(), channel);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_another_nodes_answer_for_the_queues() {
    let (nodes, url) = cluster().await;
    let (owner, _) = owner_and_others(&nodes, "q0");
    silence(&[owner], &nodes, Duration::from_secs(60));
    let timeouts = Timeouts { response: Duration::from_millis(500), connect: Duration::from_millis(500) };
    assert!(Queue::connect(&url, "sl", "q0", timeouts).await.is_err());
    let ingest = Enqueuer::connect(&url, None, "sl", 1_000, &Lifecycle::default()).await;
    assert!(matches!(ingest, Err(EnqueueError::Unreachable(_))), "{ingest:?}");
}

/// The slot of a queue on its way from one node to another.
struct Move<'n> {
    slot: u16,
    from: &'n TestRedis,
    to: &'n TestRedis,
}

impl<'n> Move<'n> {
    fn begin(nodes: &'n [TestRedis], queue: &str) -> Self {
        let (from, others) = owner_and_others(nodes, queue);
        let tag = format!("{{sl:{queue}}}");
        let slot = redis::cmd("CLUSTER").arg("KEYSLOT").arg(tag).query(&mut from.connection()).unwrap();
        let all = Self { slot, from, to: others[0] };
        all.set(all.to, "IMPORTING", from);
        all.set(from, "MIGRATING", all.to);
        all
    }

    fn set(&self, node: &TestRedis, state: &str, other: &TestRedis) {
        let name: String = redis::cmd("CLUSTER").arg("MYID").query(&mut other.connection()).unwrap();
        let mut command = redis::cmd("CLUSTER");
        command.arg("SETSLOT").arg(self.slot).arg(state).arg(name).exec(&mut node.connection()).unwrap();
    }

    fn all_keys(&self) {
        let mut from = self.from.connection();
        loop {
            let mut list = redis::cmd("CLUSTER");
            let keys: Vec<String> = list.arg("GETKEYSINSLOT").arg(self.slot).arg(100).query(&mut from).unwrap();
            if keys.is_empty() {
                return;
            }
            let mut moving = redis::cmd("MIGRATE");
            moving.arg("127.0.0.1").arg(self.to.port).arg("").arg(0).arg(5_000).arg("KEYS").arg(keys);
            moving.exec(&mut from).unwrap();
        }
    }

    /// The new owner is told first.
    fn end(&self, before_others_hear: impl FnOnce(&mut redis::Connection)) {
        self.set(self.to, "NODE", self.to);
        before_others_hear(&mut self.to.connection());
        self.set(self.from, "NODE", self.to);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_goes_on_while_its_slot_moves_to_another_node() {
    let (nodes, url) = cluster().await;
    let queue = Queue::connect(&url, "sl", "q0", Timeouts::default()).await.unwrap();
    let moving = Move::begin(&nodes, "q0");
    // The key is not with the old owner, which says who is to be asked. (Scripts of several keys wait: TRYAGAIN.)
    queue.pause().await.unwrap();
    moving.end(|_| {});
    let breaks = queue.connection().breaks();
    assert!(queue.push(Lane::High, "moved", &payload("")).await.unwrap());
    assert!(queue.connection().breaks() > breaks, "another server answers");
    assert!(!queue.push(Lane::High, "moved", &payload("")).await.unwrap(), "sent again, it was queued once");
    let status = queue.status().await.unwrap();
    assert_eq!((status.jobs, status.paused), (1, true));
}

/// A node that lagged and took over: no connection broke, for the old one goes on and says who is to be asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_that_took_over_lists_as_held_does_not_stay_so() {
    let (nodes, url) = cluster().await;
    let queue = Queue::connect(&url, "sl", "q0", Timeouts::default()).await.unwrap();
    let (keys, (owner, _)) = (queue.keys().clone(), owner_and_others(&nodes, "q0"));
    let ids = ["7-first-h", "8-second-h"];
    let suspects = Suspects::wait_on(&mut owner.connection(), &keys, &ids);
    let (worker, gate) = suspects.start_worker(&queue);
    eventually("the first is done", SOON, async || suspects.first_is_done(&queue).await).await;
    let moving = Move::begin(&nodes, "q0");
    moving.all_keys();
    moving.end(|redis| suspects.first_is_held_again(redis));
    suspects.heart_beats_twice(moving.to).await;
    gate.add_permits(2);
    eventually("the queue is empty", SOON, async || queue.status().await.is_ok_and(|s| s.jobs == 0 && s.held() == 0))
        .await;
    assert_eq!(worker.counts()[ids[0]], 2, "it ran again, which changes nothing");
    worker.stop().await;
}

async fn every_state_works(queue: &Queue, cluster: &mut redis::cluster::ClusterConnection) {
    fill(cluster, queue, Lane::Low, 500, &payload("low"));
    assert!(queue.push(Lane::High, "named", &payload("retry")).await.unwrap());
    assert!(queue.push(Lane::High, "bad", &[]).await.unwrap());
    // One that leaves everything to the next, by way of its sign-off.
    let impatient = scoreline::queue::WorkerOptions { grace: Duration::ZERO, max_in_hand: 3, ..options() };
    let first = Worker::start(queue, impatient, async |_| std::future::pending().await);
    first.saw(1).await;
    first.stop().await;
    let patient = scoreline::queue::WorkerOptions { poll: SOON, ..options() };
    let worker = Worker::start(queue, patient, async |job| {
        let first_time = job.attempts == 0 && job.bytes == payload("retry");
        settle(&job, if first_time { Settlement::Retry { error: "x".into() } } else { Settlement::Done }).await;
    });
    eventually("all are done but the dead one", SOON, async || {
        queue.status().await.is_ok_and(|s| s.jobs == 1 && s.dead == 1 && s.held() == 0)
    })
    .await;
    assert!(queue.low_water(Micros(i64::MAX)).await.unwrap().oldest().is_some());
    let dead = queue.take_dead(9).await.unwrap().remove(0);
    assert!(queue.replay(&dead.job_id, dead.lane, &payload("good"), dead.received_at).await.unwrap());
    eventually("the announcement arrived", SOON, async || queue.status().await.is_ok_and(|s| s.jobs == 0)).await;
    assert_eq!(queue.low_water(Micros(i64::MAX)).await.unwrap().oldest(), None);
    worker.stop().await;
}
