//! The whole system as its real binaries, on a private database and a private Redis.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use scoreline::bench::rig::{Rig, Role, Services};
use scoreline::chaos::accounts::{Account, Load};
use scoreline::chaos::shown::{Place, shown};
use scoreline::domain::clock::Micros;
use scoreline::store::pool::Pool;
use serde_json::{Value, json};
use uuid::Uuid;

use super::eventually;
use super::postgres::TestDatabase;
use super::redis::TestRedis;

/// How long anything may take that has no bound of its own, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Running services, a game, and a rig that starts roles on them.
pub struct System {
    pub rig: Rig,
    pub pool: Pool,
    pub redis: TestRedis,
    pub client_key: String,
    pub server_key: String,
    _database: Option<TestDatabase>,
}

/// The folder of the binaries under test.
pub fn binaries() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_scoreline")).parent().unwrap().to_owned()
}

/// Makes a system with the game `demo`; no role runs yet.
pub async fn system() -> System {
    let database = super::postgres::database().await;
    System::on(&database.url.clone(), database.pool.clone(), Some(database))
}

/// How a board makes a player's score of all their scores.
#[derive(Clone, Copy)]
pub enum Aggregate {
    Best,
    Sum,
}

/// The boards of [`System::start_all`]: one that forgives repeats, and one that does not.
pub const BOARDS: [(&str, Aggregate); 2] = [("global", Aggregate::Best), ("total", Aggregate::Sum)];

impl System {
    /// A system on a migrated database; `owned` is dropped with it.
    pub fn on(database_url: &str, pool: Pool, owned: Option<TestDatabase>) -> Self {
        let redis = super::redis::redis();
        let (database_url, redis_url) = (database_url.to_owned(), redis.url.clone());
        let services = Services { database_url, postgres_pid: 0, redis_url, redis_pid: 0 };
        let mut rig = Rig::new(services, binaries()).unwrap();
        // The jobs of the killed go to others sooner.
        rig.environment.push(("QUEUE_LEASE_SECONDS".to_owned(), "2".to_owned()));
        let (client_key, server_key) = (String::new(), String::new());
        let mut system = Self { rig, pool, redis, client_key, server_key, _database: owned };
        let game = system.cli(&["game", "create", "demo", "--json"]);
        system.client_key = find(&game, "client_key").expect("the game's first client key is printed");
        system.server_key = find(&game, "server_key").expect("the game's first server key is printed");
        system
    }

    /// Starts a process of each role, called by its name, and makes the boards.
    pub async fn start_all(&mut self) {
        self.rig.start(Role::Cron).await.unwrap();
        self.apply_board("global", Aggregate::Best);
        self.apply_board("total", Aggregate::Sum);
        for role in [Role::Api, Role::Worker, Role::Ingest] {
            self.rig.start(role).await.unwrap();
        }
        eventually("the boards are live", PATIENCE, || self.is_quiet()).await;
    }

    /// Clients that send until they are stopped.
    pub fn load(&self, clients: u64, events: usize) -> Load {
        Load::start(self.rig.ingest, &self.server_key, clients, events)
    }

