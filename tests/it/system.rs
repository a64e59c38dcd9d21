//! The promise, held to the real binaries: what was acknowledged is stored once and ranked, whatever dies meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scoreline::bench::rig::Role;
use scoreline::chaos::accounts::Client;

use crate::support::eventually;
use crate::support::system::{BOARDS, PATIENCE, System, system};

const EVENTS: usize = 20_000;
const BATCH: usize = 20;
const CLIENTS: usize = 4;

/// Killed by turns.
const VICTIMS: [(Role, &str); 3] = [(Role::Worker, "worker"), (Role::Cron, "cron"), (Role::Worker, "worker-b")];

#[tokio::test]
async fn every_acknowledged_event_is_stored_once_and_ranked_through_kills() {
    let mut system = system().await;
    system.start_all().await;
    system.rig.start_as(Role::Worker, "worker-b").await.unwrap();
    system.rig.start_as(Role::Cron, "cron-b").await.unwrap();
    let sending = Arc::new(AtomicBool::new(true));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = Client::new(system.rig.ingest, &system.server_key, BATCH);
            tokio::spawn(async move {
                for _ in 0..EVENTS / BATCH / CLIENTS {
                    client.send().await;
                }
                client.account()
            })
        })
        .collect();
    let done = {
        let sending = Arc::clone(&sending);
        tokio::spawn(async move {
            let mut accounts = Vec::new();
            for client in clients {
                accounts.push(client.await.unwrap());
            }
            sending.store(false, Ordering::Relaxed);
            accounts
        })
    };
    // For as long as the clients send, and each one at least once.
    let mut turn = 0;
    while sending.load(Ordering::Relaxed) || turn < VICTIMS.len() {
        let (role, name) = VICTIMS[turn % VICTIMS.len()];
        progress_or_end(&system).await;
        system.rig.kill(name).await.unwrap();
        system.rig.start_as(role, name).await.unwrap();
        turn += 1;
    }
    let accounts = done.await.unwrap();
    let acknowledged: usize = accounts.iter().map(|a| a.acknowledged.len()).sum();
    assert_eq!(acknowledged, EVENTS, "every batch is acknowledged in the end");
    system.settle(&accounts).await;
}

/// Waits until something was stored since the last look, or everything is.
async fn progress_or_end(system: &System) {
    let before = system.stored().await;
    eventually("progress", PATIENCE, || async { system.stored().await > before || system.jobs() == 0 }).await;
}

#[tokio::test]
async fn queue_limits_and_directory_work_on_a_redis_cluster() {
    let (nodes, url) = crate::queue::cluster::cluster().await;
    let mut system = system().await;
    for name in ["REDIS_QUEUE_URL", "REDIS_LIMITS_URL", "REDIS_CACHE_URL"] {
        system.rig.environment.push((name.to_owned(), url.clone()));
    }
    system.start_all().await;
    // A client key: the limits per address and per player are counted, each in its own slot.
    let mut client = Client::new(system.rig.ingest, &system.client_key, BATCH);
    for _ in 0..30 {
        client.send().await;
    }
    let account = client.account();
    eventually("all is stored", PATIENCE, async || system.stored().await >= account.acknowledged.len() as i64).await;
    eventually("all is folded and published", PATIENCE, || system.is_quiet()).await;
    for (slug, aggregate) in BOARDS {
        system.check_board(slug, aggregate).await;
    }
    let with_keys = nodes.iter().filter(|n| redis::cmd("DBSIZE").query::<u64>(&mut n.connection()).unwrap() > 0);
    assert!(with_keys.count() > 1, "the keys spread over the nodes");
    system.rig.stop_all().await.unwrap();
}

#[tokio::test]
async fn a_past_that_was_stored_directly_counts_once_it_is_recomputed() {
    let mut system = system().await;
    system.start_all().await;
    let past = ["simulate", "--backfill", "12000", "--players", "300", "--days", "40", "--game", "demo", "--json"];
    assert_eq!(system.cli(&past)["stored"], 12_000);
    assert_eq!(system.stored().await, 12_000, "in partitions that it made where there were none");
    let recomputed = system.cli(&["recompute", "--game", "demo", "--json"]);
    assert!(recomputed["recomputed"].as_array().unwrap().iter().all(|board| board["state"] == "live"), "{recomputed}");
    for (slug, aggregate) in BOARDS {
        system.check_board(slug, aggregate).await;
    }
    // Fails when boards, entries and events do not agree.
    system.cli(&["audit", "--game", "demo", "--json"]);
    system.rig.stop_all().await.unwrap();
}
