//! What an operator does to a system that works, and what happens to it: services that go away and come back, and
//! orders to stop. Nothing acknowledged is lost, no process ends by itself, and nobody needs to help.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scoreline::bench::rig::Role;
use scoreline::chaos::accounts::{Account, Load};
use scoreline::runtime::clock;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::postgres_server::PostgresServer;
use crate::support::system::{PATIENCE, System, system};
use crate::support::{eventually, http};

const BATCH: usize = 20;
/// After Redis or Postgres is back, work goes on within this time (README, "What is promised").
const RECOVERY: Duration = Duration::from_secs(5);

impl System {
    /// Waits until, within the promised time, something new was acknowledged and something new is stored.
    async fn recovers(&self, what: &str, load: &Load) {
        let (acknowledged, stored, back) = (load.acknowledged(), self.stored().await, Instant::now());
        eventually("events are acknowledged and stored again", RECOVERY, || async {
            load.acknowledged() > acknowledged && self.stored().await > stored
        })
        .await;
        eprintln!("{what} was back; work went on after {:?}", back.elapsed());
    }
}

#[tokio::test]
async fn redis_killed_and_restarted_under_load_loses_nothing_and_work_goes_on() {
    let mut system = system().await;
    system.start_all().await;
    let load = system.load(2, BATCH);
    for _ in 0..2 {
        system.progress(100).await;
        system.redis.kill();
        let refused = load.refused();
        eventually("batches are refused", PATIENCE, || async { load.refused() > refused + 2 }).await;
        system.redis.start();
        system.recovers("Redis", &load).await;
        assert_eq!(system.rig.dead(), Vec::<String>::new());
    }
    let accounts = load.stop().await;
    system.settle(&accounts).await;
}

#[tokio::test]
async fn postgres_stopped_at_once_and_restarted_under_load_loses_nothing_and_work_goes_on() {
    let mut server = PostgresServer::start().await;
    let pool = server.pool();
    scoreline::store::migrations::update(&server.owner_url, &server.url).await.unwrap();
    let mut system = System::on(&server.url, pool, None);
    system.start_all().await;
    let load = system.load(2, BATCH);
    for _ in 0..2 {
        system.progress(100).await;
        server.stop_immediately().await;
        // The door stays open meanwhile.
        let acknowledged = load.acknowledged();
        eventually("batches are acknowledged", PATIENCE, || async { load.acknowledged() > acknowledged + 200 }).await;
        assert!(system.jobs() > 0);
        server.start_again().await;
        system.recovers("Postgres", &load).await;
        assert_eq!(system.rig.dead(), Vec::<String>::new());
    }
    let accounts = load.stop().await;
    system.settle(&accounts).await;
}

#[tokio::test]
async fn every_role_stops_cleanly_under_load_and_answers_what_it_has_in_hand() {
    let mut system = system().await;
    system.start_all().await;
    let load = system.load(2, BATCH);
    let mut last = Account::default();
    for role in [Role::Worker, Role::Cron, Role::Api, Role::Ingest] {
        system.progress(100).await;
        let in_hand = match role {
            Role::Ingest => Some(InHand::begin(system.rig.ingest, &system.server_key).await),
            _ => None,
        };
        system.rig.signal(role.name(), Signal::TERM).unwrap();
        if let Some(in_hand) = in_hand {
            let operations = system.rig.operations(role.name()).unwrap();
            eventually("it is not ready any more", PATIENCE, || async {
                http::get(operations, "/readyz").await.0 != 200
            })
            .await;
            last.acknowledged.insert(in_hand.finish().await);
        }
        let status = system.rig.ended(role.name()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{} stopped with {status}", role.name());
        system.rig.start(role).await.unwrap();
    }
    system.progress(1).await;
    let mut accounts = load.stop().await;
    last.sent = last.acknowledged.clone();
    accounts.push(last);
    system.settle(&accounts).await;
}

/// A batch of which half has been sent.
struct InHand {
    stream: TcpStream,
    event: Uuid,
    rest: String,
}

impl InHand {
    /// Sends the head and half of the body, once the server has begun to read it.
    async fn begin(address: SocketAddr, key: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let (event, now) = (Uuid::new_v4(), clock::system().now().to_string());
        let body = json!([{"event_id": event, "type": "level_progress", "player_id": "last", "occurred_at": now}]);
        let body = body.to_string();
        let (first, rest) = body.split_at(body.len() / 2);
        let length = body.len();
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&answer[..read]));
        stream.write_all(first.as_bytes()).await.unwrap();
        Self { stream, event, rest: rest.to_owned() }
    }

    /// Sends the rest, which must be acknowledged; returns the event.
    async fn finish(mut self) -> Uuid {
        self.stream.write_all(self.rest.as_bytes()).await.unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        self.event
    }
}
