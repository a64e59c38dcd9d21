//! A Postgres server of one's own, which a test may stop the hard way and start again.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use scoreline::stack::{Stack, StackOptions, binaries};
use scoreline::store::pool::Pool;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};
use tokio::process::{Child, Command};

use super::{eventually, free_port};
use crate::support::system::PATIENCE;

/// Stopped and removed with this value.
pub struct PostgresServer {
    pub url: String,
    home: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl PostgresServer {
    /// Starts one with an empty database.
    pub async fn start() -> Self {
        let port = free_port();
        let home = std::env::temp_dir().join(format!("scoreline-test-postgres-{}-{port}", std::process::id()));
        let options =
            StackOptions { home: home.clone(), postgres: true, redis: false, durable: false, max_connections: 60 };
        let stack = Stack::start(&options).await.unwrap();
        // The same data on a port that outlives a restart.
        let (head, tail) = stack.database_url().unwrap().rsplit_once(':').unwrap();
        let url = format!("{head}:{port}/{}", tail.split_once('/').unwrap().1);
        let mut server = Self { url, home, port, child: None };
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
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).unwrap();
        kill_process(pid, Signal::QUIT).unwrap();
        child.wait().await.unwrap();
    }

    /// Starts it on its data and waits until it answers.
    pub async fn start_again(&mut self) {
        let user = binaries::postgres_user().unwrap();
        let data = self.home.join("postgres");
        let mut command = Command::new(binaries::postgres(None).await.unwrap().folder.join("postgres"));
        command.arg("-D").arg(&data).arg("-p").arg(self.port.to_string()).current_dir(&data).kill_on_drop(true);
        // A commit must outlive the server's processes, not the machine.
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "shared_buffers=64MB"] {
            command.args(["-c", setting]);
        }
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        binaries::run_as(&mut command, user);
        self.child = Some(command.spawn().unwrap());
        eventually("Postgres answers", PATIENCE, || async { PgConnection::connect(&self.url).await.is_ok() }).await;
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
        {
            let _ = kill_process(pid, Signal::QUIT);
            for _ in 0..500 {
                if !matches!(child.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        let _ = std::fs::remove_dir_all(&self.home);
    }
}
