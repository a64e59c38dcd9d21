//! The real programs: `scoreline up`, and each role alone.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use scoreline::redis_connection::{Connection, Timeouts};
use scoreline::services::directory_publication::publish_if_stale;

use crate::support::{self, eventually};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A program that is ended with this value, and its output.
pub struct Program {
    child: Child,
    output: PathBuf,
}

impl Program {
    pub fn start(mut command: Command, name: &str) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let output = std::env::temp_dir().join(format!("scoreline-{name}-{}-{number}.out", std::process::id()));
        let file = std::fs::File::create(&output).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, output }
    }

    pub fn output(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(&self.output).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub async fn ended(&mut self) -> Option<i32> {
        let mut code = None;
        let (child, found) = (&mut self.child, &mut code);
        let started = std::time::Instant::now();
        while found.is_none() && started.elapsed() < PATIENCE {
            *found = child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1));
            support::look_again().await;
        }
        code
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.terminate();
            let _ = self.child.wait();
        }
        let _ = std::fs::remove_file(&self.output);
    }
}

const ANY_PORT: [(&str, &str); 6] = [
    ("INGEST_LISTEN", "127.0.0.1:0"),
    ("API_LISTEN", "127.0.0.1:0"),
    ("INGEST_OPS_LISTEN", "127.0.0.1:0"),
    ("API_OPS_LISTEN", "127.0.0.1:0"),
    ("WORKER_OPS_LISTEN", "127.0.0.1:0"),
    ("CRON_OPS_LISTEN", "127.0.0.1:0"),
];

pub fn up(home: &Path) -> Program {
    Program::start(up_command(home), "up")
}

fn up_command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scoreline"));
    command
        .args(["up", "--no-traffic", "--home"])
        .arg(home)
        .envs(ANY_PORT)
        .env_remove("DATABASE_URL")
        .env_remove("DATABASE_MIGRATE_URL")
        .env_remove("REDIS_URL");
    command
}

pub async fn endpoints(home: &Path, program: &Program) -> serde_json::Value {
    let file = home.join("endpoints.json");
    let what = "endpoints.json";
    let started = std::time::Instant::now();
    while !file.exists() {
        let output = program.output();
        assert!(!output.contains("error:") && started.elapsed() < PATIENCE, "no {what}: {output}");
        support::look_again().await;
    }
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

pub fn address(url: &serde_json::Value) -> std::net::SocketAddr {
    url.as_str().unwrap().trim_start_matches("http://").parse().unwrap()
}

#[tokio::test]
async fn up_runs_every_role_writes_its_endpoints_keeps_its_keys_and_stops_all_it_started() {
    let home = std::env::temp_dir().join(format!("scoreline-up-{}", std::process::id()));
    let mut first = up(&home);
    let at = endpoints(&home, &first).await;
    for role in ["ingest", "api", "worker", "cron"] {
        let (status, body) = support::http::get(address(&at["ops"][role]), "/readyz").await;
        assert_eq!(status, 200, "{role}: {body}");
        let metrics = support::http::get(address(&at["ops"][role]), "/metrics").await.1;
        assert!(metrics.contains(&format!("role=\"{role}\"")), "{metrics}");
        let lines = metrics.lines().filter(|line| !line.starts_with('#'));
        assert!(lines.clone().all(|line| line.contains(&format!("role=\"{role}\""))), "{metrics}");
    }
    let key = at["server_key"].as_str().unwrap();
    let request =
        format!("GET /v1/leaderboards HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n");
    let (status, body) = support::http::request(address(&at["api"]), &request).await;
    assert!(status == 200 && ["global", "weekly", "wins"].iter().all(|slug| body.contains(slug)), "{status} {body}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(home.join("endpoints.json")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // The same home twice is refused, without harm to the first.
    let mut second = up(&home);
    assert_eq!(second.ended().await, Some(2));
    assert!(second.output().contains("another copy runs"), "{}", second.output());
    assert_eq!(support::http::get(address(&at["ops"]["api"]), "/readyz").await.0, 200);

    first.terminate();
    assert_eq!(first.ended().await, Some(0), "{}", first.output());
    assert!(!home.join("endpoints.json").exists());
    assert!(std::net::TcpStream::connect(address(&at["api"])).is_err());
    let redis = at["redis_url"].as_str().unwrap();
    assert!(redis::Client::open(redis).unwrap().get_connection().is_err(), "Redis still runs");

    let again = up(&home);
    let then = endpoints(&home, &again).await;
    for kept in ["client_key", "server_key", "admin_token"] {
        assert_eq!(then[kept], at[kept]);
    }
    let canaries = [&at["server_key"], &at["admin_token"]];
    let log = std::fs::read_to_string(home.join("redis.log")).unwrap();
    assert!(canaries.iter().all(|c| !log.contains(c.as_str().unwrap())));
    drop(again);
    std::fs::remove_dir_all(home).unwrap();
}

#[tokio::test]
async fn a_role_alone_waits_for_what_it_needs_says_so_and_stops_when_told() {
    let operations = support::reserved_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command
        .env("DATABASE_URL", "postgres://someone:canary-password@127.0.0.1:1/none")
        .env("REDIS_URL", "redis://:canary-password@127.0.0.1:1")
        .env("OPS_LISTEN", operations.address().to_string());
    let mut worker = Program::start(command, "worker");
    eventually("it says what it waits for", PATIENCE, || async { worker.output().contains("waiting for postgres") })
        .await;
    let (status, body) = support::http::get(operations.address(), "/readyz").await;
    assert!(status == 503 && body.contains("postgres"), "{status} {body}");
    worker.terminate();
    assert_eq!(worker.ended().await, Some(0), "{}", worker.output());
    let (log, metrics) = (worker.output(), body);
    assert!(!log.contains("canary") && !metrics.contains("canary"), "{log}");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("every log line is JSON");
    }
}

#[tokio::test]
async fn ingest_starts_without_a_limits_redis_that_is_apart_and_says_so() {
    let (operations, redis) = (support::reserved_port(), support::redis::redis());
    let database = support::postgres::database().await;
    let mut cache = Connection::open(&redis.url, Timeouts::default()).unwrap();
    publish_if_stale(&database.pool, &mut cache, "sl").await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingest"));
    command
        .env("REDIS_URL", &redis.url)
        .env("REDIS_LIMITS_URL", "redis://127.0.0.1:1")
        .env("INGEST_LISTEN", "127.0.0.1:0")
        .env("OPS_LISTEN", operations.address().to_string());
    let ingest = Program::start(command, "ingest");
    let degraded = || async {
        let listens = std::net::TcpStream::connect(operations.address()).is_ok();
        listens && support::http::get(operations.address(), "/readyz").await.0 == 200
    };
    eventually("it serves", PATIENCE, degraded).await;
    let (status, body) = support::http::get(operations.address(), "/readyz").await;
    let said: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, said["state"].as_str()), (200, Some("degraded")), "{body}");
    assert_eq!(said["dependencies"]["redis_limits"]["ready"], false, "{body}");
    assert!(ingest.output().contains("starting without it"), "{}", ingest.output());
}

