//! The whole system as its real binaries, on a private database and a private Redis.

use std::path::PathBuf;
use std::process::Command;

use scoreline::bench::rig::{Rig, Services};

use super::postgres::TestDatabase;
use super::redis::TestRedis;

/// Running services, a game, and a rig that starts roles on them.
pub struct System {
    pub rig: Rig,
    pub database: TestDatabase,
    pub redis: TestRedis,
    pub client_key: String,
    pub server_key: String,
}

/// The folder of the binaries under test.
pub fn binaries() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_scoreline")).parent().unwrap().to_owned()
}

/// Makes a system with the game `demo`; no role runs yet.
pub async fn system() -> System {
    let database = super::postgres::database().await;
    let redis = super::redis::redis();
    let services =
        Services { database_url: database.url.clone(), postgres_pid: 0, redis_url: redis.url.clone(), redis_pid: 0 };
    let rig = Rig::new(services, binaries()).unwrap();
    let mut system = System { rig, database, redis, client_key: String::new(), server_key: String::new() };
    let game = system.cli(&["game", "create", "demo", "--json"]);
    system.client_key = find(&game, "client_key").expect("the game's first client key is printed");
    system.server_key = find(&game, "server_key").expect("the game's first server key is printed");
    system
}

impl System {
    /// Runs a command of the operator's CLI and returns its JSON.
    pub fn cli(&self, arguments: &[&str]) -> serde_json::Value {
        let output = Command::new(env!("CARGO_BIN_EXE_scoreline"))
            .args(arguments)
            .env("DATABASE_URL", &self.database.url)
            .env("REDIS_URL", &self.redis.url)
            .output()
            .unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "scoreline {arguments:?}: {}\n{stdout}\n{stderr}", output.status);
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("scoreline {arguments:?}: {e}\n{stdout}\n{stderr}"))
    }

    /// Creates or edits a leaderboard.
    pub fn apply(&self, spec: &serde_json::Value) {
        let file = std::env::temp_dir().join(format!("scoreline-spec-{}.json", uuid::Uuid::new_v4()));
        std::fs::write(&file, spec.to_string()).unwrap();
        self.cli(&["leaderboard", "apply", file.to_str().unwrap(), "--game", "demo", "--json"]);
        std::fs::remove_file(file).unwrap();
    }

    /// How many jobs Redis holds, whatever their state.
    pub fn jobs(&self) -> i64 {
        redis::cmd("HLEN").arg("{sl:q0}:jobs").query(&mut self.redis.connection()).unwrap()
    }

    /// Whether nothing is under way: no job, no fact, no marker.
    pub async fn is_quiet(&self) -> bool {
        if self.jobs() > 0 {
            return false;
        }
        let waiting: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM score_facts) OR EXISTS (SELECT FROM dirty_entries)")
                .fetch_one(&self.database.pool)
                .await
                .unwrap();
        !waiting
    }
}

fn find(value: &serde_json::Value, name: &str) -> Option<String> {
    match value {
        serde_json::Value::Object(fields) => fields.iter().find_map(|(key, inner)| match inner {
            serde_json::Value::String(text) if key == name => Some(text.clone()),
            inner => find(inner, name),
        }),
        serde_json::Value::Array(items) => items.iter().find_map(|inner| find(inner, name)),
        _ => None,
    }
}
