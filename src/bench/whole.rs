//! The whole path: batches over HTTP until every score is on the board, with the CPU of every process.

use std::time::Duration;

use crate::store::pool::Pool;
use tokio::time::Instant;

use super::cpu::{self, ByProcess, Usage};
use super::load::{Posted, Target, flood, paced};
use super::report::{self, Figure};
use super::rig::Rig;
use super::stored::Stored;
use super::{BenchError, Options, latency};
use crate::queue::Queue;

/// What one round came to.
#[derive(Debug)]
struct Round {
    posted: Posted,
    /// From the first post until the last score was on the board.
    to_rank: Duration,
    cpu: ByProcess,
}

/// Floods the system with `options.events` events a round; every role runs.
///
/// # Errors
/// [`BenchError`].
pub async fn run(
    rig: &Rig,
    pool: &Pool,
    queue: &Queue,
    target: &Target,
    options: &Options,
    name: &str,
    limit_cpu: f64,
) -> Result<Vec<Figure>, BenchError> {
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(flood_round(rig, pool, queue, target, options).await?);
    }
    let each = |f: &dyn Fn(&Round) -> f64| rounds.iter().map(f).collect::<Vec<_>>();
    let mut figures = vec![
        Figure::new(name, "accepted", "events/s", each(&|r| r.posted.accepted as f64 / r.posted.wall.as_secs_f64())),
        Figure::new(name, "HTTP to rank", "events/s", each(&|r| r.posted.accepted as f64 / r.to_rank.as_secs_f64()))
            .with_target("≥ 80,000 with the load on the machine"),
    ];
    let used: Vec<_> = rounds.iter().map(|r| (r.cpu.clone(), r.posted.accepted as f64)).collect();
    figures.extend(report::cpu_per_million(name, "s/1M events", &used, Some(&format!("≤ {limit_cpu}"))));
    Ok(figures)
}

/// CPU seconds a million events from HTTP to rank, of each process, in one flood of `options.events` events.
///
/// # Errors
/// [`BenchError`].
pub async fn cpu_of_a_flood(
    rig: &Rig,
    pool: &Pool,
    queue: &Queue,
    target: &Target,
    options: &Options,
) -> Result<ByProcess, BenchError> {
    let mut round = flood_round(rig, pool, queue, target, options).await?;
    for used in round.cpu.values_mut() {
        used.cpu_seconds *= 1e6 / round.posted.accepted as f64;
    }
    Ok(round.cpu)
}

async fn flood_round(
    rig: &Rig,
    pool: &Pool,
    queue: &Queue,
    target: &Target,
    options: &Options,
) -> Result<Round, BenchError> {
    let stored = Stored::now(pool).await?;
    let before = rig.usage();
    let started = Instant::now();
    let posted = flood(target, options.events, options.connections).await.map_err(BenchError::Load)?;
    if posted.refused > 0 {
        return Err(BenchError::Refused(posted.refused));
    }
    settle(pool, queue).await?;
    let to_rank = started.elapsed();
    let cpu = cpu::difference(&rig.usage(), &before);
    stored.grew_by(posted.accepted, posted.scores, pool).await?;
    Ok(Round { posted, to_rank, cpu })
}

/// Posts at a fixed rate for a time and reports latencies, CPU and memory.
///
/// # Errors
/// [`BenchError`].
pub async fn sustained(
    rig: &Rig,
    pool: &Pool,
    queue: &Queue,
    target: &Target,
    options: &Options,
) -> Result<Vec<Figure>, BenchError> {
    let stored = Stored::now(pool).await?;
    let before = rig.usage();
    let probes = tokio::spawn(latency::probe_until(target.clone(), rig.api, Duration::from_secs(options.seconds)));
    let posted = paced(target, options.rate, Duration::from_secs(options.seconds), options.connections)
        .await
        .map_err(BenchError::Load)?;
    let visible = probes.await.map_err(|e| BenchError::Load(std::io::Error::other(e)))??;
    settle(pool, queue).await?;
    let used = cpu::difference(&rig.usage(), &before);
    stored.grew_by(posted.accepted + visible.len(), posted.scores + visible.len(), pool).await?;
    let quantile = |q: f64| posted.latency.value_at_quantile(q) as f64 / 1_000.0;
    let on_board = |q: f64| visible.value_at_quantile(q) as f64 / 1_000.0;
    let wall = posted.wall.as_secs_f64();
    let cores: f64 = used.values().map(|u| u.cpu_seconds / wall).sum();
    let stage = "sustained";
    let one = |name: &str, unit, value| Figure::new(stage, name, unit, vec![value]);
    let mut figures = vec![
        one("accepted", "events/s", posted.accepted as f64 / wall),
        one("refused", "batches", posted.refused as f64).with_target("0"),
        one("answer p50", "ms", quantile(0.5)),
        one("answer p99", "ms", quantile(0.99)).with_target("< 10"),
        one("answer p99.9", "ms", quantile(0.999)),
        one("on the board after the intended send, p50", "ms", on_board(0.5)),
        one("on the board after the intended send, p99", "ms", on_board(0.99)).with_target("< 250"),
        one("CPU, all processes", "cores", cores).with_target("< 0.4 at 10,000 events/s"),
    ];
    for (process, usage) in &used {
        figures.push(one(&format!("CPU, {process}"), "cores", usage.cpu_seconds / wall));
        figures.push(one(&format!("memory, {process}"), "MiB", usage.resident_mib));
    }
    Ok(figures)
}

/// Seconds over which an idle system is watched.
const REST_SECONDS: u64 = 30;

/// What the system uses when nothing happens.
///
/// # Errors
/// Postgres is away.
pub async fn rest(rig: &Rig, pool: &Pool, options: &Options) -> Result<Vec<Figure>, BenchError> {
    let time = Duration::from_secs(options.seconds.min(REST_SECONDS));
    // What the stages before left to do (vacuum, a checkpoint, AOF rewrite) is not rest.
    for work in ["VACUUM (ANALYZE)", "CHECKPOINT"] {
        sqlx::query(work).execute(pool).await?;
    }
    tokio::time::sleep(time).await;
    let before = rig.usage();
    tokio::time::sleep(time).await;
    let used = cpu::difference(&rig.usage(), &before);
    let percent = |u: &Usage| u.cpu_seconds * 100.0 / time.as_secs_f64();
    let all = used.values().map(percent).sum();
    let mut figures = vec![Figure::new("rest", "CPU, all processes", "% of a core", vec![all]).with_target("< 1")];
    for (process, usage) in &used {
        figures.push(Figure::new("rest", &format!("CPU, {process}"), "% of a core", vec![percent(usage)]));
        figures.push(Figure::new("rest", &format!("memory, {process}"), "MiB", vec![usage.resident_mib]));
    }
    Ok(figures)
}

/// How long the tail of a run may take.
const SETTLE_WITHIN: Duration = Duration::from_secs(300);

/// Waits until no job, fact or marker is left.
async fn settle(pool: &Pool, queue: &Queue) -> Result<(), BenchError> {
    let started = Instant::now();
    while started.elapsed() < SETTLE_WITHIN {
        let jobs = queue.status().await.map_err(|e| BenchError::Queue(e.to_string()))?.jobs;
        if jobs == 0 && !folding(pool).await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(BenchError::NotSettled("every score is on the board", SETTLE_WITHIN))
}

/// Whether facts wait to be folded or markers to be published.
pub async fn folding(pool: &Pool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM score_facts) OR EXISTS (SELECT FROM dirty_entries)")
        .fetch_one(pool)
        .await
}
