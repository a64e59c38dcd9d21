//! A Postgres server of one's own, which a test may stop the hard way and start again.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use scoreline::stack::{ReservedPort, Stack, StackOptions, binaries};
use scoreline::store::pool::Pool;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use super::{eventually, look_again, look_again_blocking, reserved_port};
use crate::support::system::PATIENCE;

/// Stopped and removed with this value.
pub struct PostgresServer {
    /// As the role of the processes.
    pub url: String,
    /// As the role that owns the schema.
    pub owner_url: String,
    port: ReservedPort,
    child: Option<Child>,
    home: Folder,
}

/// A folder that goes with this value, whatever happened in between.
struct Folder(PathBuf);

/// How long a server may take to end before it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

impl PostgresServer {
    /// Starts one with an empty database.
    pub async fn start() -> Self {
        let port = reserved_port();
        let name = format!("scoreline-test-postgres-{}-{}", std::process::id(), port.port());
        let home = Folder(std::env::temp_dir().join(name));
        let options = StackOptions {
            home: home.0.clone(),
            postgres: true,
            redis: false,
            durable: false,
            max_connections: 60,
            replicas: false,
        };
        let stack = Stack::start(&options).await.unwrap();
        // The same data on a port that outlives a restart.
        let elsewhere = |url: &str| {
            let (head, tail) = url.rsplit_once(':').unwrap();
            format!("{head}:{}/{}", port.port(), tail.split_once('/').unwrap().1)
        };
        let postgres = stack.postgres().unwrap();
        let (url, owner_url) = (elsewhere(&postgres.url), elsewhere(&postgres.owner_url));
        let mut server = Self { url, owner_url, port, child: None, home };
        for (_, pid) in stack.pids() {
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::QUIT).unwrap();
        }
        stack.stop().await;
        server.start_again().await;
        server
    }

    /// Connections for looking, which outlive a restart.
    pub fn pool(&self) -> Pool {
        PgPoolOptions::new().max_connections(4).connect_lazy(&self.url).unwrap().into()
    }

    /// `pg_ctl stop -m immediate`: every connection ends, nothing is written.
    pub async fn stop_immediately(&mut self) {
        let mut child = self.child.take().expect("running");
        signal(&child, Signal::QUIT);
        let asked = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(asked.elapsed() < PATIENCE, "Postgres does not stop");
            look_again().await;
        }
    }

    /// Has every commit wait for a stand-by that is not there, or no longer.
    pub fn ask_for_standby(&self, asks: bool) {
        let settings = if asks { "synchronous_standby_names = 'nobody'\n" } else { "" };
        std::fs::write(self.home.0.join("postgres/postgresql.auto.conf"), settings).unwrap();
        signal(self.child.as_ref().expect("running"), Signal::HUP);
    }

    /// Starts it on its data and waits until it answers.
    pub async fn start_again(&mut self) {
        let user = binaries::postgres_user().unwrap();
        let data = self.home.0.join("postgres");
        let mut command = Command::new(binaries::postgres(None).await.unwrap().folder.join("postgres"));
        command.arg("-D").arg(&data).arg("-p").arg(self.port.port().to_string()).current_dir(&data);
        // A commit must outlive the server's processes, not the machine.
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "shared_buffers=64MB"] {
            command.args(["-c", setting]);
        }
        // So that commits can be made to wait for a stand-by.
        for setting in ["wal_level=replica", "max_wal_senders=1", "synchronous_commit=on"] {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        binaries::run_as(&mut command, user);
        self.child = Some(command.into_std().spawn().unwrap());
        eventually("Postgres answers", PATIENCE, || async { PgConnection::connect(&self.url).await.is_ok() }).await;
    }
}

fn signal(child: &Child, signal: Signal) {
    // One that has ended by itself gets none.
    let _ = kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal);
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal(&child, Signal::QUIT);
        let asked = Instant::now();
        while asked.elapsed() < ENDS_WITHIN && matches!(child.try_wait(), Ok(None)) {
            look_again_blocking();
        }
        // Waits for it, too: as long as it writes, its folder cannot be removed.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let asked = Instant::now();
        // A server's last process may still be at it.
        while std::fs::remove_dir_all(&self.0).is_err() && self.0.exists() && asked.elapsed() < ENDS_WITHIN {
            look_again_blocking();
        }
        assert!(std::thread::panicking() || !self.0.exists(), "{} was left behind", self.0.display());
    }
}
