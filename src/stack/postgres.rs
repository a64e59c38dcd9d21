//! A private Postgres: its own data, loopback, a password, and settings for one small machine with its reasons.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::process::Command;
use tokio::time::Instant;

use super::binaries::{self, PostgresBinaries, ServiceUser};
use super::daemon::{Daemon, Identity, Stop};
use super::postgres_roles::{self, ADMIN, Passwords};
use super::{Home, ReservedPort, StackError, StackOptions};

/// SIGINT is Postgres's *fast* shutdown: it rolls back, writes a checkpoint and ends. (SIGTERM waits for clients.)
pub const STOP: Stop = Stop { signal: Signal::INT, patience: Duration::from_secs(60) };
/// How long recovery after a crash may take.
const START: Duration = Duration::from_secs(180);
/// Its file in the data folder says that `initdb` has finished.
const MADE: &str = "scoreline.made";

/// A Postgres that this process started.
#[derive(Debug)]
pub struct PrivatePostgres {
    /// `postgres://…` as the role of the processes, password included.
    pub url: String,
    /// The same database as the role that owns the schema.
    pub owner_url: String,
    /// The same database as the server's superuser.
    pub admin_url: String,
    pub(super) daemon: Daemon,
    pub(super) start: Start,
    pub(super) log: PathBuf,
    _port: ReservedPort,
}

/// How it is started, once and again.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) program: PathBuf,
    /// The port comes second.
    pub(super) arguments: Vec<String>,
    pub(super) data: PathBuf,
    pub(super) user: Option<ServiceUser>,
    pub(super) admin: PgConnectOptions,
}

impl Start {
    pub(super) fn run(&self, log: &Path) -> std::io::Result<Daemon> {
        let mut command = Command::new(&self.program);
        command.arg("-D").arg(&self.data).args(&self.arguments).current_dir(&self.data);
        binaries::run_as(&mut command, self.user);
        Daemon::start(command, log)
    }
}

impl PrivatePostgres {
    /// As `pg_ctl stop -m immediate`: every connection ends, nothing is written. [`PrivatePostgres::start_again`]
    /// brings it back.
    pub(super) async fn stop_immediately(&mut self) {
        self.daemon.kill(Signal::QUIT).await;
    }

    /// Starts it with its port and its data, and waits until it answers.
    pub(super) async fn start_again(&mut self) -> Result<(), StackError> {
        let not_up = |reason: String| StackError::NotUp { service: "Postgres", reason, log: self.log.clone() };
        self.daemon = self.start.run(&self.log).map_err(|e| not_up(e.to_string()))?;
        answers(&self.start.admin, &mut self.daemon).await.map_err(not_up)
    }
}

/// Starts it, making its data first where there are none.
///
/// # Errors
/// [`StackError`].
pub async fn start(home: &Home, options: &StackOptions) -> Result<PrivatePostgres, StackError> {
    let user = binaries::postgres_user()?;
    let data = data_folder(home, user).await?;
    let identity = Identity { program: "postgres", directory: data.clone(), pid_file: data.join("postmaster.pid") };
    identity.stop_stale(STOP).await;
    let programs = binaries::postgres(data_version(&data)).await?;
    let passwords = Passwords::of(home)?;
    let log = home.join("postgres.log");
    let not_up = |reason: String| StackError::NotUp { service: "Postgres", reason, log: log.clone() };
    if !data.join(MADE).is_file() {
        make_data(&programs, &data, user, &passwords.admin).await.map_err(not_up)?;
    }
    let lz4 = supports_lz4(&programs, &data, user).await;
    let port = ReservedPort::new().map_err(|e| not_up(e.to_string()))?;
    let mut arguments = vec!["-p".to_owned(), port.port().to_string()];
    for (name, value) in settings(options, lz4) {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    let admin = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port.port())
        .username(ADMIN)
        .password(&passwords.admin)
        .database("postgres");
    let program = programs.folder.join("postgres");
    let start = Start { program, arguments, data, user, admin };
    let mut daemon = start.run(&log).map_err(|e| not_up(e.to_string()))?;
    let ready = match answers(&start.admin, &mut daemon).await {
        Ok(()) => postgres_roles::prepare(&start.admin, &passwords).await.map_err(|e| e.to_string()),
        Err(reason) => Err(reason),
    };
    if let Err(reason) = ready {
        daemon.stop(STOP).await;
        return Err(not_up(reason));
    }
    let [url, owner_url, admin_url] = passwords.urls(port.address());
    Ok(PrivatePostgres { url, owner_url, admin_url, daemon, start, log, _port: port })
}

/// The machine's memory; 4 GiB where it does not tell.
pub(super) fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or(4 << 30, |kib: u64| kib << 10)
}

