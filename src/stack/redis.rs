//! A private Redis: AOF, `noeviction`, loopback, with a password.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::Instant;

use super::daemon::{Daemon, Identity, Stop};
use super::postgres::memory_bytes;
use super::{Home, ReservedPort, StackError, StackOptions, binaries};

/// On SIGTERM Redis forces its file to disk and ends.
pub const STOP: Stop = Stop { signal: Signal::TERM, patience: Duration::from_secs(20) };
/// How long it may take to read its file.
const START: Duration = Duration::from_secs(120);

/// A Redis that this process started.
#[derive(Debug)]
pub struct PrivateRedis {
    /// `redis://…`, password included.
    pub url: String,
    pub(super) daemon: Daemon,
    program: PathBuf,
    settings: PathBuf,
    log: PathBuf,
    _port: ReservedPort,
}

impl PrivateRedis {
    /// kill -9. [`PrivateRedis::start_again`] brings it back.
    pub(super) async fn kill(&mut self) {
        self.daemon.kill(Signal::KILL).await;
    }

    /// Starts it with its port and its data, and waits until it answers.
    pub(super) async fn start_again(&mut self) -> Result<(), StackError> {
        let not_up = |reason: String| StackError::NotUp { service: "Redis", reason, log: self.log.clone() };
        self.daemon = run(&self.program, &self.settings, &self.log).map_err(|e| not_up(e.to_string()))?;
        answers(&self.url, &mut self.daemon).await.map_err(not_up)
    }
}

/// Starts it.
///
/// # Errors
/// [`StackError`].
pub async fn start(home: &Home, options: &StackOptions) -> Result<PrivateRedis, StackError> {
    let program = binaries::redis().await?;
    let directory = home.join("redis");
    std::fs::create_dir_all(&directory).map_err(StackError::file("cannot make", &directory))?;
    let identity =
        Identity { program: "redis-server", directory: directory.clone(), pid_file: directory.join("redis.pid") };
    identity.stop_stale(STOP).await;
    let password = home.secret("redis.password")?;
    let log = home.join("redis.log");
    let not_up = |reason: String| StackError::NotUp { service: "Redis", reason, log: log.clone() };
    let port = ReservedPort::new().map_err(|e| not_up(e.to_string()))?;
    home.write_private("redis.conf", text_of_settings(&directory, port.port(), &password, options.durable).as_bytes())?;
    let settings = home.join("redis.conf");
    let mut daemon = run(&program, &settings, &log).map_err(|e| not_up(e.to_string()))?;
    let url = format!("redis://:{password}@{}", port.address());
    if let Err(reason) = answers(&url, &mut daemon).await {
        daemon.stop(STOP).await;
        return Err(not_up(reason));
    }
    Ok(PrivateRedis { url, daemon, program, settings, log, _port: port })
}

fn run(program: &Path, settings: &Path, log: &Path) -> std::io::Result<Daemon> {
    let mut command = Command::new(program);
    command.arg(settings);
    Daemon::start(command, log)
}

/// In a file and not on the command line, where everyone could read the password.
fn text_of_settings(directory: &Path, port: u16, password: &str, durable: bool) -> String {
    let directory = directory.display();
    let fsync = if durable { "everysec" } else { "no" };
    // A quarter of the machine: admission closes at 80 % of it, long before the machine swaps.
    let maxmemory = (memory_bytes() / 4).max(256 << 20);
    format!(
        "bind 127.0.0.1\nport {port}\nrequirepass {password}\ndaemonize no\ndir \"{directory}\"\n\
         pidfile \"{directory}/redis.pid\"\n\
         # Acknowledged batches survive a crash; see README, what is promised.\n\
         appendonly yes\nappendfsync {fsync}\nsave \"\"\n\
         # Every job passes through the AOF once and is gone a moment later: rewriting it at each doubling, as the\n\
         # default does, costs more CPU than the queue itself.\n\
         auto-aof-rewrite-min-size 1gb\nauto-aof-rewrite-percentage 300\n\
         # Queued jobs must never be evicted.\n\
         maxmemory-policy noeviction\nmaxmemory {maxmemory}\n\
         # Histograms per command that nobody reads here cost CPU on every call.\n\
         latency-tracking no\n"
    )
}

async fn answers(url: &str, daemon: &mut Daemon) -> Result<(), String> {
    let client = ::redis::Client::open(url).map_err(|e| e.to_string())?;
    let started = Instant::now();
    let mut last = String::new();
    while started.elapsed() < START {
        if let Some(status) = daemon.ended() {
            return Err(format!("it ended with {status}"));
        }
        match client.get_multiplexed_async_connection().await {
            Ok(mut connection) => {
                // While it reads its file it answers LOADING.
                match ::redis::cmd("PING").query_async::<String>(&mut connection).await {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error.to_string(),
                }
            }
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(last)
}
