//! A replica of Redis that lags takes over, a real one: what it does not have is made good, and no version of a board
//! is used twice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use scoreline::bench::load::Connection;
use scoreline::bench::rig::Role;
use scoreline::chaos::accounts::Account;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::redis::{TestRedis, redis};
use crate::support::switch::Switch;
use crate::support::system::{BOARDS, PATIENCE, System, system};
use crate::support::{eventually, http, look_again};

/// After an address has moved, work goes on within this time (README, "What is promised").
const RECOVERY: Duration = Duration::from_secs(5);

fn replicate(redis: &TestRedis, from: Option<u16>) {
    let mut command = redis::cmd("REPLICAOF");
    match from {
        Some(port) => command.arg("127.0.0.1").arg(port),
        None => command.arg("NO").arg("ONE"),
    };
    command.exec(&mut redis.connection()).unwrap();
}

fn replication(redis: &TestRedis) -> String {
    redis::cmd("INFO").arg("replication").query(&mut redis.connection()).unwrap()
}

/// How far a server's stream of writes has come, or what it has of another's.
fn offset(redis: &TestRedis, field: &str) -> i64 {
    let told = replication(redis);
    told.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok()).unwrap()
}

async fn is_in_step(replica: &TestRedis) {
    eventually("the replica has everything", PATIENCE, || {
        let told = replication(replica);
        std::future::ready(told.contains("role:slave") && told.contains("master_link_status:up"))
    })
    .await;
}

/// Whoever reads a board all the time. An answer never has a lower version than an earlier one, and two of one
/// version say the same.
struct Reader {
    stop: CancellationToken,
    pages: Arc<AtomicUsize>,
    task: JoinHandle<(i64, Vec<String>)>,
}

impl Reader {
    fn of(api: SocketAddr, key: &str, slug: &'static str) -> Self {
        let (stop, pages) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted, key) = (stop.clone(), pages.clone(), key.to_owned());
        let path = format!("/v1/leaderboards/{slug}/entries?limit=100");
        let task = tokio::spawn(async move {
            let (mut last, mut wrong, mut seen) = (0, Vec::new(), HashMap::<i64, Value>::new());
            while !stopped.is_cancelled() {
                let Ok(mut connection) = Connection::open(api).await else { continue };
                while let Ok((200, body)) = connection.get(&path, &key).await {
                    let page: Value = serde_json::from_slice(body).unwrap();
                    let version = page["version"].as_i64().unwrap();
                    if version < last {
                        wrong.push(format!("{slug}: version {version} after {last}"));
                    }
                    let said = json!([page["entries"], page["total"]]);
                    let before = seen.entry(version).or_insert_with(|| said.clone());
                    if *before != said {
                        wrong.push(format!("{slug}: version {version} said {before} and then {said}"));
                    }
                    last = version.max(last);
                    counted.fetch_add(1, Ordering::Relaxed);
                    if stopped.is_cancelled() {
                        break;
                    }
                    look_again().await;
                }
                look_again().await;
            }
            (last, wrong)
        });
        Self { stop, pages, task }
    }

    fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    async fn finish(self) -> i64 {
        self.stop.cancel();
        let (last, wrong) = self.task.await.unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
        last
    }
}

/// A batch of one event under an `Idempotency-Key`, and what is answered: the status, and the batch's name
/// or the refusal.
async fn send(system: &System, event: Uuid, at: &str, key: &str) -> (u16, String) {
    let body = json!([{"event_id": event, "type": "level_progress", "player_id": "p", "occurred_at": at}]).to_string();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Idempotency-Key: {key}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        system.server_key,
        body.len()
    );
    let (status, body) = http::request(system.rig.ingest, &request).await;
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let said = answer["batch_id"].as_str().or(answer["code"].as_str()).unwrap_or_default();
    (status, said.to_owned())
}

async fn readiness(system: &System, role: Role) -> (u16, String) {
    http::get(system.rig.operations(role.name()).unwrap(), "/readyz").await
}

