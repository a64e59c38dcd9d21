//! A service process: started detached, found again by its pid file, stopped only when it is surely ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How often a stopping process is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long after the last signal a process may still be listed.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a service stops: the polite signal and how long it is given.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// The polite signal.
    pub signal: Signal,
    /// After this the process is killed.
    pub patience: Duration,
}

/// What tells a service of ours from any other process with its pid.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The program's name as the kernel has it.
    pub program: &'static str,
    /// The folder it works in.
    pub directory: PathBuf,
    /// Where the service itself writes its pid, on the first line.
    pub pid_file: PathBuf,
}

impl Identity {
    /// The pid of a running service of ours, if there is one: named by the pid file, of the right program, and
    /// working in our folder.
    pub fn find(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(&self.pid_file).ok()?;
        let number: i32 = text.lines().next()?.trim().parse().ok()?;
        let pid = Pid::from_raw(number).filter(|_| number > 1)?;
        self.is(number).then_some(pid)
    }

    fn is(&self, pid: i32) -> bool {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let program = std::fs::read_to_string(proc.join("comm")).unwrap_or_default();
        if program.trim() != self.program {
            return false;
        }
        // Another user's working folder is readable only with CAP_SYS_PTRACE, its command line by everyone.
        match std::fs::read_link(proc.join("cwd")) {
            Ok(directory) => directory == self.directory,
            Err(_) => command_line_names(&proc, &self.directory),
        }
    }

    /// Stops what a crashed run left running.
    pub async fn stop_stale(&self, stop: Stop) {
        if let Some(pid) = self.find() {
            tracing::info!(
                pid = pid.as_raw_nonzero().get(),
                program = self.program,
                "stopping what an earlier run left"
            );
            end(pid, stop, || self.find() == Some(pid)).await;
        }
    }
}

fn command_line_names(proc: &Path, directory: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let line = std::fs::read(proc.join("cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).any(|argument| argument == directory.as_os_str().as_bytes())
}

/// A service that this process started.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    pid: Pid,
}

impl Daemon {
    /// Starts `command` in a process group of its own, so that Ctrl-C at the terminal does not reach it, with its
    /// output in the file `log`.
    ///
    /// # Errors
    /// It cannot be started, or the log cannot be opened.
    pub fn start(mut command: Command, log: &Path) -> std::io::Result<Self> {
        let output = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let pid = pid.ok_or_else(|| std::io::Error::other("it ended at once"))?;
        Ok(Self { child, pid })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Ends it with a signal that it cannot refuse or that means "at once", and waits until it is gone.
    pub async fn kill(&mut self, signal: Signal) {
        if self.ended().is_none() && kill_process(self.pid, signal).is_ok() {
            let _ = self.child.wait().await;
        }
    }

    /// Stops it.
    pub async fn stop(mut self, stop: Stop) {
        if self.ended().is_some() {
            return;
        }
        let _ = kill_process(self.pid, stop.signal);
        if tokio::time::timeout(stop.patience, self.child.wait()).await.is_err() {
            tracing::warn!(pid = self.pid(), "a service does not stop; killing it");
            let _ = self.child.kill().await;
        }
    }
}

async fn end(pid: Pid, stop: Stop, still_ours: impl Fn() -> bool) {
    for (signal, patience) in [(stop.signal, stop.patience), (Signal::KILL, LAST_WORDS)] {
        if !still_ours() || kill_process(pid, signal).is_err() {
            return;
        }
        let asked = Instant::now();
        while asked.elapsed() < patience {
            if test_kill_process(pid).is_err() || !still_ours() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
