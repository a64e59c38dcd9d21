//! What is measured: private services and the real role binaries as separate processes, started and stopped one by one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::cpu::{ByProcess, usage_of_tree};
use super::load::Connection;
use crate::stack::ReservedPort;

/// The processes that a run starts and measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// HTTP in.
    Ingest,
    /// Jobs.
    Worker,
    /// Fold and publish.
    Cron,
    /// HTTP out.
    Api,
    /// All four in one process (`scoreline up`).
    Together,
}

impl Role {
    /// The four, in the order of an event's path.
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Worker, Self::Cron, Self::Api];

    /// The name of its binary.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Worker => "worker",
            Self::Cron => "cron",
            Self::Api => "api",
            Self::Together => "scoreline",
        }
    }
}

/// Where the services are and who they are.
#[derive(Debug, Clone)]
pub struct Services {
    /// Postgres.
    pub database_url: String,
    /// Its postmaster.
    pub postgres_pid: u32,
    /// Redis.
    pub redis_url: String,
    /// Its process.
    pub redis_pid: u32,
}

/// The roles of one run.
#[derive(Debug)]
pub struct Rig {
    /// Private services.
    pub services: Services,
    /// Ingest's public address.
    pub ingest: SocketAddr,
    /// Api's public address.
    pub api: SocketAddr,
    _public: [ReservedPort; 2],
    running: BTreeMap<String, Running>,
    binaries: PathBuf,
    /// The folder of [`Role::Together`].
    pub home: PathBuf,
    /// Further environment of every role.
    pub environment: Vec<(String, String)>,
    /// Where each process's output goes, to a file of its name; `None`: where this program's goes.
    pub logs: Option<PathBuf>,
}

#[derive(Debug)]
struct Running {
    role: Role,
    operations: ReservedPort,
    child: Child,
}

