//! Whether a process can do its work, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// What a process knows of one dependency.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DependencyState {
    /// Whether it can be used.
    pub ready: bool,
    /// What was found, or why not.
    pub detail: String,
}

/// The dependencies of one role, each as last seen. Cloned into whoever watches one.
#[derive(Debug, Clone)]
pub struct Readiness {
    role: &'static str,
    stopping: CancellationToken,
    dependencies: Arc<Mutex<BTreeMap<&'static str, DependencyState>>>,
}

/// What `/readyz` answers.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// Whether requests should come here.
    pub ready: bool,
    /// Which role this is.
    pub role: &'static str,
    /// Each dependency by name.
    pub dependencies: BTreeMap<&'static str, DependencyState>,
}

impl Readiness {
    /// Not ready yet: `startup` has not finished. Unready for good once `stopping` is cancelled.
    pub fn starting(role: &'static str, stopping: CancellationToken) -> Self {
        let readiness = Self { role, stopping, dependencies: Arc::default() };
        readiness.unready("startup", "has not finished");
        readiness
    }

    /// The role finished starting.
    pub fn started(&self) {
        self.ready("startup", "finished");
    }

    /// Notes that `dependency` can be used.
    pub fn ready(&self, dependency: &'static str, detail: impl Into<String>) {
        self.set(dependency, DependencyState { ready: true, detail: detail.into() });
    }

    /// Notes that `dependency` cannot be used.
    pub fn unready(&self, dependency: &'static str, reason: impl Into<String>) {
        self.set(dependency, DependencyState { ready: false, detail: reason.into() });
    }

    fn set(&self, dependency: &'static str, state: DependencyState) {
        let mut dependencies = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner);
        let before = dependencies.insert(dependency, state.clone());
        drop(dependencies);
        match before {
            Some(before) if before.ready && !state.ready => {
                tracing::warn!(role = self.role, dependency, reason = state.detail, "dependency lost");
            }
            Some(before) if !before.ready && state.ready => {
                tracing::info!(role = self.role, dependency, detail = state.detail, "dependency ready");
            }
            _ => {}
        }
    }

    /// Which role this is.
    pub fn role(&self) -> &'static str {
        self.role
    }

    /// As `/readyz` tells it.
    pub fn report(&self) -> Report {
        let mut dependencies = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.stopping.is_cancelled() {
            dependencies.insert("startup", DependencyState { ready: false, detail: "stopping".to_owned() });
        }
        Report { ready: dependencies.values().all(|d| d.ready), role: self.role, dependencies }
    }
}
