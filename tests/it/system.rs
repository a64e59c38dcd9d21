//! The promise, held to the real binaries: what was acknowledged is stored once and ranked, whatever dies meanwhile.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use scoreline::bench::load::Connection;
use scoreline::bench::rig::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::eventually;
use crate::support::system::{System, system};

const EVENTS: usize = 20_000;
const BATCH: usize = 20;
const CLIENTS: usize = 4;

/// What one client sent and what it was told.
#[derive(Default)]
struct Account {
    sent: HashSet<Uuid>,
    acknowledged: HashSet<Uuid>,
    unanswered: u32,
}

fn batch(random: &mut StdRng) -> (Vec<Uuid>, Value) {
    let ids: Vec<Uuid> = (0..BATCH).map(|_| Uuid::from_u128(random.random())).collect();
    let now = jiff_now();
    let events = ids.iter().map(|id| {
        let player = format!("p-{}", random.random_range(0..500));
        let kind = if random.random_bool(0.5) { "game_ended" } else { "level_progress" };
        json!({"event_id": id, "type": kind, "player_id": player, "occurred_at": now,
               "payload": {"score": random.random_range(0..1_000)}})
    });
    (ids.clone(), events.collect())
}

fn jiff_now() -> String {
    scoreline::domain::clock::Clock::system().now().to_string()
}

/// A client on a bad network: sends some batches twice, gives up on some answers and sends again.
async fn client(address: std::net::SocketAddr, key: String, seed: u64, batches: usize) -> Account {
    let mut random = StdRng::seed_from_u64(seed);
    let mut account = Account::default();
    let mut connection = None;
    for _ in 0..batches {
        let (ids, body) = batch(&mut random);
        let body = body.to_string();
        account.sent.extend(&ids);
        let mut copies = 1 + u32::from(random.random_bool(0.2));
        while copies > 0 {
            if connection.is_none() {
                connection = Connection::open(address).await.ok();
            }
            let Some(open) = connection.as_mut() else { continue };
            let answer =
                tokio::time::timeout(Duration::from_secs(5), open.post("/v1/events", &key, body.as_bytes())).await;
            match answer {
                Ok(Ok(202)) => {
                    account.acknowledged.extend(&ids);
                    copies -= 1;
                }
                Ok(Ok(503)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok(Ok(status)) => panic!("a good batch was answered {status}"),
                // No answer: the batch may or may not be queued. Send it again, unchanged.
                Ok(Err(_)) | Err(_) => {
                    account.unanswered += 1;
                    connection = None;
                }
            }
        }
    }
    account
}

#[tokio::test]
async fn every_acknowledged_event_is_stored_once_and_ranked_through_kills() {
    let mut system = system().await;
    system.rig.start(Role::Api).await.unwrap();
    system.rig.start_as(Role::Cron, "cron-a").await.unwrap();
    system.apply(&json!({"slug": "global", "event_type": "game_ended", "score": "/score"}));
    system.apply(&json!({"slug": "total", "event_type": "game_ended", "score": "/score", "operator": "incr"}));
    for (role, name) in
        [(Role::Worker, "worker-a"), (Role::Worker, "worker-b"), (Role::Cron, "cron-b"), (Role::Ingest, "ingest")]
    {
        system.rig.start_as(role, name).await.unwrap();
    }
    let sending = Arc::new(AtomicBool::new(true));
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|c| tokio::spawn(client(system.rig.ingest, system.server_key.clone(), c, EVENTS / BATCH / CLIENTS)))
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
    // Kill by turns for as long as the clients send, at least each one once.
    let mut turn = 0;
    while sending.load(Ordering::Relaxed) || turn < 3 {
        let (role, name) = [(Role::Worker, "worker-a"), (Role::Cron, "cron-a"), (Role::Worker, "worker-b")][turn % 3];
        wait_for_progress(&system).await;
        system.rig.kill(name).await.unwrap();
        system.rig.start_as(role, name).await.unwrap();
        turn += 1;
    }
    let accounts = done.await.unwrap();
    eventually("everything is stored, folded and published", Duration::from_secs(60), || system.is_quiet()).await;
    check_events(&system, &accounts).await;
    check_board(&system, "global", Aggregate::Best).await;
    check_board(&system, "total", Aggregate::Sum).await;
    system.rig.stop_all().await.unwrap();
}

/// Waits until something was stored since the last look, or everything is.
async fn wait_for_progress(system: &System) {
    let count = || async {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM events").fetch_one(&system.database.pool).await.unwrap()
    };
    let before = count().await;
    eventually("progress", Duration::from_secs(60), || async { count().await > before || system.jobs() == 0 }).await;
}

async fn check_events(system: &System, accounts: &[Account]) {
    let stored: Vec<Uuid> =
        sqlx::query_scalar("SELECT event_id FROM events").fetch_all(&system.database.pool).await.unwrap();
    let distinct: HashSet<Uuid> = stored.iter().copied().collect();
    assert_eq!(distinct.len(), stored.len(), "an event is stored twice");
    let sent: HashSet<Uuid> = accounts.iter().flat_map(|a| &a.sent).copied().collect();
    let acknowledged: HashSet<Uuid> = accounts.iter().flat_map(|a| &a.acknowledged).copied().collect();
    assert_eq!(acknowledged.len(), EVENTS, "every batch is acknowledged in the end");
    assert!(acknowledged.is_subset(&distinct), "lost: {}", acknowledged.difference(&distinct).count());
    assert!(distinct.is_subset(&sent), "stored what nobody sent");
}

#[derive(Clone, Copy)]
enum Aggregate {
    Best,
    Sum,
}

/// The whole board as the api pages it equals what plain SQL makes of the stored events.
async fn check_board(system: &System, slug: &str, aggregate: Aggregate) {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT player_id, (payload->>'score')::bigint FROM events WHERE type = 'game_ended'")
            .fetch_all(&system.database.pool)
            .await
            .unwrap();
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    for (player, score) in rows {
        let entry = expected.entry(player).or_insert(match aggregate {
            Aggregate::Best => i64::MIN,
            Aggregate::Sum => 0,
        });
        *entry = match aggregate {
            Aggregate::Best => (*entry).max(score),
            Aggregate::Sum => *entry + score,
        };
    }
    let mut api = Connection::open(system.rig.api).await.unwrap();
    let mut shown: BTreeMap<String, i64> = BTreeMap::new();
    let mut path = format!("/v1/leaderboards/{slug}/entries?limit=100");
    let mut last = (0, i64::MAX);
    loop {
        let (status, body) = api.get(&path, &system.client_key).await.unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(body));
        let page: Value = serde_json::from_slice(body).unwrap();
        for entry in page["entries"].as_array().unwrap() {
            let (rank, score) = (entry["rank"].as_u64().unwrap(), entry["score"].as_i64().unwrap());
            assert_eq!(rank, last.0 + 1, "ranks have a gap");
            assert!(score <= last.1, "ranks are out of order");
            last = (rank, score);
            shown.insert(entry["player_id"].as_str().unwrap().to_owned(), score);
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/leaderboards/{slug}/entries?limit=100&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(shown, expected, "board {slug} differs from the stored events");
}
