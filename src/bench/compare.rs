//! Answers of the api held against bare handlers, alternately (limit, stage, limit, stage, …) within one run,
//! because the machine's speed drifts.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::cpu::usage_of_tree;
use super::load::Connection;
use super::report::Figure;
use super::rig::{Rig, RigError};
use super::{BenchError, Options};
use crate::stack::ReservedPort;

/// The limit server as a process.
#[derive(Debug)]
pub struct LimitProcess {
    /// Its address.
    pub address: SocketAddr,
    child: Child,
    _port: ReservedPort,
}

impl LimitProcess {
    /// Starts it on the rig's Redis; `rank_key` is the sorted set for rank queries, `page` a file with the
    /// page to serve.
    ///
    /// # Errors
    /// [`BenchError`].
    pub async fn start(rig: &Rig, rank_key: &str, page: Option<&Path>) -> Result<Self, BenchError> {
        let io = |e: io::Error| BenchError::Rig(RigError::Io("limit server", e));
        let own = std::env::current_exe().map_err(io)?;
        let port = ReservedPort::new().map_err(io)?;
        let address = port.address();
        let child = Command::new(own)
            .args(["bench-limit", "--listen", &address.to_string(), "--redis-url", &rig.services.redis_url])
            .args(["--rank-key", rank_key])
            .args(page.into_iter().flat_map(|page| ["--page".as_ref(), page.as_os_str()]))
            .kill_on_drop(true)
            .spawn()
            .map_err(io)?;
        let started = Instant::now();
        while Connection::open(address).await.is_err() {
            if started.elapsed() > Duration::from_secs(10) {
                return Err(BenchError::Rig(RigError::NotReady("limit server", started.elapsed())));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { address, child, _port: port })
    }

    /// CPU seconds that it has used.
    fn cpu_seconds(&self) -> f64 {
        self.child.id().map_or(0.0, |pid| usage_of_tree(pid).cpu_seconds)
    }

    /// Ends it.
    pub async fn stop(mut self) {
        // It holds nothing that could be lost.
        let _ = self.child.kill().await;
    }
}

/// Paths to read by turns, beside the bare handler's.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The figure's name.
    pub name: &'a str,
    /// The api's paths.
    pub paths: Vec<String>,
    /// The limit server's paths.
    pub limit_paths: Vec<String>,
    /// The target, for people; empty: none.
    pub target: &'a str,
}

/// The api's answers beside bare handlers: how many a second, and the CPU of one (of whoever answers and of Redis),
/// which depends less on what else the machine does.
///
/// # Errors
/// [`BenchError`].
pub async fn read(
    rig: &Rig,
    key: &str,
    limit: &LimitProcess,
    readings: &[Reading<'_>],
    options: &Options,
) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for reading in readings {
        let (mut rates, mut limits) = (Vec::new(), Vec::new());
        let (mut cpu, mut limit_cpu) = (Vec::new(), Vec::new());
        let of = |name: &str| rig.usage().get(name).map_or(0.0, |used| used.cpu_seconds);
        let each = |before: f64, after: f64| (after - before) * 1e6 / options.reads as f64;
        for _ in 0..options.rounds {
            let before = limit.cpu_seconds() + of("redis");
            limits.push(get_rate(limit.address, &reading.limit_paths, key, options).await?);
            limit_cpu.push(each(before, limit.cpu_seconds() + of("redis")));
            let before = of("api") + of("redis");
            rates.push(get_rate(rig.api, &reading.paths, key, options).await?);
            cpu.push(each(before, of("api") + of("redis")));
        }
        let figure = Figure::new("read", reading.name, "requests/s", rates).with_limit(limits);
        figures.push(if reading.target.is_empty() { figure } else { figure.with_target(reading.target) });
        figures.push(Figure::new("read", "… CPU", "µs/request", cpu).with_limit(limit_cpu));
    }
    Ok(figures)
}

async fn get_rate(address: SocketAddr, paths: &[String], key: &str, options: &Options) -> Result<f64, BenchError> {
    let left = Arc::new(AtomicU64::new(options.reads));
    let paths: Arc<[String]> = paths.into();
    let started = Instant::now();
    let tasks: Vec<_> = (0..options.read_connections)
        .map(|_| tokio::spawn(get_until_done(address, Arc::clone(&paths), key.to_owned(), Arc::clone(&left))))
        .collect();
    for task in tasks {
        task.await.map_err(io::Error::other).and_then(|r| r).map_err(BenchError::Load)?;
    }
    Ok(options.reads as f64 / started.elapsed().as_secs_f64())
}

async fn get_until_done(
    address: SocketAddr,
    paths: Arc<[String]>,
    key: String,
    left: Arc<AtomicU64>,
) -> io::Result<()> {
    let mut connection = Connection::open(address).await?;
    while let Ok(n) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) {
        let path = &paths[usize::try_from(n).unwrap_or_default() % paths.len()];
        let (status, _) = connection.get(path, &key).await?;
        if status != 200 {
            return Err(io::Error::other(format!("{path} answered {status}")));
        }
    }
    Ok(())
}