#[tokio::test]
async fn a_replica_that_lags_takes_over_and_no_version_of_a_board_goes_back() {
    let (mut system, replica) = (system().await, redis());
    let (front, link) = (Switch::to(system.redis.port).await, Switch::to(system.redis.port).await);
    system.rig.services.redis_url = front.url();
    system.start_all().await;
    let load = system.load(2, 20);
    system.progress(100).await;
    replicate(&replica, Some(link.port));
    is_in_step(&replica).await;
    let now = scoreline::runtime::clock::system().now().to_string();
    let (kept, lost) = (Uuid::new_v4(), Uuid::new_v4());
    let kept_key = "receipt-that-the-replica-has";
    let (status, kept_batch) = send(&system, kept, &now, kept_key).await;
    assert_eq!(status, 202, "{kept_batch}");
    // Not by WAIT: it would keep this thread, on which what leads to the replica runs as well.
    let written = offset(&system.redis, "master_repl_offset:");
    eventually("the replica has what was written so far", PATIENCE, || {
        std::future::ready(offset(&replica, "slave_repl_offset:") >= written)
    })
    .await;
    let readers = BOARDS.map(|(slug, _)| Reader::of(system.rig.api, &system.client_key, slug));

    // From here on it lags. What is acknowledged is stored before it takes over, so that nothing may be lost.
    link.lead_to(None);
    let lost_key = "receipt-that-only-the-first-has";
    let (status, lost_batch) = send(&system, lost, &now, lost_key).await;
    assert_eq!(status, 202, "{lost_batch}");
    system.progress(400).await;
    let mut accounts = load.stop().await;
    eventually("everything is stored, folded and published", PATIENCE, || system.is_quiet()).await;
    let versions = |redis: &TestRedis| -> Vec<i64> {
        let mut connection = redis.connection();
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("{sl:b3:*}:version").query(&mut connection).unwrap();
        keys.sort();
        redis::cmd("MGET").arg(keys).query(&mut connection).unwrap()
    };
    let first = versions(&system.redis);
    let behind = versions(&replica);
    assert!(behind.iter().zip(&first).all(|(behind, first)| behind < first), "it lags: {behind:?}, {first:?}");
    let pages = readers.iter().map(Reader::pages).collect::<Vec<_>>();

    // The replica takes over, and the first becomes its replica before the address has moved: it is of another history
    // now, under its old name, and takes no writes.
    replicate(&replica, None);
    replicate(&system.redis, Some(replica.port));
    is_in_step(&system.redis).await;
    for role in [Role::Ingest, Role::Worker, Role::Cron] {
        eventually("it says that it is not ready, and why", PATIENCE, || async {
            let (status, body) = readiness(&system, role).await;
            status == 503 && body.contains("replica")
        })
        .await;
    }
    let refused = send(&system, Uuid::new_v4(), &now, "refused-for-it-is-a-replica").await;
    assert_eq!(refused, (503, "queue_unreachable".to_owned()));

    let first_server = std::mem::replace(&mut system.redis, replica);
    front.lead_to(Some(system.redis.port));
    let (moved, load) = (Instant::now(), system.load(2, 20));
    let stored = system.stored().await;
    eventually("events are acknowledged and stored again", RECOVERY, || async {
        load.acknowledged() > 0 && system.stored().await > stored
    })
    .await;
    eprintln!("work went on {:?} after the address had moved", moved.elapsed());
    for role in [Role::Ingest, Role::Worker, Role::Cron] {
        eventually("it is ready again", RECOVERY, || async { readiness(&system, role).await.0 == 200 }).await;
    }
    // The receipt that was replicated is the old one. The other is gone, and its event is stored once all the same.
    assert_eq!(send(&system, kept, &now, kept_key).await, (202, kept_batch));
    let (status, batch) = send(&system, lost, &now, lost_key).await;
    assert_eq!(status, 202, "{batch}");
    assert_ne!(batch, lost_batch);
    system.progress(200).await;
    accounts.extend(load.stop().await);
    let mut by_hand = Account::default();
    by_hand.sent.extend([kept, lost]);
    by_hand.acknowledged.extend([kept, lost]);
    accounts.push(by_hand);
    eventually("everything is stored, folded and published", PATIENCE, || system.is_quiet()).await;
    eventually("boards are later than they ever were", PATIENCE, || {
        let now = versions(&system.redis);
        std::future::ready(now.len() == first.len() && now.iter().zip(&first).all(|(now, first)| now > first))
    })
    .await;
    for (reader, before) in readers.into_iter().zip(pages) {
        eventually("readers read on", PATIENCE, || std::future::ready(reader.pages() > before + 5)).await;
        let last = reader.finish().await;
        assert!(last > 0);
    }
    drop(first_server);
    system.settle(&accounts).await;
}
