//! Starting and stopping: signals, soft and hard shutdown.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

impl Lifecycle {
    /// Whether an essential task died.
    pub fn has_failed(&self) -> bool {
        self.failed.load(std::sync::atomic::Ordering::Relaxed)
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