/// What differs from the server's defaults, and why.
fn settings(options: &StackOptions, lz4: bool) -> Vec<(&'static str, String)> {
    let memory_mb = memory_bytes() >> 20;
    let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
    vec![
        ("listen_addresses", "127.0.0.1".to_owned()),
        // Paths of sockets are limited to 107 bytes, a home may be deeper.
        ("unix_socket_directories", String::new()),
        ("max_connections", options.max_connections.to_string()),
        // Durability is part of the promise; only tests turn it off.
        ("fsync", switch(options.durable)),
        ("synchronous_commit", switch(options.durable)),
        ("full_page_writes", switch(options.durable)),
        // Room for the hot partition's index and the entries; the operating system caches the rest.
        ("shared_buffers", format!("{}MB", (memory_mb / 8).clamp(128, 2048))),
        ("effective_cache_size", format!("{}MB", (memory_mb / 2).max(256))),
        ("maintenance_work_mem", "128MB".to_owned()),
        ("work_mem", "16MB".to_owned()),
        // After a checkpoint the first change of each page logs the whole page: the fewer checkpoints the less WAL.
        ("max_wal_size", "4GB".to_owned()),
        ("min_wal_size", "512MB".to_owned()),
        ("checkpoint_timeout", "15min".to_owned()),
        ("wal_buffers", "16MB".to_owned()),
        ("wal_compression", if lz4 { "lz4" } else { "off" }.to_owned()),
        // Nothing replicates a private server, but in chaos.
        ("wal_level", if options.replicas { "replica" } else { "minimal" }.to_owned()),
        ("max_wal_senders", if options.replicas { "4" } else { "0" }.to_owned()),
        // Outbox rows live for milliseconds: look for dead ones more often than each minute. Each look starts a
        // process, which is what a system at rest spends most on.
        ("autovacuum_naptime", "30s".to_owned()),
        // Statements are short; compiling them costs more than it saves.
        ("jit", "off".to_owned()),
        // Storage without seeks.
        ("random_page_cost", "1.1".to_owned()),
        ("log_checkpoints", "off".to_owned()),
    ]
}

/// The data folder, owned and reachable by whoever runs Postgres: in the home, or, when that lies where the
/// `postgres` user cannot go (for example under `/root`), in a folder of `/var/tmp` named after the home.
async fn data_folder(home: &Home, user: Option<ServiceUser>) -> Result<PathBuf, StackError> {
    let inside = home.join("postgres");
    make_owned(&inside, user)?;
    if binaries::can_reach(&inside, user).await {
        return Ok(inside);
    }
    let name = hex::encode(&Sha256::digest(home.path().as_os_str().as_encoded_bytes())[..8]);
    let outside = PathBuf::from(format!("/var/tmp/scoreline-{name}"));
    make_owned(&outside, user)?;
    if !binaries::can_reach(&outside, user).await {
        return Err(StackError::Unusable(format!(
            "the postgres user can reach neither {} nor {}; choose another folder with --home",
            inside.display(),
            outside.display()
        )));
    }
    // Only a pointer for people: it is found again by its name.
    let _ = std::fs::write(home.join("postgres.moved-to"), outside.as_os_str().as_encoded_bytes());
    Ok(outside)
}

pub(super) fn make_owned(folder: &Path, user: Option<ServiceUser>) -> Result<(), StackError> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {
            if let Some(user) = user {
                std::os::unix::fs::chown(folder, Some(user.uid), Some(user.gid))
                    .map_err(StackError::file("cannot hand over", folder))?;
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StackError::file("cannot make", folder)(error)),
    }
    if binaries::owns(folder, user) {
        return Ok(());
    }
    Err(StackError::Unusable(format!(
        "{} belongs to another user (did an earlier run have other rights?); remove it or choose another folder with --home",
        folder.display()
    )))
}

fn data_version(data: &Path) -> Option<u32> {
    std::fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok().filter(|_| data.join(MADE).is_file())
}

/// `initdb`; what an interrupted one left is cleared away first.
async fn make_data(
    programs: &PostgresBinaries,
    data: &Path,
    user: Option<ServiceUser>,
    password: &str,
) -> Result<(), String> {
    for entry in std::fs::read_dir(data).map_err(|e| e.to_string())?.flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|e| e.to_string())?;
    }
    // Outside the data folder, which initdb wants empty; readable by the user who runs it.
    let password_file = tempfile_for(data, user, password).map_err(|e| e.to_string())?;
    let mut command = Command::new(programs.folder.join("initdb"));
    command
        .arg("-D")
        .arg(data)
        .args(["-U", ADMIN, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"])
        .arg(format!("--pwfile={}", password_file.display()))
        .current_dir("/");
    binaries::run_as(&mut command, user);
    let output = command.output().await;
    let _ = std::fs::remove_file(&password_file);
    let output = output.map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("initdb: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    std::fs::write(data.join(MADE), "").map_err(|e| e.to_string())
}

fn tempfile_for(data: &Path, user: Option<ServiceUser>, password: &str) -> std::io::Result<PathBuf> {
    let name = hex::encode(&Sha256::digest(data.as_os_str().as_encoded_bytes())[..8]);
    let path = std::env::temp_dir().join(format!("scoreline-initdb-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut file = std::fs::OpenOptions::new();
    let mut file = std::os::unix::fs::OpenOptionsExt::mode(file.write(true).create_new(true), 0o600).open(&path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    std::io::Write::write_all(&mut file, password.as_bytes())?;
    if let Some(user) = user {
        std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))?;
    }
    Ok(path)
}

/// Whether this build of Postgres can compress WAL with lz4 (pglz costs more CPU than it saves).
async fn supports_lz4(programs: &PostgresBinaries, data: &Path, user: Option<ServiceUser>) -> bool {
    let mut command = Command::new(programs.folder.join("postgres"));
    command.arg("-D").arg(data).args(["-C", "wal_compression", "-c", "wal_compression=lz4"]).current_dir(data);
    binaries::run_as(&mut command, user);
    command.output().await.is_ok_and(|output| output.status.success())
}

pub(super) async fn answers(admin: &PgConnectOptions, daemon: &mut Daemon) -> Result<(), String> {
    let started = Instant::now();
    let mut last = String::new();
    while started.elapsed() < START {
        if let Some(status) = daemon.ended() {
            return Err(format!("it ended with {status}"));
        }
        match PgConnection::connect_with(admin).await {
            Ok(_) => return Ok(()),
            Err(error) if postgres_roles::is_unknown(&error) => return Ok(()),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(last)
}
