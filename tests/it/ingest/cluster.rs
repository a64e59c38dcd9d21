//! The queue on a Redis Cluster: what other nodes do is no concern of ingest.

use std::time::{Duration, Instant};

use super::door::{self, SERVER, event};
use crate::queue::cluster::{cluster, owner_and_others, silence};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_without_the_queue_does_not_close_ingest() {
    let (nodes, url) = cluster().await;
    let (owner, others) = owner_and_others(&nodes, "q0");
    let mut settings = door::settings(owner);
    settings.redis.redis_url = url.into();
    let before = door::open(settings.clone()).await;
    assert_eq!(before.post(SERVER, &event(0, "t", "p")).await.status, 202);
    for node in &nodes {
        let told: String = redis::cmd("INFO").arg("commandstats").query(&mut node.connection()).unwrap();
        assert!(!told.contains("script|load"), "a script is told to whom it is asked of, not to every node: {told}");
    }
    silence(&others[..1], &nodes, Duration::from_secs(20));
    let after = door::open(settings).await;
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut owner.connection()).unwrap();
    // Longer than admission waits for an answer of the node that it asks each second.
    let started = Instant::now();
    let mut number = 1;
    while started.elapsed() < Duration::from_secs(4) {
        for door in [&before, &after] {
            let answer = door.post(SERVER, &event(number, "t", "p")).await;
            assert_eq!(answer.status, 202, "after {:?}: {answer:?}", started.elapsed());
            number += 1;
        }
        crate::support::look_again().await;
    }
}
