//! An ingest door on a real port and a private Redis, with games made by hand and a clock that tests drive.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use clap::Args;
use scoreline::directory::{Directory, GameEntry, KeyEntry, KeyKind};
use scoreline::domain::board::{BoardGeneration, CompiledBoard, GenerationState};
use scoreline::domain::clock::{Clock, Micros};
use scoreline::domain::ids::{BoardGenerationId, GameId, Slug};
use scoreline::http::server::{ServerConfig, serve};
use scoreline::ingest::{DoorSettings, IngestState, router};
use scoreline::queue::enqueue::EnqueueError;
use scoreline::runtime::lifecycle::Lifecycle;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::redis::TestRedis;

pub const CLIENT: &str = "client-key-of-the-demo-game";
pub const SERVER: &str = "server-key-of-the-demo-game";
pub const OTHER: &str = "server-key-of-another-game";
pub const OTHER_CLIENT: &str = "client-key-of-another-game";
pub const NOW: i64 = 1_800_000_000;

/// The defaults of a group of settings.
pub fn defaults<T: Args>() -> T {
    let command = T::augment_args(clap::Command::new("test"));
    let matches = command.mut_args(|arg| arg.env(None::<&str>)).get_matches_from(["test"]);
    T::from_arg_matches(&matches).unwrap()
}

pub fn settings(redis: &TestRedis) -> DoorSettings {
    let mut settings =
        DoorSettings { ingest: defaults(), limits: defaults(), http: defaults(), queue: defaults(), redis: defaults() };
    settings.redis.redis_url = redis.url.clone().into();
    settings
}

fn board(id: i32, spec: Value) -> Arc<CompiledBoard> {
    let generation = BoardGeneration {
        id: BoardGenerationId(id),
        leaderboard_id: id,
        game_id: GameId(1),
        since_generation: 1,
        state: GenerationState::Live,
        spec: serde_json::from_value(spec).unwrap(),
    };
    Arc::new(CompiledBoard::compile(generation).unwrap())
}

pub fn game(id: i32, slug: &str, player_events: Option<u32>, game_events: Option<u32>) -> GameEntry {
    let global = board(
        1,
        json!({"slug": "global", "event_type": "game_ended", "score": "/score", "min_score": 0, "max_score": 1_000_000}),
    );
    GameEntry {
        id: GameId(id),
        slug: Slug::parse(slug).unwrap(),
        limit_player_events: player_events,
        limit_game_events: game_events,
        feeds: HashMap::from([("game_ended".to_owned(), vec![global])]),
        leaderboards: HashMap::new(),
        unreadable: std::collections::HashSet::new(),
    }
}

pub fn directory(demo: GameEntry) -> Directory {
    let (demo, other) = (Arc::new(demo), Arc::new(game(2, "other", None, None)));
    let hash = |key: &str| -> [u8; 32] { Sha256::digest(key.as_bytes()).into() };
    let entry = |id, kind, game: &Arc<GameEntry>| KeyEntry { id, kind, game: Arc::clone(game) };
    Directory {
        version: 1,
        mark: String::new(),
        keys: HashMap::from([
            (hash(CLIENT), entry(1, KeyKind::Client, &demo)),
            (hash(SERVER), entry(2, KeyKind::Server, &demo)),
            (hash(OTHER), entry(3, KeyKind::Server, &other)),
            (hash(OTHER_CLIENT), entry(4, KeyKind::Client, &other)),
        ]),
        games: HashMap::from([(demo.slug.clone(), Arc::clone(&demo)), (other.slug.clone(), other)]),
        parts: HashMap::new(),
    }
}

/// A running door.
pub struct Door {
    pub address: SocketAddr,
    pub state: IngestState,
    pub directory: Arc<ArcSwap<Directory>>,
    clock: Arc<AtomicI64>,
    lifecycle: Lifecycle,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.lifecycle.soft.cancel();
        self.lifecycle.hard.cancel();
    }
}

/// Opens a door with the demo game without limits of its own.
pub async fn open(settings: DoorSettings) -> Door {
    open_with(settings, directory(game(1, "demo", None, None))).await
}

