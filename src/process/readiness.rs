//! Whether a process can do its work, and if not, why.
//!
//! Three states: *ready*; *degraded*, when something is away that its role can do without for a while; *not ready*,
//! when something is away that it cannot do without. A load balancer keeps sending to a degraded process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::telemetry::redaction::redact;

/// How much a role needs a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It can do nothing without.
    Always,
    /// It does with less.
    Replaceable,
    /// Either this or that one answers for both.
    UnlessReady(&'static str),
}

/// What a role needs of a dependency. Whatever is not named is needed.
fn need(role: &str, dependency: &str) -> Need {
    match (role, dependency) {
        // Limits are counted in this process meanwhile; the last directory stays.
        (_, "redis_limits" | "redis_cache") => Need::Replaceable,
        // Who asks ingest is told to come again, by every process alike: another one would take no more.
        (_, "admission") => Need::Replaceable,
        // One job of many; boards of which parts are lost are noticed when they are read.
        (_, "blocked" | "redis_ranking_eviction") => Need::Replaceable,
        // Leaderboards are read from either; the rest is administration.
        ("api", "redis_ranking") => Need::UnlessReady("postgres"),
        ("api", "postgres") => Need::UnlessReady("redis_ranking"),
        ("api", "redis_queue" | "postgres_writes") => Need::Replaceable,
        _ => Need::Always,
    }
}

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

/// What a process can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything.
    Ready,
    /// Its work, with something away that it can do without.
    Degraded,
    /// Not its work.
    NotReady,
}

/// What `/readyz` answers.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// Whether requests should come here: ready or degraded.
    pub ready: bool,
    /// Which of the three states.
    pub state: State,
    /// What is away and why, one text per dependency.
    pub reasons: Vec<String>,
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
        self.set(dependency, DependencyState { ready: false, detail: redact(&reason.into()).into_owned() });
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

    /// Whether the role can do nothing without `dependency`.
    pub fn needs(&self, dependency: &str) -> bool {
        need(self.role, dependency) == Need::Always
    }

    /// Whether the role does without `dependency` as things are: nothing waits for it then, not even a start.
    pub fn does_without(&self, dependency: &str) -> bool {
        match need(self.role, dependency) {
            Need::Always => false,
            Need::Replaceable => true,
            Need::UnlessReady(other) => self.of(other).is_some_and(|other| other.ready),
        }
    }

    /// What is known of a dependency.
    pub fn of(&self, dependency: &str) -> Option<DependencyState> {
        self.dependencies.lock().unwrap_or_else(PoisonError::into_inner).get(dependency).cloned()
    }

    /// As `/readyz` tells it.
    pub fn report(&self) -> Report {
        let mut dependencies = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.stopping.is_cancelled() {
            dependencies.insert("startup", DependencyState { ready: false, detail: "stopping".to_owned() });
        }
        let away: Vec<&str> = dependencies.iter().filter(|(_, d)| !d.ready).map(|(name, _)| *name).collect();
        let missed = |name: &&&str| match need(self.role, name) {
            Need::Always => true,
            Need::Replaceable => false,
            Need::UnlessReady(other) => away.contains(&other) || !dependencies.contains_key(other),
        };
        let state = match (away.is_empty(), away.iter().find(missed)) {
            (true, _) => State::Ready,
            (false, None) => State::Degraded,
            (false, Some(_)) => State::NotReady,
        };
        let reasons = away.iter().map(|name| format!("{name}: {}", dependencies[name].detail)).collect();
        Report { ready: state != State::NotReady, state, reasons, role: self.role, dependencies }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(role: &'static str, away: &[&'static str]) -> State {
        let readiness = Readiness::starting(role, CancellationToken::new());
        readiness.started();
        for name in
            ["postgres", "postgres_writes", "redis_queue", "redis_ranking", "redis_limits", "redis_cache", "admission"]
        {
            if away.contains(&name) {
                readiness.unready(name, "away");
            } else {
                readiness.ready(name, "there");
            }
        }
        let report = readiness.report();
        assert_eq!(report.reasons.len(), away.len());
        assert_eq!(report.ready, report.state != State::NotReady);
        report.state
    }

    #[test]
    fn what_a_role_can_do_without_only_degrades_it() {
        assert_eq!(state("worker", &[]), State::Ready);
        for (role, away) in [
            ("ingest", vec!["redis_limits", "redis_cache"]),
            ("ingest", vec!["admission"]),
            ("cron", vec!["redis_cache"]),
            ("api", vec!["postgres"]),
            ("api", vec!["redis_ranking"]),
            ("api", vec!["redis_cache", "redis_queue", "postgres_writes"]),
        ] {
            assert_eq!(state(role, &away), State::Degraded, "{role} without {away:?}");
        }
        for (role, away) in [
            ("ingest", vec!["redis_queue"]),
            ("worker", vec!["postgres"]),
            ("worker", vec!["postgres_writes"]),
            ("worker", vec!["redis_queue"]),
            ("cron", vec!["redis_ranking"]),
            ("api", vec!["postgres", "redis_ranking"]),
        ] {
            assert_eq!(state(role, &away), State::NotReady, "{role} without {away:?}");
        }
    }

    #[test]
    fn who_has_not_started_or_is_stopping_is_not_ready() {
        let stop = CancellationToken::new();
        let readiness = Readiness::starting("api", stop.clone());
        assert_eq!(readiness.report().state, State::NotReady);
        readiness.started();
        assert_eq!(readiness.report().state, State::Ready);
        stop.cancel();
        assert_eq!(readiness.report().state, State::NotReady);
    }

    #[test]
    fn a_reason_shows_no_password_and_no_line_of_postgres() {
        let readiness = Readiness::starting("worker", CancellationToken::new());
        readiness.started();
        readiness.unready("postgres", "cannot reach postgres://app:canary@db/x: cannot execute COPY at line 414");
        let said = readiness.report().reasons.join(" ");
        assert!(said.contains("cannot execute COPY") && !said.contains("canary") && !said.contains("414"), "{said}");
    }
}
