//! The promise, held to the real binaries: what was acknowledged is stored once and ranked, whatever dies meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scoreline::bench::rig::Role;
use scoreline::chaos::accounts::Client;

use crate::support::eventually;
use crate::support::system::{PATIENCE, System, system};

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
