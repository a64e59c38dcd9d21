//! `/healthz`, `/readyz`, `/health/pool`, `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use super::readiness::Readiness;
use super::start::{OPERATIONS_SETTING, StartError};
use crate::domain::clock::Clock;
use crate::http::server::{self, ServerConfig};
use crate::runtime::lifecycle::Lifecycle;
use crate::store::pool::{Pool, PoolState};
use crate::telemetry::metrics::POOL_CONNECTIONS;
use crate::telemetry::{process, recorder};

/// The operations listener of one role, while it runs.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Where it listens.
    pub address: SocketAddr,
    /// What `/readyz` tells.
    pub readiness: Readiness,
    pools: Arc<OnceLock<Vec<(&'static str, Pool)>>>,
}

#[derive(Clone)]
struct Shown {
    readiness: Readiness,
    pools: Arc<OnceLock<Vec<(&'static str, Pool)>>>,
    recorder: PrometheusHandle,
}

impl Operations {
    /// Listens, before anything else does: what a process waits for at its start can be seen here.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn start(
        role: &'static str,
        listen: SocketAddr,
        clock: &Clock,
        lifecycle: &Lifecycle,
    ) -> Result<Self, StartError> {
        let recorder = recorder::install()?;
        let (listener, address) = super::start::listen(OPERATIONS_SETTING, listen).await?;
        let readiness = Readiness::starting(role, lifecycle.soft.clone());
        let pools = Arc::new(OnceLock::new());
        let shown = Shown { readiness: readiness.clone(), pools: Arc::clone(&pools), recorder: recorder.clone() };
        serve(listener, shown, clock.clone(), lifecycle);
        lifecycle.to_the_end().tasks.spawn(keep_up(recorder, lifecycle.clone()));
        Ok(Self { address, readiness, pools })
    }

    /// Names the pools that `/health/pool` and `/metrics` show.
    pub fn show_pools(&self, pools: Vec<(&'static str, Pool)>) {
        let _ = self.pools.set(pools);
    }
}

fn serve(listener: TcpListener, shown: Shown, clock: Clock, lifecycle: &Lifecycle) {
    let config = ServerConfig::operations(shown.readiness.role());
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/health/pool", get(pool))
        .route("/metrics", get(show_metrics))
        .with_state(shown);
    let end = lifecycle.to_the_end();
    tokio::spawn(server::serve(listener, router, config, clock, end));
}

/// Folds recorded samples until the process ends.
async fn keep_up(recorder: PrometheusHandle, lifecycle: Lifecycle) {
    while tokio::time::timeout(recorder::UPKEEP, lifecycle.hard.cancelled()).await.is_err() {
        recorder.run_upkeep();
    }
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let report = shown.readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

fn pool_states(shown: &Shown) -> BTreeMap<&'static str, PoolState> {
    shown.pools.get().into_iter().flatten().map(|(name, pool)| (*name, pool.state())).collect()
}

async fn pool(State(shown): State<Shown>) -> Json<BTreeMap<&'static str, PoolState>> {
    Json(pool_states(&shown))
}

async fn show_metrics(State(shown): State<Shown>) -> Response {
    let role = shown.readiness.role();
    for (name, state) in pool_states(&shown) {
        for (label, value) in
            [("total", state.total), ("idle", state.idle), ("waiting", state.waiting), ("max", state.max)]
        {
            metrics::gauge!(POOL_CONNECTIONS, "role" => role, "pool" => name, "state" => label).set(f64::from(value));
        }
    }
    let mut text = recorder::lines_of(&shown.recorder.render(), role);
    text.push_str(&process::render(role));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
