//! Every role as a process of its own, at `LOG=debug`, with a canary for each secret there is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use scoreline::stack::ReservedPort;
use serde_json::Value;

use crate::stack::processes::Program;
use crate::support::postgres::{TestDatabase, database};
use crate::support::redis::{TestRedis, redis_with_password};
use crate::support::system::{PATIENCE, binaries};
use crate::support::{eventually, http, reserved_port};

/// Secrets that are chosen here.
pub struct Secrets {
    pub postgres: &'static str,
    pub redis: &'static str,
    pub admin: &'static str,
    pub payload: &'static str,
    /// A text that is not a key.
    pub guess: &'static str,
    /// The password part of HTTP Basic, `user:canary-basic`.
    pub basic: &'static str,
    /// In a query, where no secret belongs and some put one.
    pub query: &'static str,
}

pub const SECRETS: Secrets = Secrets {
    postgres: "canary-postgres-7Hs2",
    redis: "canary-redis-9Kq4",
    admin: "canary-admin-token-3Vx8-0Lm5-2Zt7",
    payload: "canary-payload-5Rw1",
    guess: "sl_server_canary-guess-8Jd6",
    basic: "dXNlcjpjYW5hcnktYmFzaWM=",
    query: "canary-query-4Ny3",
};

const ROLES: [&str; 4] = ["cron", "worker", "api", "ingest"];

pub struct Planted {
    pub database: TestDatabase,
    pub ingest: SocketAddr,
    pub api: SocketAddr,
    pub client_key: String,
    pub server_key: String,
    redis: TestRedis,
    /// A role of Postgres of its own, with a password of its own.
    user: String,
    database_url: String,
    operations: BTreeMap<&'static str, SocketAddr>,
    programs: Vec<Program>,
    reserved: Vec<ReservedPort>,
}

