//! Starting and stopping: signals, soft and hard shutdown.

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks may take to notice a hard stop.
const HARD_STOP: Duration = Duration::from_secs(2);

/// How a process is told to stop. Cloned into every task.
///
/// *Soft*: take nothing new, finish what is in hand. *Hard*: stop now (a second signal, or the grace has passed).
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    /// Take nothing new, finish what is in hand.
    pub soft: CancellationToken,
    /// Stop now.
    pub hard: CancellationToken,
    /// Every task of the process; the process ends when all have.
    pub tasks: TaskTracker,
    /// Whether an essential task died: the exit code tells the truth.
    failed: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything in hand was finished.
    Clean,
    /// Something in hand was cut off.
    Cut,
    /// An essential task died.
    Failed,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        Self::from(match ended {
            Ended::Clean => 0,
            Ended::Failed => 1,
            Ended::Cut => 3,
        })
    }
}

impl Lifecycle {
    /// Whether an essential task died.
    pub fn has_failed(&self) -> bool {
        self.failed.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The same stop signals with a task set of its own: for what stays up until the very end (the operations
    /// listener), which a stop must not wait for.
    pub fn to_the_end(&self) -> Self {
        Self { tasks: TaskTracker::new(), ..self.clone() }
    }

    /// Turns SIGTERM and SIGINT into a soft stop, a second one into a hard stop.
    ///
    /// # Errors
    /// The operating system refuses the handlers.
    pub fn watch_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let lifecycle = self.clone();
        tokio::spawn(async move {
            for stop in [&lifecycle.soft, &lifecycle.hard] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                tracing::info!(signal = name, at_once = lifecycle.soft.is_cancelled(), "asked to stop");
                stop.cancel();
            }
        });
        Ok(())
    }

    /// Waits for the soft stop and then for every task, at most `grace`; what is left gets the hard stop.
    /// Returns how it ended.
    pub async fn finished(&self, grace: Duration) -> Ended {
        self.soft.cancelled().await;
        self.tasks.close();
        let in_time = tokio::select! {
            () = self.tasks.wait() => true,
            () = self.hard.cancelled() => false,
            () = tokio::time::sleep(grace) => {
                tracing::warn!(tasks = self.tasks.len(), "the grace has passed; stopping what is left");
                false
            }
        };
        self.hard.cancel();
        if !in_time {
            let _ = tokio::time::timeout(HARD_STOP, self.tasks.wait()).await;
        }
        match (self.has_failed(), in_time) {
            (true, _) => Ended::Failed,
            (false, false) => Ended::Cut,
            (false, true) => Ended::Clean,
        }
    }

    /// Spawns a task that the process depends on: if it panics or ends before a soft stop, the whole process stops
    /// (half a process is worse than none). `name` is for the log.
    pub fn spawn_essential<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let lifecycle = self.clone();
        self.tasks.spawn(async move {
            let ended = tokio::spawn(task).await;
            if let Err(error) = &ended {
                tracing::error!(task = name, %error, "essential task died; stopping the process");
            } else if !lifecycle.soft.is_cancelled() {
                tracing::error!(task = name, "essential task ended early; stopping the process");
            }
            if ended.is_err() || !lifecycle.soft.is_cancelled() {
                lifecycle.failed.store(true, std::sync::atomic::Ordering::Relaxed);
                lifecycle.soft.cancel();
            }
        });
    }
}