/// What went wrong with the rig.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// The operating system said no.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] std::io::Error),
    /// A role did not become ready.
    #[error("{0} did not become ready within {1:?}")]
    NotReady(&'static str, Duration),
    /// A role ended before it was ready.
    #[error("{0} ended before it was ready: {1}")]
    Ended(&'static str, ExitStatus),
    /// A role did not end.
    #[error("{0} did not end within {1:?}")]
    StillRunning(String, Duration),
    /// No such process runs.
    #[error("no process named {0} runs")]
    Unknown(String),
    /// The programs that are to be run are not there.
    #[error("{folder} lacks {missing}: build all programs into it, with `cargo build --release`")]
    NotBuilt {
        /// Where they were looked for.
        folder: String,
        /// Their names.
        missing: String,
    },
}

/// Checks that a folder has every program of a build.
///
/// # Errors
/// [`RigError::NotBuilt`] names those that are missing, and says what to do.
pub fn check_programs(folder: &Path) -> Result<(), RigError> {
    let names = Role::ALL.into_iter().chain([Role::Together]).map(Role::name);
    let missing: Vec<_> = names.filter(|name| !folder.join(name).is_file()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(RigError::NotBuilt { folder: folder.display().to_string(), missing: missing.join(", ") })
}

/// How long a role may take to become ready, or to stop.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to say that it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

impl Rig {
    /// A rig on running, migrated services; no role runs yet. `binaries`: the folder of the role binaries.
    ///
    /// # Errors
    /// [`RigError::Io`].
    pub fn new(services: Services, binaries: PathBuf) -> Result<Self, RigError> {
        let (ingest, api) = (reserved_port()?, reserved_port()?);
        let home = std::env::temp_dir().join(format!("scoreline-rig-{}", std::process::id()));
        Ok(Self {
            services,
            ingest: ingest.address(),
            api: api.address(),
            _public: [ingest, api],
            running: BTreeMap::new(),
            binaries,
            home,
            environment: Vec::new(),
            logs: None,
        })
    }

    /// Starts a role and waits until it is ready.
    ///
    /// # Errors
    /// [`RigError`].
    pub async fn start(&mut self, role: Role) -> Result<(), RigError> {
        self.start_as(role, role.name()).await
    }

    /// Starts one of several processes of a role, called `name`, and waits until it is ready.
    ///
    /// # Errors
    /// [`RigError`].
    pub async fn start_as(&mut self, role: Role, name: &str) -> Result<(), RigError> {
        self.spawn(role, name, &[])?;
        self.ready(name).await
    }

    /// Starts a process of a role, called `name`, with further environment, and does not wait for anything.
    ///
    /// # Errors
    /// [`RigError::Io`].
    pub fn spawn(&mut self, role: Role, name: &str, environment: &[(&str, &str)]) -> Result<(), RigError> {
        let operations = reserved_port()?;
        let mut command = Command::new(self.binaries.join(role.name()));
        if let Some(folder) = &self.logs {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join(format!("{name}.log")));
            let file = file.map_err(|e| RigError::Io("a log", e))?;
            command.stdin(Stdio::null()).stdout(file.try_clone().map_err(|e| RigError::Io("a log", e))?).stderr(file);
        }
        if role == Role::Together {
            command.args(["up", "--no-traffic", "--home"]).arg(&self.home).stdout(std::process::Stdio::null());
            command.env("INGEST_OPS_LISTEN", operations.address().to_string());
            for other in ["API_OPS_LISTEN", "WORKER_OPS_LISTEN", "CRON_OPS_LISTEN"] {
                command.env(other, "127.0.0.1:0");
            }
        }
        let child = command
            .env("DATABASE_URL", &self.services.database_url)
            .env("REDIS_URL", &self.services.redis_url)
            .env("INGEST_LISTEN", self.ingest.to_string())
            .env("API_LISTEN", self.api.to_string())
            .env("OPS_LISTEN", operations.address().to_string())
            .env("LOG", std::env::var("BENCH_LOG").unwrap_or_else(|_| "warn".to_owned()))
            .envs(self.environment.iter().cloned())
            .envs(environment.iter().copied())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| RigError::Io(role.name(), e))?;
        self.running.insert(name.to_owned(), Running { role, operations, child });
        Ok(())
    }

    /// Waits until a process is ready.
    ///
    /// # Errors
    /// [`RigError`].
    pub async fn ready(&mut self, name: &str) -> Result<(), RigError> {
        let running = self.running.get_mut(name).ok_or_else(|| RigError::Unknown(name.to_owned()))?;
        let role = running.role.name();
        let started = Instant::now();
        while started.elapsed() < READY_WITHIN {
            if let Some(status) = running.child.try_wait().map_err(|e| RigError::Io(role, e))? {
                return Err(RigError::Ended(role, status));
            }
            let asked = says_ready(running.operations.address());
            if tokio::time::timeout(ANSWER_WITHIN, asked).await == Ok(true) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(RigError::NotReady(role, READY_WITHIN))
    }

    /// Waits for a process to end by itself, and tells how it did.
    ///
    /// # Errors
    /// [`RigError`].
    pub async fn ended(&mut self, name: &str) -> Result<ExitStatus, RigError> {
        let mut running = self.running.remove(name).ok_or_else(|| RigError::Unknown(name.to_owned()))?;
        let ended = tokio::time::timeout(READY_WITHIN, running.child.wait()).await;
        let ended = ended.map_err(|_| RigError::StillRunning(name.to_owned(), READY_WITHIN))?;
        ended.map_err(|e| RigError::Io(running.role.name(), e))
    }

    /// The running processes, in the order of an event's path.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<(Role, String)> = self.running.iter().map(|(name, r)| (r.role, name.clone())).collect();
        names.sort();
        names.into_iter().map(|(_, name)| name).collect()
    }

    /// The processes that ended without being told to.
    pub fn dead(&mut self) -> Vec<String> {
        let ended = |r: &mut Running| !matches!(r.child.try_wait(), Ok(None));
        self.running.iter_mut().filter_map(|(name, r)| ended(r).then(|| name.clone())).collect()
    }

    /// The operations listener of a running process.
    pub fn operations(&self, name: &str) -> Option<SocketAddr> {
        self.running.get(name).map(|r| r.operations.address())
    }

    /// The process id of a running process.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.running.get(name)?.child.id()
    }

    /// kill -9.
    ///
    /// # Errors
    /// [`RigError::Io`].
    pub async fn kill(&mut self, name: &str) -> Result<(), RigError> {
        let Some(mut running) = self.running.remove(name) else { return Ok(()) };
        running.child.kill().await.map_err(|e| RigError::Io(running.role.name(), e))
    }

    /// Sends a signal, for example `STOP` and `CONT`.
    ///
    /// # Errors
    /// [`RigError::Io`].
    pub fn signal(&self, name: &str, signal: rustix::process::Signal) -> Result<(), RigError> {
        let pid = self.pid(name).and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        let Some(pid) = pid else { return Ok(()) };
        rustix::process::kill_process(pid, signal).map_err(|e| RigError::Io("signal", e.into()))
    }

    /// Stops a process as an operator would, with SIGTERM, and tells how it ended. One that does not is killed.
    ///
    /// # Errors
    /// [`RigError`].
    pub async fn stop(&mut self, name: &str) -> Result<ExitStatus, RigError> {
        self.signal(name, rustix::process::Signal::TERM)?;
        self.ended(name).await
    }

    /// Stops every role, last step of an event's path last.
    ///
    /// # Errors
    /// [`RigError::Io`].
    pub async fn stop_all(&mut self) -> Result<(), RigError> {
        for name in self.names() {
            let status = self.stop(&name).await?;
            if !status.success() {
                tracing::warn!(name, %status, "did not stop cleanly");
            }
        }
        Ok(())
    }

    /// What each role has used so far, Postgres and Redis among them.
    pub fn usage(&self) -> ByProcess {
        let mut total = ByProcess::new();
        let roles = self.running.values().filter_map(|r| Some((r.role.name(), r.child.id()?)));
        let services = [("postgres", self.services.postgres_pid), ("redis", self.services.redis_pid)];
        for (name, pid) in roles.chain(services) {
            let (sum, usage) = (total.entry(name).or_default(), usage_of_tree(pid));
            sum.cpu_seconds += usage.cpu_seconds;
            sum.resident_mib += usage.resident_mib;
        }
        total
    }
}

/// Whether the process with this operations listener says that it is ready.
pub async fn says_ready(operations: SocketAddr) -> bool {
    let Ok(mut connection) = Connection::open(operations).await else { return false };
    matches!(connection.get("/readyz", "").await, Ok((200, _)))
}

fn reserved_port() -> Result<ReservedPort, RigError> {
    ReservedPort::new().map_err(|e| RigError::Io("a free port", e))
}