pub async fn open_with(settings: DoorSettings, directory: Directory) -> Door {
    let directory = Arc::new(ArcSwap::from_pointee(directory));
    let micros = Arc::new(AtomicI64::new(NOW * 1_000_000));
    let clock = Arc::clone(&micros);
    let lifecycle = Lifecycle::default();
    let clock_fn = Clock::from_fn(move || Micros(clock.load(Ordering::Relaxed)));
    let server = ServerConfig::public("ingest", &settings.http, Duration::ZERO);
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    let state = loop {
        let open = scoreline::ingest::open(settings.clone(), Arc::clone(&directory), clock_fn.clone(), &lifecycle);
        match open.await {
            Ok(state) => break state,
            // As at the start of a process: it waits for a queue that does not answer yet.
            Err(EnqueueError::Unreachable(_)) if tokio::time::Instant::now() < patience => {
                crate::support::look_again().await;
            }
            Err(error) => panic!("the door does not open: {error}"),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    lifecycle.tasks.spawn(serve(listener, router(state.clone()), server, clock_fn, lifecycle.clone()));
    Door { address, state, directory, clock: micros, lifecycle }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Value,
    pub text: String,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }

    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["status"], status);
        for member in ["type", "title", "detail"] {
            assert!(self.body[member].is_string(), "{member} in {self:?}");
        }
    }

    #[track_caller]
    pub fn counts(&self, accepted: u64, duplicate: u64, rejected: u64, retry: u64) {
        let found = ["accepted", "duplicate", "rejected", "retry"].map(|name| self.body[name].as_u64().unwrap());
        assert_eq!(found, [accepted, duplicate, rejected, retry], "{self:?}");
        assert_eq!(self.body["received"].as_u64().unwrap(), accepted + duplicate + rejected + retry);
    }
}

impl Door {
    /// Moves the door's clock.
    pub fn pass(&self, seconds: i64) {
        self.clock.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }

    /// Posts JSON to `/v1/events` with a key.
    pub async fn post(&self, key: &str, body: &Value) -> Answer {
        self.send(key, &[], body.to_string().as_bytes()).await
    }

    /// Posts bytes to `/v1/events` with a key and further headers.
    pub async fn send(&self, key: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let authorization = format!("Bearer {key}");
        let mut all = vec![("authorization", authorization.as_str())];
        all.extend_from_slice(headers);
        self.request("POST", "/v1/events", &all, body).await
    }

    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        self.raw(&[head.as_bytes(), body].concat()).await
    }

    /// Sends bytes as they are and reads the answer.
    pub async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(writer.write_all(bytes), reader.read_to_end(&mut answer));
        read.unwrap();
        parse(&answer)
    }
}

fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
    Answer { status, headers, body: serde_json::from_str(body).unwrap_or(Value::Null), text: body.to_owned() }
}

pub fn event(id: u32, kind: &str, player: &str) -> Value {
    json!({
        "event_id": format!("018f3b5e-7d1a-7c3e-9a55-{id:012x}"),
        "type": kind,
        "player_id": player,
        "occurred_at": NOW * 1_000,
        "payload": {"score": 4200},
    })
}

/// The waiting jobs of a lane, decoded: event ids and players.
pub fn lane(redis: &TestRedis, lane: &str) -> Vec<(String, String)> {
    let mut connection = redis.connection();
    let ids: Vec<String> =
        ::redis::cmd("LRANGE").arg(format!("{{sl:q0}}:{lane}")).arg(0).arg(-1).query(&mut connection).unwrap();
    let mut events = Vec::new();
    for id in ids {
        assert!(id.ends_with(&format!("-{}", &lane[..1])), "{id}");
        let bytes: Vec<u8> = ::redis::cmd("HGET").arg("{sl:q0}:jobs").arg(&id).query(&mut connection).unwrap();
        let job = scoreline::queue::payload::decode_persist_events(&bytes).unwrap();
        events.extend(job.events.iter().map(|e| (e.event_id.to_string(), e.player_id.to_owned())));
    }
    events
}

pub fn queued(redis: &TestRedis) -> usize {
    lane(redis, "high").len() + lane(redis, "low").len()
}
