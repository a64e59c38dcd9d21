//! Both doors and an operations listener on real ports, a game whose every name is a canary, and another game.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::Method;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use scoreline::directory::DirectorySource;
use scoreline::domain::clock::{Clock, Micros};
use scoreline::http::server::{ServerConfig, serve};
use scoreline::process::listener::Operations;
use scoreline::runtime::lifecycle::Lifecycle;
use serde_json::{Value, json};

use crate::api::world::{Answer, Game, NOW, World, board};
use crate::ingest::door;
use crate::support::eventually;
use crate::support::system::PATIENCE;

/// Names that nobody but the first game's keys and the operators may ever see.
pub const CANARIES: [&str; 5] = ["canary-game", "canary-board", "canary-player", "canary-letter", "canary-label"];

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Api,
    Ingest,
    Operations,
}

pub struct Stage {
    pub world: World,
    pub ingest: SocketAddr,
    pub operations: SocketAddr,
    /// The game `canary-game`: the private board `canary-board` and the public one `open-board`.
    pub mine: Game,
    /// The game `other`.
    pub other: Game,
    /// A client key of `canary-game` that was revoked.
    pub revoked: String,
    /// A dead letter of `canary-game`.
    pub letter: String,
    /// What ingest's router says of itself.
    pub ingest_router: String,
    lifecycle: Lifecycle,
    http: Client<HttpConnector, Full<Bytes>>,
    next_address: AtomicU32,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.lifecycle.soft.cancel();
        self.lifecycle.hard.cancel();
    }
}

impl Stage {
    pub async fn new() -> Self {
        let proxy: ipnet::IpNet = "127.0.0.0/8".parse().unwrap();
        let world = World::with(|http| http.trusted_proxies.push(proxy)).await;
        let (mine, other) = (world.game("canary-game").await, world.game("other").await);
        for (slug, public) in [("canary-board", false), ("open-board", true)] {
            let mut spec = board(slug);
            spec["public"] = json!(public);
            let generation = world.board(&mine, spec).await;
            world.publish(generation, Micros::EPOCH, 1, &[("canary-player", 7), ("p-2", 5)]).await;
        }
        let wanted = json!({"kind": "client", "label": "canary-label"});
        let made = world.send(Method::POST, "/v1/admin/keys", Some(&mine.server), &wanted).await.json();
        let revoked = made["key"].as_str().unwrap().to_owned();
        let path = format!("/v1/admin/keys/{}", made["id"]);
        assert!(world.send(Method::DELETE, &path, Some(&mine.server), &json!({})).await.status.is_success());
        let letter = "018f3b5e-7d1a-7c3e-9a55-000000000001".to_owned();
        sqlx::query(
            "INSERT INTO dead_letters (id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes,
                                       payload, body, received_at)
             VALUES ($1::uuid, '1-n:canary-letter-l', 'q0', 'low', 'persist-events', $2, 'crashed', 'canary-letter', 3, 0,
                     'x', '{\"of\":\"canary-letter\"}', now())",
        )
        .bind(&letter)
        .bind(mine.id.0)
        .execute(&world.db.pool)
        .await
        .unwrap();

        let lifecycle = Lifecycle::default();
        let source = DirectorySource::open(&world.redis.url, "sl").unwrap();
        let directory = source.wait_for_first(None, &world.stop).await.unwrap();
        tokio::spawn(source.follow(directory.clone(), world.stop.clone()));
        eventually("ingest forgets the key", PATIENCE, || async {
            directory.load().authenticate(&revoked).is_none() && directory.load().authenticate(&other.client).is_some()
        })
        .await;
        let mut settings = door::settings(&world.redis);
        settings.http.trusted_proxies.push(proxy);
        let server = ServerConfig::public("ingest", &settings.http, Duration::ZERO);
        let clock = Clock::from_fn(|| NOW);
        let state = scoreline::ingest::open(settings, directory, clock.clone(), &lifecycle).await.unwrap();
        let router = scoreline::ingest::router(state);
        let ingest_router = format!("{router:?}");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ingest = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, router, server, clock.clone(), lifecycle.clone()));
        let operations = Operations::start("api", "127.0.0.1:0".parse().unwrap(), &clock, &lifecycle).await.unwrap();
        Self {
            ingest,
            operations: operations.address,
            mine,
            other,
            revoked,
            letter,
            ingest_router,
            lifecycle,
            http: Client::builder(TokioExecutor::new()).build_http(),
            next_address: AtomicU32::new(0),
            world,
        }
    }

    /// Sends a request as a client that nobody has heard of before, so that no limit of an earlier one touches it.
    pub async fn ask(&self, door: Door, method: &Method, path: &str, key: Option<&str>, body: &Value) -> Answer {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.send(door, method, path, key, &[("content-type", "application/json")], text.into()).await
    }

    pub async fn send(
        &self,
        door: Door,
        method: &Method,
        path: &str,
        key: Option<&str>,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let address = match door {
            Door::Api => self.world.address,
            Door::Ingest => self.ingest,
            Door::Operations => self.operations,
        };
        let client = std::net::Ipv4Addr::from_bits(0x0B00_0000 + self.next_address.fetch_add(1, Ordering::Relaxed));
        let uri = format!("http://{address}{path}");
        let mut request =
            hyper::Request::builder().method(method).uri(uri).header("x-forwarded-for", client.to_string());
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.http.request(request.body(Full::new(body)).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }
}