#[tokio::test]
async fn every_command_runs_without_leaving_a_core() {
    let commands: [&[&str]; 5] =
        [&["migrate"], &["config"], &["game", "list"], &["dead-letters", "list"], &["rebuild", "--game", "demo"]];
    for arguments in commands {
        // Somebody who never answers, so that the command is still there when we look.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_scoreline"));
        command
            .args(arguments)
            .env("DATABASE_URL", format!("postgres://someone:canary@{}/none", silent.local_addr().unwrap()))
            .env_remove("DATABASE_MIGRATE_URL");
        let program = Program::start(command, "command");
        let _connection = tokio::time::timeout(PATIENCE, silent.accept()).await.expect(arguments[0]).unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.child.id())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core[26..].split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"], "{arguments:?}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_the_setting_that_chose_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingest"));
    command.env("OPS_LISTEN", address.to_string());
    let mut ingest = Program::start(command, "ingest");
    assert_eq!(ingest.ended().await, Some(2));
    let output = ingest.output();
    assert!(output.contains(&address.to_string()) && output.contains("OPS_LISTEN"), "{output}");

    // In one process with others each has its own.
    let home = std::env::temp_dir().join(format!("scoreline-taken-{}", std::process::id()));
    for (setting, other) in [("API_OPS_LISTEN", "INGEST_OPS_LISTEN"), ("INGEST_LISTEN", "API_LISTEN")] {
        let mut command = up_command(&home);
        command.env(setting, address.to_string());
        let mut up = Program::start(command, "up");
        assert_eq!(up.ended().await, Some(2), "{}", up.output());
        let output = up.output();
        assert!(output.contains(&format!("{address}, where {setting} says")), "{output}");
        assert!(!output.contains(other), "{output}");
    }
    std::fs::remove_dir_all(home).unwrap();
}