    /// Runs a command of the operator's CLI and returns its JSON.
    pub fn cli(&self, arguments: &[&str]) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_scoreline"))
            .args(arguments)
            .env("DATABASE_URL", &self.rig.services.database_url)
            .env("REDIS_URL", &self.redis.url)
            .output()
            .unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "scoreline {arguments:?}: {}\n{stdout}\n{stderr}", output.status);
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("scoreline {arguments:?}: {e}\n{stdout}\n{stderr}"))
    }

    /// Creates a leaderboard of `game_ended`.
    pub fn apply_board(&self, slug: &str, aggregate: Aggregate) {
        let operator = match aggregate {
            Aggregate::Best => "best",
            Aggregate::Sum => "incr",
        };
        self.apply(&json!({"slug": slug, "event_type": "game_ended", "score": "/score", "operator": operator}));
    }

    /// Creates or edits a leaderboard.
    pub fn apply(&self, spec: &Value) {
        let file = std::env::temp_dir().join(format!("scoreline-spec-{}.json", Uuid::new_v4()));
        std::fs::write(&file, spec.to_string()).unwrap();
        self.cli(&["leaderboard", "apply", file.to_str().unwrap(), "--game", "demo", "--json"]);
        std::fs::remove_file(file).unwrap();
    }

    /// How many jobs Redis holds, whatever their state.
    pub fn jobs(&self) -> i64 {
        redis::cmd("HLEN").arg("{sl:q0}:jobs").query(&mut self.redis.connection()).unwrap()
    }

    /// How many events are stored.
    pub async fn stored(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&self.pool).await.unwrap()
    }

    /// Whether nothing is under way: no job, no fact, no marker, no recompute.
    pub async fn is_quiet(&self) -> bool {
        if self.jobs() > 0 {
            return false;
        }
        let waiting: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM score_facts) OR EXISTS (SELECT FROM dirty_entries) \
             OR EXISTS (SELECT FROM leaderboard_generations WHERE state = 'building')",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap();
        !waiting
    }

    /// Waits until another `events` events are stored.
    pub async fn progress(&self, events: i64) {
        let before = self.stored().await;
        eventually("progress", PATIENCE, || async { self.stored().await >= before + events }).await;
    }

    /// Waits until nothing is under way; then holds what is stored and shown against what clients were told: everything
    /// acknowledged is stored once, nothing is given up, nothing is stored that nobody sent, and the boards are what
    /// SQL makes of the events. Then everything stops cleanly.
    pub async fn settle(mut self, accounts: &[Account]) {
        eventually("everything is stored, folded and published", PATIENCE, || self.is_quiet()).await;
        let stored: Vec<Uuid> = sqlx::query_scalar("SELECT event_id FROM events").fetch_all(&self.pool).await.unwrap();
        let distinct: HashSet<Uuid> = stored.iter().copied().collect();
        assert_eq!(distinct.len(), stored.len(), "an event is stored twice");
        let union = |of: fn(&Account) -> &HashSet<Uuid>| -> HashSet<Uuid> {
            accounts.iter().flat_map(|a| of(a).iter().copied()).collect()
        };
        let (sent, acknowledged) = (union(|a| &a.sent), union(|a| &a.acknowledged));
        let wrong: Vec<&String> = accounts.iter().flat_map(|a| &a.wrong).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(!acknowledged.is_empty());
        assert!(acknowledged.is_subset(&distinct), "lost: {}", acknowledged.difference(&distinct).count());
        assert!(distinct.is_subset(&sent), "stored what nobody sent");
        let dead: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters").fetch_one(&self.pool).await.unwrap();
        assert_eq!(dead, 0, "good jobs were given up");
        for (slug, aggregate) in BOARDS {
            self.check_board(slug, aggregate).await;
        }
        assert_eq!(self.rig.dead(), Vec::<String>::new(), "a process ended by itself");
        for name in self.rig.names() {
            let status = self.rig.stop(&name).await.unwrap();
            assert!(status.success(), "{name} stopped with {status}");
        }
    }

    /// The whole board as the api pages it, in its order, equals what plain SQL makes of the stored events.
    pub async fn check_board(&self, slug: &str, aggregate: Aggregate) {
        let moment = "(extract(epoch FROM occurred_at) * 1000000)::bigint";
        // Of equal scores the first counts; a sum was reached with the last event that moved it, one of zeros
        // with the first.
        let by_player = match aggregate {
            Aggregate::Best => format!(
                "SELECT DISTINCT ON (player_id) player_id, score, {moment} AS reached_at FROM scores
                                         ORDER BY player_id, score DESC, occurred_at"
            ),
            Aggregate::Sum => format!(
                "SELECT player_id, sum(score)::bigint AS score,
                        coalesce(max({moment}) FILTER (WHERE score <> 0), min({moment})) AS reached_at
                   FROM scores GROUP BY player_id"
            ),
        };
        let ranked = format!(
            "WITH scores AS (SELECT player_id, occurred_at, (payload->>'score')::bigint AS score
                               FROM events WHERE type = 'game_ended')
             SELECT player_id, score, reached_at FROM ({by_player}) players
              ORDER BY score DESC, reached_at, player_id COLLATE \"C\""
        );
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as(sqlx::AssertSqlSafe(ranked)).fetch_all(&self.pool).await.unwrap();
        let place = |((player, score, at), rank)| Place { rank, player, score, reached_at: Micros(at) };
        let expected: Vec<Place> = rows.into_iter().zip(1..).map(place).collect();
        // The notice of the last publication may still be on its way to the api.
        let started = std::time::Instant::now();
        loop {
            match shown(self.rig.api, &self.client_key, slug, None).await {
                Ok(shown) if shown == expected => return,
                shown if started.elapsed() > Duration::from_secs(5) => {
                    assert_eq!(shown.as_ref(), Ok(&expected), "board {slug} differs from the stored events");
                }
                _ => super::look_again().await,
            }
        }
    }
}

fn find(value: &Value, name: &str) -> Option<String> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(key, inner)| match inner {
            Value::String(text) if key == name => Some(text.clone()),
            inner => find(inner, name),
        }),
        Value::Array(items) => items.iter().find_map(|inner| find(inner, name)),
        _ => None,
    }
}
