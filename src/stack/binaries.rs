//! Finding the programs, and whom to run Postgres as.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::StackError;
use crate::domain::server_versions::MIN_REDIS;

/// Oldest Postgres that has what the schema uses.
const MIN_POSTGRES: u32 = 15;
/// Folders beside `PATH` in which packages put versioned programs.
const POSTGRES_FOLDERS: [&str; 2] = ["/usr/lib/postgresql", "/usr/local/lib/postgresql"];

/// A Postgres installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresBinaries {
    /// The folder with `postgres` and `initdb`.
    pub folder: PathBuf,
    /// Its major version.
    pub major: u32,
}

/// Finds Postgres; `wanted`: the major version that existing data needs.
///
/// # Errors
/// [`StackError::Missing`].
pub async fn postgres(wanted: Option<u32>) -> Result<PostgresBinaries, StackError> {
    let mut found = Vec::new();
    for folder in postgres_folders() {
        if let Some(major) = postgres_major(&folder).await
            && folder.join("initdb").is_file()
        {
            found.push(PostgresBinaries { folder, major });
        }
    }
    let suits = |p: &&PostgresBinaries| wanted.map_or(p.major >= MIN_POSTGRES, |wanted| p.major == wanted);
    match (found.iter().filter(suits).max_by_key(|p| p.major), wanted) {
        (Some(suiting), _) => Ok(suiting.clone()),
        (None, Some(wanted)) => Err(StackError::Unusable(format!(
            "the data in this folder was made by Postgres {wanted}, which is not installed; install it or choose \
             another folder with --home"
        ))),
        (None, None) => Err(StackError::Missing { program: "PostgreSQL", needed: "15 or newer" }),
    }
}

fn path_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn postgres_folders() -> Vec<PathBuf> {
    let versioned = POSTGRES_FOLDERS.iter().filter_map(|f| std::fs::read_dir(f).ok()).flatten();
    let versioned = versioned.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    // Debian keeps links into the versioned folders out of PATH; others have the programs there.
    let mut folders: Vec<PathBuf> = versioned.chain(path_folders()).filter(|f| f.join("postgres").is_file()).collect();
    folders.dedup();
    folders
}

async fn postgres_major(folder: &Path) -> Option<u32> {
    let output = Command::new(folder.join("postgres")).arg("--version").output().await.ok()?;
    // `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `… 18beta1`
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_whitespace().nth(2)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Finds Redis.
///
/// # Errors
/// [`StackError::Missing`].
pub async fn redis() -> Result<PathBuf, StackError> {
    let missing = StackError::Missing { program: "redis-server", needed: "7 or newer" };
    let candidates = path_folders().into_iter().chain(["/usr/bin".into(), "/usr/local/bin".into()]);
    for program in candidates.map(|folder| folder.join("redis-server")).filter(|p| p.is_file()) {
        if redis_major(&program).await.is_some_and(|major| major >= MIN_REDIS) {
            return Ok(program);
        }
    }
    Err(missing)
}

async fn redis_major(program: &Path) -> Option<u32> {
    let output = Command::new(program).arg("--version").output().await.ok()?;
    // `Redis server v=7.0.15 sha=…`
    let text = String::from_utf8(output.stdout).ok()?;
    text.split("v=").nth(1)?.split('.').next()?.parse().ok()
}

/// Whom to run Postgres as: it refuses root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The package's `postgres` user when this process is root, else `None`: run it as oneself.
///
/// # Errors
/// This process is root and there is no such user.
pub fn postgres_user() -> Result<Option<ServiceUser>, StackError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some("postgres")).then_some(())?;
        Some(ServiceUser { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    });
    user.map(Some).ok_or_else(|| {
        StackError::Unusable(
            "Postgres does not run as root and there is no user named postgres; install the PostgreSQL package or run \
             this as another user"
                .to_owned(),
        )
    })
}

/// Makes `command` run as `user`.
pub fn run_as(command: &mut Command, user: Option<ServiceUser>) {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
}

/// Whether `user` may work in `folder`, which takes the right to pass every folder above it.
pub async fn can_reach(folder: &Path, user: Option<ServiceUser>) -> bool {
    let mut command = Command::new("test");
    run_as(command.arg("-w").arg(folder), user);
    command.status().await.is_ok_and(|status| status.success())
}

/// Whether a folder belongs to `user` (or, for `None`, to oneself).
pub fn owns(folder: &Path, user: Option<ServiceUser>) -> bool {
    let uid = user.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
    std::fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == uid)
}
