//! The folder that a private installation lives in.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::Rng;
use rustix::fs::FlockOperation;

use super::StackError;

/// A locked folder. The lock ends with the process, however it ends.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    _lock: File,
}

impl Home {
    /// Makes the folder if need be and locks it.
    ///
    /// # Errors
    /// [`StackError::InUse`], or the folder cannot be made.
    pub fn lock(path: &Path) -> Result<Self, StackError> {
        // Others may pass through (Postgres runs as its own user); files in it are private one by one.
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(path).map_err(StackError::file("cannot make", path))?;
        let path = path.canonicalize().map_err(StackError::file("cannot resolve", path))?;
        let file = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .map_err(StackError::file("cannot open", &file))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            return Err(StackError::InUse { home: path, pid: pid.trim().to_owned() });
        }
        let written =
            lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(StackError::file("cannot write", &file))?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A secret that stays the same from run to run: read from its file, or made and written there (mode 0600).
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn secret(&self, name: &str) -> Result<String, StackError> {
        let path = self.join(name);
        match std::fs::read_to_string(&path) {
            Ok(secret) if !secret.trim().is_empty() => return Ok(secret.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StackError::file("cannot read", path)(error)),
        }
        let secret = hex::encode(rand::rng().random::<[u8; 24]>());
        self.write_private(name, secret.as_bytes())?;
        Ok(secret)
    }

    /// Writes a file of mode 0600 at once: readers see the old text or the new one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_private(&self, name: &str, text: &[u8]) -> Result<(), StackError> {
        let path = self.join(name);
        let fresh = self.join(&format!(".{name}.new"));
        let write = || {
            let _ = std::fs::remove_file(&fresh);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            file.write_all(text)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)
        };
        write().map_err(StackError::file("cannot write", &path))
    }

    /// Removes a file if it is there.
    pub fn remove(&self, name: &str) {
        let _ = std::fs::remove_file(self.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_user_at_a_time_and_remembers_its_secrets() {
        let path = std::env::temp_dir().join(format!("scoreline-home-{}", std::process::id()));
        let home = Home::lock(&path).unwrap();
        let refused = Home::lock(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        let secret = home.secret("token").unwrap();
        drop(home);
        let again = Home::lock(&path).unwrap();
        assert_eq!(again.secret("token").unwrap(), secret);
        let mode = std::fs::metadata(again.join("token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(path).unwrap();
    }
}
