//! A disk of the run's own, which it can fill: a small tmpfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::ChaosError;

/// What the run's services may use: far more than they need.
const SIZE: &str = "2g";

/// A mounted tmpfs; unmounted with this value.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts it; `None`: this user or this machine cannot.
    pub fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).ok()?;
        // No lazy files of others underneath, and others may pass through: Postgres runs as its own user.
        let options = format!("size={SIZE},mode=0755");
        let done = run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "scoreline-chaos"]).arg(path));
        done.then(|| Self { path: path.to_owned() })
    }

    /// Leaves no byte free.
    ///
    /// # Errors
    /// It cannot be mounted anew.
    pub fn fill(&self) -> Result<(), ChaosError> {
        let failed = |e: rustix::io::Errno| ChaosError::Io("the disk", e.into());
        let mut tried = 0;
        loop {
            let disk = rustix::fs::statvfs(&self.path).map_err(failed)?;
            let used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize;
            // Whoever writes meanwhile needs more than was used a moment ago.
            match self.resize(&format!("{used}")) {
                Err(_) if tried < 20 => tried += 1,
                outcome => return outcome,
            }
        }
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// It cannot be mounted anew.
    pub fn free(&self) -> Result<(), ChaosError> {
        self.resize(SIZE)
    }

    fn resize(&self, size: &str) -> Result<(), ChaosError> {
        let options = format!("remount,size={size}");
        if run(Command::new("mount").args(["-o", &options]).arg(&self.path)) {
            return Ok(());
        }
        Err(ChaosError::Setup(format!("{} cannot be made {size} large", self.path.display())))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if !run(Command::new("umount").arg(&self.path)) {
            tracing::warn!(path = %self.path.display(), "a disk stays mounted");
        }
    }
}

fn run(command: &mut Command) -> bool {
    let quiet = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
