//! A running api, and a client that talks to it over TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use scoreline::api::settings::{ApiConfig, GameBoundsConfig};
use scoreline::api::{ApiSettings, ApiState};
use scoreline::directory::{DirectorySource, KeyKind};
use scoreline::domain::board::Order;
use scoreline::domain::clock::{Clock, Micros};
use scoreline::domain::game_bounds::GameBounds;
use scoreline::domain::ids::{BoardGenerationId, GameId, Slug};
use scoreline::domain::period::Period;
use scoreline::domain::ranking_key::Standing;
use scoreline::http::server::{ServerConfig, serve};
use scoreline::http::settings::HttpConfig;
use scoreline::queue::{Connection, Queue, Timeouts};
use scoreline::ranking::{PublishedEntry, Ranking};
use scoreline::runtime::lifecycle::Lifecycle;
use scoreline::services::board_rebuild::rebuild_board;
use scoreline::services::directory_publication::publish_if_stale;
use scoreline::store::audit_log::Actor;
use scoreline::store::pool::Pool;
use scoreline::store::{games, keys, leaderboards, periods};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_util::sync::CancellationToken;

use crate::support;
use crate::support::gate::Gate;

pub const ADMIN: &str = "an-admin-token-of-the-tests";

/// Reads without a key of one address within a minute that ask Postgres.
pub const PUBLIC_READS: u32 = 300;

/// 2026-11-21 (a Saturday) 10:00 UTC.
pub const NOW: Micros = Micros::from_seconds(1_795_255_200);

