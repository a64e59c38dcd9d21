//! `endpoints.json`: where everything is, for scripts and tests.

use secrecy::ExposeSecret;

use super::command::UpConfig;
use super::demo::{Demo, GAME};
use super::roles::Running;

/// What the file holds. It names secrets: mode 0600, gone when everything has stopped.
#[derive(Debug, serde::Serialize)]
pub struct Endpoints {
    /// `http://host:port` of ingest.
    pub ingest: String,
    /// `http://host:port` of the api.
    pub api: String,
    /// Operations listeners by role.
    pub ops: Ops,
    /// Postgres.
    pub database_url: String,
    /// Redis.
    pub redis_url: String,
    /// The demo game.
    pub game: &'static str,
    /// Its publishable key.
    pub client_key: String,
    /// Its secret key.
    pub server_key: String,
    /// The operators' token.
    pub admin_token: String,
    /// This process.
    pub pid: u32,
}

/// Operations listeners by role.
#[derive(Debug, serde::Serialize)]
pub struct Ops {
    /// Of ingest.
    pub ingest: String,
    /// Of the api.
    pub api: String,
    /// Of the worker.
    pub worker: String,
    /// Of cron.
    pub cron: String,
}

impl Endpoints {
    /// The file's name in the home.
    pub const FILE: &'static str = "endpoints.json";

    /// Everything, now that it runs.
    pub fn new(config: &UpConfig, running: &Running, demo: &Demo) -> Self {
        let token = config.roles.api.admin_token.as_ref().map(|t| t.expose_secret().to_owned());
        Self {
            ingest: running.ingest_url(),
            api: running.api_url(),
            ops: Ops {
                ingest: format!("http://{}", running.ingest.operations),
                api: format!("http://{}", running.api.operations),
                worker: format!("http://{}", running.worker.operations),
                cron: format!("http://{}", running.cron.operations),
            },
            database_url: config.roles.postgres.database_url.expose_secret().to_owned(),
            redis_url: config.roles.redis.redis_url.expose_secret().to_owned(),
            game: GAME,
            client_key: demo.client_key.expose_secret().to_owned(),
            server_key: demo.server_key.expose_secret().to_owned(),
            admin_token: token.unwrap_or_default(),
            pid: std::process::id(),
        }
    }

    /// The file's text.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