#[tokio::test]
async fn a_role_refuses_an_older_schema_and_migrate_mends_it_and_a_newer_one_is_no_obstacle() {
    let database = support::postgres::empty_database().await;
    let redis = support::redis::redis();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cron"));
        command.env("DATABASE_URL", &database.url).env("REDIS_URL", &redis.url).env("OPS_LISTEN", "127.0.0.1:0");
        Program::start(command, "cron")
    };
    let mut refused = start();
    assert_eq!(refused.ended().await, Some(2));
    assert!(refused.output().contains("scoreline migrate"), "{}", refused.output());
    let migrate = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scoreline"));
        command.arg("migrate").args(more).env("DATABASE_URL", &database.url);
        command.env("DATABASE_MIGRATE_URL", &database.owner_url).output().unwrap()
    };
    assert_eq!(migrate(&["status"]).status.code(), Some(4));
    assert_eq!(migrate(&[]).status.code(), Some(0));
    assert_eq!(migrate(&["status"]).status.code(), Some(0));
    // A later version has been here; this one was rolled back to.
    sqlx::query("INSERT INTO _sqlx_migrations VALUES (29991231235959, 'of later', now(), true, '', 0)")
        .execute(&mut database.owner().await)
        .await
        .unwrap();
    let rolled_back = migrate(&[]);
    assert_eq!(rolled_back.status.code(), Some(0), "{rolled_back:?}");
    let mut cron = start();
    eventually("it runs", PATIENCE, || async { cron.output().contains("\"running\"") }).await;
    cron.terminate();
    assert_eq!(cron.ended().await, Some(0), "{}", cron.output());
}

/// Whoever starts it again each second leaves no rows behind, which count as connections.
#[tokio::test]
async fn a_role_that_cannot_start_signs_off() {
    let (database, redis) = (support::postgres::database().await, support::redis::redis());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_api"));
    command
        .env("DATABASE_URL", &database.url)
        .env("REDIS_URL", &redis.url)
        .env("OPS_LISTEN", "127.0.0.1:0")
        .env("API_LISTEN", taken.local_addr().unwrap().to_string());
    let mut api = Program::start(command, "api");
    assert_eq!(api.ended().await, Some(2), "{}", api.output());
    assert!(api.output().contains("where API_LISTEN says"), "{}", api.output());
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM processes").fetch_one(&database.pool).await.unwrap();
    assert_eq!(left, 0, "{}", api.output());
}

#[tokio::test]
async fn ingest_that_is_stopped_while_it_waits_for_its_queue_ends_well() {
    let database = support::postgres::database().await;
    let (redis, mut queue) = (support::redis::redis(), support::redis::redis());
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingest"));
    command
        .env("REDIS_URL", &redis.url)
        .env("REDIS_QUEUE_URL", &queue.url)
        .env("INGEST_LISTEN", "127.0.0.1:0")
        .env("OPS_LISTEN", "127.0.0.1:0");
    let mut ingest = Program::start(command, "ingest");
    eventually("it waits for the directory", PATIENCE, async || ingest.output().contains("waiting for cron")).await;
    // It was there, and is gone when that wait is over.
    queue.kill();
    let mut cache = Connection::open(&redis.url, Timeouts::default()).unwrap();
    publish_if_stale(&database.pool, &mut cache, "sl").await.unwrap();
    eventually("it waits for the queue", PATIENCE, async || ingest.output().contains("waiting for queue")).await;
    ingest.terminate();
    assert_eq!(ingest.ended().await, Some(0), "{}", ingest.output());
}

/// Whatever runs already finishes what it has in hand, and signs off.
#[tokio::test]
async fn what_is_stopped_while_it_starts_ends_what_it_has_begun() {
    let database = support::postgres::database().await;
    let redis = support::redis::redis();
    let home = std::env::temp_dir().join(format!("scoreline-starting-{}", std::process::id()));
    let alone = || Command::new(env!("CARGO_BIN_EXE_cron"));
    for mut command in [up_command(&home), alone()] {
        command
            .env("DATABASE_URL", &database.url)
            .env("DATABASE_MIGRATE_URL", &database.owner_url)
            .env("REDIS_URL", &redis.url)
            // Nobody is there: all but the api wait for it.
            .env("REDIS_QUEUE_URL", "redis://127.0.0.1:1")
            .env("OPS_LISTEN", "127.0.0.1:0");
        let mut program = Program::start(command, "starting");
        let registered = async || -> i64 {
            sqlx::query_scalar("SELECT count(*) FROM processes").fetch_one(&database.pool).await.unwrap()
        };
        eventually("it says that it runs", PATIENCE, async || registered().await > 0).await;
        eventually("it waits", PATIENCE, async || program.output().contains("waiting for redis_queue")).await;
        // Whoever signs off waits for the table. It would not wait for a row.
        let mut holding = database.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE processes IN ACCESS EXCLUSIVE MODE").execute(&mut *holding).await.unwrap();
        program.terminate();
        support::nothing_happens_for(Duration::from_millis(500)).await;
        holding.rollback().await.unwrap();
        assert_eq!(program.ended().await, Some(0), "{}", program.output());
        assert_eq!(registered().await, 0, "{}", program.output());
    }
    std::fs::remove_dir_all(home).unwrap();
}