pub struct World {
    pub db: support::postgres::TestDatabase,
    pub redis: support::redis::TestRedis,
    pub ranking: Ranking,
    pub now: Arc<AtomicI64>,
    pub stop: CancellationToken,
    pub address: SocketAddr,
    /// The router as it describes itself.
    pub router: String,
    http: Client<HttpConnector, Full<Bytes>>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{:?}", self.body);
        self.json()["code"].as_str().unwrap().to_owned()
    }

    pub fn players(&self) -> Vec<String> {
        let json = self.json();
        let entries = json["entries"].as_array().unwrap_or_else(|| panic!("no entries: {json}"));
        entries.iter().map(|e| e["player_id"].as_str().unwrap().to_owned()).collect()
    }

    pub fn ranks(&self) -> Vec<u64> {
        self.json()["entries"].as_array().unwrap().iter().map(|e| e["rank"].as_u64().unwrap()).collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

pub struct Game {
    pub id: GameId,
    pub client: String,
    pub server: String,
}

/// A leaderboard of `/score` in `game_ended`.
pub fn board(slug: &str) -> Value {
    serde_json::json!({"slug": slug, "event_type": "game_ended", "score": "/score"})
}

/// What differs from one api to the next.
#[derive(Default)]
struct Setup {
    /// The database, and how the api reaches it, where it is not as the tests do.
    postgres: Option<(support::postgres::TestDatabase, Pool)>,
    replica: Option<Pool>,
    /// No notice comes to it.
    deaf: bool,
    bounds: GameBounds,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut HttpConfig)) -> Self {
        Self::built(change, Setup::default()).await
    }

    pub async fn with_bounds(bounds: GameBounds) -> Self {
        Self::built(|_| (), Setup { bounds, ..Setup::default() }).await
    }

    pub async fn with_replica(replica: Pool) -> Self {
        Self::built(|_| (), Setup { replica: Some(replica), ..Setup::default() }).await
    }

    /// An api to which no notice comes.
    pub async fn deaf() -> Self {
        Self::built(|_| (), Setup { deaf: true, ..Setup::default() }).await
    }

    /// An api that reaches its database through this pool.
    pub async fn through(db: support::postgres::TestDatabase, pool: Pool) -> Self {
        Self::built(|_| (), Setup { postgres: Some((db, pool)), ..Setup::default() }).await
    }

    /// An api on one connection to Postgres, behind a gate.
    pub async fn gated() -> (Self, Gate) {
        let db = support::postgres::database().await;
        let options: PgConnectOptions = db.url.parse().unwrap();
        let gate = Gate::before(options.get_host().to_owned(), options.get_port()).await;
        let options = options.host("127.0.0.1").port(gate.address.port());
        let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(false).connect_lazy_with(options);
        (Self::through(db, Pool::new(pool)).await, gate)
    }

    async fn built(change: impl FnOnce(&mut HttpConfig), setup: Setup) -> Self {
        let Setup { postgres, replica, deaf, bounds } = setup;
        let (db, pool) = match postgres {
            Some(given) => given,
            None => {
                let db = support::postgres::database().await;
                let pool = db.pool.clone();
                (db, pool)
            }
        };
        let redis = support::redis::redis();
        let ranking = Ranking::open(&redis.url, "sl").unwrap();
        let mut connection = Connection::open(&redis.url, Timeouts::default()).unwrap();
        publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap();
        let stop = CancellationToken::new();
        let source = DirectorySource::open(&redis.url, "sl").unwrap();
        let directory = source.wait_for_first(None, &stop).await.unwrap();
        tokio::spawn(source.follow(directory.clone(), stop.clone()));
        let now = Arc::new(AtomicI64::new(NOW.0));
        let reading = now.clone();
        let clock = Clock::from_fn(move || Micros(reading.load(Ordering::Relaxed)));
        let mut http = HttpConfig {
            http_header_timeout_seconds: 10,
            http_body_timeout_seconds: 10,
            http_idle_seconds: 60,
            http_max_connections: 1_000,
            http_max_connections_per_address: 1_000,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
        };
        change(&mut http);
        let GameBounds {
            max_leaderboards,
            max_leaderboards_per_event_type,
            max_definition_bytes,
            max_keys,
            max_changes_per_minute,
        } = bounds;
        let state = ApiState::new(ApiSettings {
            replica,
            directory,
            pool,
            ranking: ranking.clone(),
            queue: Queue::open(&redis.url, "sl", "q0", Timeouts::default()).unwrap(),
            queue_name: "q0".to_owned(),
            cache_redis: connection,
            redis_prefix: "sl".to_owned(),
            clock: clock.clone(),
            config: ApiConfig {
                api_listen: "127.0.0.1:0".parse().unwrap(),
                admin_token: Some(ADMIN.to_owned().into()),
                public_max_age: 1,
                rate_limit_public_reads: PUBLIC_READS,
                bounds: GameBoundsConfig {
                    max_leaderboards,
                    max_leaderboards_per_event_type,
                    max_definition_bytes,
                    max_keys,
                    max_changes_per_minute,
                },
            },
            http: http.clone(),
        })
        .unwrap();
        if !deaf {
            tokio::spawn(state.clone().follow_boards(stop.clone()));
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = scoreline::api::router(state);
        let description = format!("{router:?}");
        let lifecycle = Lifecycle::default();
        let server = ServerConfig::public("api", &http, Duration::ZERO);
        tokio::spawn(serve(listener, router, server, clock, lifecycle.clone()));
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            stopped.await;
            lifecycle.soft.cancel();
        });
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { db, redis, ranking, now, stop, address, router: description, http }
    }

    pub async fn publish_directory(&self) {
        let mut connection = Connection::open(&self.redis.url, Timeouts::default()).unwrap();
        publish_if_stale(&self.db.pool, &mut connection, "sl").await.unwrap();
    }

    pub async fn game(&self, slug: &str) -> Game {
        let mut tx = self.db.pool.begin().await.unwrap();
        let slug = Slug::parse(slug).unwrap();
        let actor = Actor::CommandLine;
        let id = games::create(&mut tx, &slug, "Test", actor).await.unwrap().unwrap().id;
        let mut made = Vec::new();
        for kind in [KeyKind::Client, KeyKind::Server] {
            let (_, secret) = keys::create(&mut tx, id, kind, None, actor, rand::random()).await.unwrap();
            made.push(secret.expose_secret().to_owned());
        }
        tx.commit().await.unwrap();
        self.publish_directory().await;
        let game = Game { id, server: made.pop().unwrap(), client: made.pop().unwrap() };
        support::eventually("the api knows the game", std::time::Duration::from_secs(5), || async {
            self.get("/v1/leaderboards", Some(&game.client)).await.status == StatusCode::OK
        })
        .await;
        game
    }

    /// Creates a board that is ready in Redis.
    pub async fn board(&self, game: &Game, json: Value) -> BoardGenerationId {
        let slug = json["slug"].as_str().unwrap().to_owned();
        let answer = self.send(Method::PUT, &format!("/v1/admin/leaderboards/{slug}"), Some(&game.server), &json).await;
        assert!(answer.status.is_success(), "{:?}", answer.body);
        let all = leaderboards::list(&self.db.pool, game.id).await.unwrap();
        let found = all.iter().find(|b| b.spec.slug.as_str() == slug).unwrap();
        let generation = found.live.unwrap();
        self.make_ready(generation).await;
        generation
    }

    pub async fn make_ready(&self, generation: BoardGenerationId) {
        rebuild_board(&self.db.pool, &self.ranking, generation, Order::Descending, "cron", |_| ()).await.unwrap();
    }

    /// Publishes scores of one period, a day's unless it is the only one; `version` guards them as a fold's would.
    pub async fn publish(&self, generation: BoardGenerationId, start: Micros, version: i64, scores: &[(&str, i64)]) {
        let day = Period { starts_at: start, ends_at: Some(start.plus_seconds(86_400)) };
        let period = if start == Micros::EPOCH { Period::WHOLE } else { day };
        self.publish_period(generation, period, version, scores).await;
    }

    /// Likewise, of a week.
    pub async fn publish_week(&self, generation: BoardGenerationId, start: Micros, scores: &[(&str, i64)]) {
        let week = Period { starts_at: start, ends_at: Some(start.plus_seconds(7 * 86_400)) };
        self.publish_period(generation, week, 1, scores).await;
    }

    async fn publish_period(
        &self,
        generation: BoardGenerationId,
        period: Period,
        version: i64,
        scores: &[(&str, i64)],
    ) {
        let entries: Vec<PublishedEntry<'_>> = scores
            .iter()
            .zip(0..)
            .map(|((player_id, score), n)| PublishedEntry {
                player_id,
                standing: Some(Standing { score: *score, subscore: 0, reached_at: Micros(NOW.0 + n) }),
            })
            .collect();
        self.ranking.publish(generation, &period, Order::Descending, version, &entries).await.unwrap();
    }

    /// A board with this definition, made weekly, and its last week: over since Monday, 2026-11-16.
    pub async fn last_week(&self, game: &Game, mut json: Value) -> (BoardGenerationId, periods::StoredPeriod, Period) {
        json["reset"] = "weekly".into();
        let generation = self.board(game, json).await;
        let monday = Micros::from_seconds(1_794_787_200);
        let last = Period { starts_at: monday.plus_seconds(-7 * 86_400), ends_at: Some(monday) };
        (generation, periods::ensure(&self.db.pool, generation, &last).await.unwrap(), last)
    }

    /// Writes entries of a period to Postgres.
    pub async fn store(&self, generation: BoardGenerationId, period: periods::StoredPeriod, scores: &[(&str, i64)]) {
        assert!(generation.0 > 0);
        for ((player_id, score), n) in scores.iter().zip(0i64..) {
            sqlx::query(
                "INSERT INTO leaderboard_entries (period_id, player_id, score, subscore, reached_at, event_id, plays,
                                                  version, metadata)
                 VALUES ($1, $2, $3, 0, $4, gen_random_uuid(), $5, nextval('entry_version'), '{\"car\":\"red\"}')",
            )
            .bind(period.id)
            .bind(player_id)
            .bind(score)
            .bind(Micros(NOW.0 + n))
            .bind(n + 1)
            .execute(&self.db.pool)
            .await
            .unwrap();
        }
    }

    /// More entries than are answered from Postgres.
    pub async fn store_many(&self, period: &periods::StoredPeriod) {
        sqlx::query(
            "INSERT INTO leaderboard_entries
                    (period_id, player_id, score, subscore, reached_at, event_id, plays, version)
             SELECT $1, 'p-' || n, n, 0, now(), gen_random_uuid(), 1, nextval('entry_version')
               FROM generate_series(1, 1200) n
             ON CONFLICT DO NOTHING",
        )
        .bind(period.id)
        .execute(&self.db.pool)
        .await
        .unwrap();
    }

    /// Postgres has gone back in time, and the api hears of it.
    pub async fn begin_era(&self) {
        support::eventually("the api listens", Duration::from_secs(5), async || {
            let mut redis = self.redis.connection();
            let listeners: Vec<(String, i64)> =
                redis::cmd("PUBSUB").arg("NUMSUB").arg("sl:boards").query(&mut redis).unwrap();
            listeners[0].1 > 0
        })
        .await;
        let known = self.ranking.beacon().await.unwrap();
        assert!(self.ranking.begin_era(known.as_ref(), 1, uuid::Uuid::new_v4()).await.unwrap());
    }

    pub async fn get(&self, path: &str, key: Option<&str>) -> Answer {
        self.request(Method::GET, path, key, &[], Bytes::new()).await
    }

    pub async fn send(&self, method: Method, path: &str, key: Option<&str>, body: &Value) -> Answer {
        self.request(method, path, key, &[], Bytes::from(body.to_string())).await
    }

    pub async fn request(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let uri = format!("http://{}{path}", self.address);
        let mut request = hyper::Request::builder().method(method).uri(uri);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.http.request(request.body(Full::new(body)).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