impl Planted {
    pub async fn start() -> Self {
        let (database, redis) = (database().await, redis_with_password(SECRETS.redis));
        let user = format!("canary_{}", std::process::id());
        let mut superuser = database.superuser().await;
        for statement in [
            format!("DROP ROLE IF EXISTS {user}"),
            format!("CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{}'", SECRETS.postgres),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut superuser).await.unwrap();
        }
        let host = database.url.split_once("://").unwrap().1;
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let database_url = format!("postgres://{user}:{}@{host}", SECRETS.postgres);
        let reserved: Vec<ReservedPort> = (0..ROLES.len() + 2).map(|_| reserved_port()).collect();
        let mut addresses = reserved.iter().map(ReservedPort::address);
        let mut local = || addresses.next().unwrap();
        let (ingest, api) = (local(), local());
        let operations = ROLES.map(|role| (role, local())).into();
        let (client_key, server_key) = (String::new(), String::new());
        let mut planted = Self {
            database,
            ingest,
            api,
            client_key,
            server_key,
            redis,
            user,
            database_url,
            operations,
            programs: Vec::new(),
            reserved,
        };
        let mut create = Command::new(env!("CARGO_BIN_EXE_scoreline"));
        create.args(["game", "create", "demo", "--json"]).envs(planted.environment());
        let output = create.output().unwrap();
        let game: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        planted.client_key = game["client_key"].as_str().unwrap().to_owned();
        planted.server_key = game["server_key"].as_str().unwrap().to_owned();
        for role in ROLES {
            let mut command = Command::new(binaries().join(role));
            command.envs(planted.environment()).env("OPS_LISTEN", planted.operations[role].to_string());
            planted.programs.push(Program::start(command, role));
        }
        for role in ROLES {
            let address = planted.operations[role];
            let started = || async {
                let Ok(_) = tokio::net::TcpStream::connect(address).await else { return false };
                http::get(address, "/readyz").await.0 == 200
            };
            eventually(role, PATIENCE, started).await;
        }
        planted
    }

    /// What every process is given.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("DATABASE_URL", self.database_url.clone()),
            ("REDIS_URL", self.redis.url.clone()),
            ("ADMIN_TOKEN", SECRETS.admin.to_owned()),
            ("LOG", "debug".to_owned()),
            ("INGEST_LISTEN", self.ingest.to_string()),
            ("API_LISTEN", self.api.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    pub fn operations(&self) -> Vec<SocketAddr> {
        self.operations.values().copied().collect()
    }

    /// Ends every connection to Postgres and Redis, so that errors are logged.
    pub async fn break_connections(&mut self) {
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
        sqlx::query(ended).bind(&self.user).execute(&mut self.database.superuser().await).await.unwrap();
        self.redis.kill();
        let request = format!(
            "POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: 37\r\n\r\n{}",
            self.server_key, r#"{"type":"game_ended","player_id":"p"}"#
        );
        eventually("the queue is missed", PATIENCE, || async { http::request(self.ingest, &request).await.0 == 503 })
            .await;
        self.redis.start();
        for role in ROLES {
            let address = self.operations[role];
            eventually(role, PATIENCE, || async { http::get(address, "/readyz").await.0 == 200 }).await;
        }
    }

    /// A worker whose passwords are refused says so, without them.
    pub async fn start_with_wrong_passwords(&mut self) {
        let wrong = |url: &str| url.replace("canary-", "canary-wrong-");
        let reserved = reserved_port();
        let address = reserved.address();
        self.reserved.push(reserved);
        let mut command = Command::new(binaries().join("worker"));
        command.envs(self.environment()).env("OPS_LISTEN", address.to_string());
        command.env("DATABASE_URL", wrong(&self.database_url)).env("REDIS_URL", wrong(&self.redis.url));
        let worker = Program::start(command, "worker");
        eventually("it says what it waits for", PATIENCE, || async { worker.output().contains("waiting for") }).await;
        self.operations.insert("wrong", address);
        self.programs.push(worker);
    }

    /// What Redis tells whoever asks: its state, its clients, the names of its keys.
    pub fn redis_says(&self) -> Vec<String> {
        let mut connection = self.redis.connection();
        let info: String = redis::cmd("INFO").arg("everything").query(&mut connection).unwrap();
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        assert!(!keys.is_empty());
        vec![info, clients, keys.join("\n")]
    }

    /// Stops everything; the lines of all logs.
    pub async fn stop(&mut self) -> Vec<String> {
        for program in &self.programs {
            program.terminate();
        }
        let mut lines = Vec::new();
        for program in &mut self.programs {
            assert_eq!(program.ended().await, Some(0), "{}", program.output());
            lines.extend(program.output().lines().map(str::to_owned));
        }
        lines
    }

    /// Every secret by what it is.
    pub fn secrets(&self) -> Vec<(&'static str, String)> {
        let hash = |key: &str| hex::encode(scoreline::directory::hash_key(key));
        vec![
            ("Postgres's password", SECRETS.postgres.to_owned()),
            ("Redis's password", SECRETS.redis.to_owned()),
            ("a wrong password", "canary-wrong".to_owned()),
            ("the admin token", SECRETS.admin.to_owned()),
            ("a payload", SECRETS.payload.to_owned()),
            ("a wrong key", SECRETS.guess.to_owned()),
            ("an Authorization header", SECRETS.basic.to_owned()),
            ("a password of HTTP Basic", "canary-basic".to_owned()),
            ("a query", SECRETS.query.to_owned()),
            ("the client key", self.client_key.clone()),
            ("the server key", self.server_key.clone()),
            ("the server key's hash", hash(&self.server_key)),
        ]
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        // A role belongs to the server that tests share, not to this database.
        let (superuser, user) = (self.database.as_superuser(), self.user.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect_with(&superuser).await.unwrap();
                let statement = format!("DROP ROLE IF EXISTS {user}");
                let _ = sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await;
            });
        });
        let _ = dropping.join();
    }
}
