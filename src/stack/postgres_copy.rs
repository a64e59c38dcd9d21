//! Copies of a private Postgres: taken while it runs, put in its place, run beside it or as its stand-by. With them
//! `scoreline chaos` plays backups that are restored and stand-bys that take over.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use sqlx::postgres::PgConnectOptions;
use tokio::process::Command;

use super::daemon::Daemon;
use super::postgres::{PrivatePostgres, Start, answers, make_owned};
use super::postgres_roles::ADMIN;
use super::{ReservedPort, StackError, binaries};

/// A server's data beside it, and, while it runs, the server on them.
#[derive(Debug)]
pub struct Copy {
    start: Start,
    daemon: Option<Daemon>,
    log: PathBuf,
    _port: ReservedPort,
}

impl PrivatePostgres {
    /// Copies the data of the running server, as a backup does. `stand_by`: started, the copy follows the server.
    ///
    /// # Errors
    /// `pg_basebackup` fails.
    pub async fn copy(&self, stand_by: bool) -> Result<Copy, StackError> {
        let not_up =
            |reason: String| StackError::NotUp { service: "a copy of Postgres", reason, log: self.log.clone() };
        let program = self.base_backup().ok_or_else(|| not_up("there is no pg_basebackup".to_owned()))?;
        let data = self.start.data.with_extension("copy");
        remove(&data)?;
        make_owned(&data, self.start.user)?;
        let mut command = Command::new(program);
        command.arg("-D").arg(&data).args(["-X", "stream", "-c", "fast", "-h", "127.0.0.1", "-U", ADMIN]);
        command.args(["-p", &self.start.arguments[1]]).args(stand_by.then_some("-R"));
        command.env("PGPASSWORD", self.admin_password()).current_dir("/").kill_on_drop(true);
        binaries::run_as(&mut command, self.start.user);
        let output = command.output().await.map_err(|e| not_up(e.to_string()))?;
        if !output.status.success() {
            return Err(not_up(format!("pg_basebackup: {}", String::from_utf8_lossy(&output.stderr).trim())));
        }
        let port = ReservedPort::new().map_err(|e| not_up(e.to_string()))?;
        let mut start = self.start.clone();
        start.arguments[1] = port.port().to_string();
        start.admin = start.admin.port(port.port());
        start.data = data;
        Ok(Copy { start, daemon: None, log: self.log.with_extension("copy.log"), _port: port })
    }

    /// Puts the copy's data in place of the server's, which become the copy's. Both are stopped.
    ///
    /// # Errors
    /// Folders cannot be renamed.
    pub fn exchange(&mut self, copy: &mut Copy) -> Result<(), StackError> {
        let (own, other) = (&self.start.data, &copy.start.data);
        let aside = own.with_extension("aside");
        for (from, to) in [(own, &aside), (other, own), (&aside, other)] {
            std::fs::rename(from, to).map_err(StackError::file("cannot rename", from))?;
        }
        Ok(())
    }

    /// Whether `pg_basebackup` is installed.
    pub fn can_be_copied(&self) -> bool {
        self.base_backup().is_some()
    }

    /// Beside the server's program, or beside what that is a link to.
    fn base_backup(&self) -> Option<PathBuf> {
        let program = &self.start.program;
        let places = [program.canonicalize().ok(), Some(program.clone())];
        places.into_iter().flatten().map(|p| p.with_file_name("pg_basebackup")).find(|p| p.is_file())
    }

    fn admin_password(&self) -> &str {
        let before = self.admin_url.split('@').next().unwrap_or_default();
        before.rsplit(':').next().unwrap_or_default()
    }
}

impl Copy {
    /// Starts a server on the copy, at a port of its own, and waits until it answers.
    ///
    /// # Errors
    /// [`StackError::NotUp`].
    pub async fn start(&mut self) -> Result<(), StackError> {
        let not_up =
            |reason: String| StackError::NotUp { service: "a copy of Postgres", reason, log: self.log.clone() };
        let daemon = self.start.run(&self.log).map_err(|e| not_up(e.to_string()))?;
        let daemon = self.daemon.insert(daemon);
        answers(&self.start.admin, daemon).await.map_err(not_up)
    }

    /// Its superuser, in the product's database.
    pub fn admin(&self) -> PgConnectOptions {
        self.start.admin.clone().database("scoreline")
    }

    /// Stops its server at once, if it runs.
    pub async fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill(Signal::QUIT).await;
        }
    }

    /// Stops it and removes its data.
    ///
    /// # Errors
    /// They cannot be removed.
    pub async fn remove(mut self) -> Result<(), StackError> {
        self.stop().await;
        remove(&self.start.data)
    }
}

fn remove(data: &Path) -> Result<(), StackError> {
    match std::fs::remove_dir_all(data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StackError::file("cannot remove", data)(error))
        }
        _ => Ok(()),
    }
}
