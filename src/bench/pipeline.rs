//! The steps of an event's path one at a time, each beside its limit: accept, drain, fold and publish.

use std::time::Duration;

use crate::store::pool::Pool;
use tokio::time::Instant;

use super::bare_fold::BareFold;
use super::compare::LimitProcess;
use super::cpu::{self, ByProcess};
use super::load::{Posted, Target, flood};
use super::report::{self, Figure};
use super::rig::{Rig, Role};
use super::stored::Stored;
use super::{BenchError, Options};
use super::{bare_drain, limit_server};
use crate::queue::Queue;

/// How long one step may take.
const STEP_WITHIN: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
struct Rates {
    bare_accept: Vec<f64>,
    accept: Vec<f64>,
    bare_drain: Vec<f64>,
    drain: Vec<f64>,
    drain_cpu: Vec<(ByProcess, f64)>,
    bare_fold: Vec<f64>,
    fold: Vec<f64>,
    fold_cpu: Vec<(ByProcess, f64)>,
}

/// Runs the steps one after the other, `options.rounds` times. No role may run; none does afterwards.
///
/// # Errors
/// [`BenchError`].
pub async fn run(
    rig: &mut Rig,
    pool: &Pool,
    queue: &Queue,
    target: &Target,
    options: &Options,
) -> Result<Vec<Figure>, BenchError> {
    let limit = LimitProcess::start(rig, "bench:rank", None).await?;
    let bare = Target { address: limit.address, ..target.clone() };
    let mut rates = Rates::default();
    let mut facts = Vec::new();
    for _ in 0..options.rounds {
        rates.bare_accept.push(rate(&accept(&bare, options).await?));
        limit_server::forget_jobs(&rig.services.redis_url).await?;
        rig.start(Role::Ingest).await?;
        let before = Stored::now(pool).await?;
        let posted = accept(target, options).await?;
        rates.accept.push(rate(&posted));
        rig.stop("ingest").await?;
        let seconds = bare_drain::run(&rig.services.redis_url, &queue.keys().jobs(), pool).await?;
        rates.bare_drain.push(options.events as f64 / seconds);
        drain(rig, queue, options, &mut rates).await?;
        facts.push(fold(rig, pool, queue, &mut rates).await?);
        before.grew_by(posted.accepted, posted.scores, pool).await?;
    }
    limit.stop().await;
    // Not by turns with the real one: copying a million players would burden it.
    let mut bare_fold = BareFold::prepare(&rig.services.redis_url, pool).await?;
    for count in facts {
        rates.bare_fold.push(count as f64 / bare_fold.run(count).await?);
    }
    bare_fold.forget().await?;
    let mut figures = vec![
        Figure::new("accept", "ingest; limit: bare axum + EVALSHA", "events/s", rates.accept)
            .with_limit(rates.bare_accept)
            .with_target("≥ 70 %"),
        Figure::new("drain", "worker; limit: take, decode, COPY", "events/s", rates.drain)
            .with_limit(rates.bare_drain)
            .with_target("≥ 75 %"),
    ];
    figures.extend(report::cpu_per_million("drain", "s/1M events", &rates.drain_cpu, None));
    figures.push(
        Figure::new("fold", "fold and publish; limit: UPDATE + ZADD", "facts/s", rates.fold)
            .with_limit(rates.bare_fold)
            .with_target("≥ 150,000"),
    );
    figures.extend(report::cpu_per_million("fold", "s/1M facts", &rates.fold_cpu, None));
    Ok(figures)
}

fn rate(posted: &Posted) -> f64 {
    posted.accepted as f64 / posted.wall.as_secs_f64()
}

async fn accept(target: &Target, options: &Options) -> Result<Posted, BenchError> {
    let posted = flood(target, options.events, options.connections).await.map_err(BenchError::Load)?;
    if posted.refused > 0 {
        return Err(BenchError::Refused(posted.refused));
    }
    Ok(posted)
}

async fn drain(rig: &mut Rig, queue: &Queue, options: &Options, rates: &mut Rates) -> Result<(), BenchError> {
    let failed = |e: crate::queue::QueueError| BenchError::Queue(e.to_string());
    // What is measured begins when a running worker sees the backlog, not when a process starts.
    queue.pause().await.map_err(failed)?;
    rig.start(Role::Worker).await?;
    let before = rig.usage();
    let started = Instant::now();
    queue.resume().await.map_err(failed)?;
    wait_until("the queue is empty", async || Ok(queue.status().await.map_err(failed)?.jobs == 0)).await?;
    rates.drain.push(options.events as f64 / started.elapsed().as_secs_f64());
    rates.drain_cpu.push((cpu::difference(&rig.usage(), &before), options.events as f64));
    rig.stop("worker").await?;
    Ok(())
}

/// Measures cron on the facts that wait; returns how many they were.
async fn fold(rig: &mut Rig, pool: &Pool, queue: &Queue, rates: &mut Rates) -> Result<usize, BenchError> {
    let facts: i64 = sqlx::query_scalar("SELECT coalesce(sum(fact_count), 0) FROM score_facts").fetch_one(pool).await?;
    // What is measured begins when a running cron sees the facts: until then they are kept elsewhere.
    sqlx::query("CREATE TABLE IF NOT EXISTS bench_facts (LIKE score_facts)").execute(pool).await?;
    let aside = "WITH taken AS (DELETE FROM score_facts RETURNING *) INSERT INTO bench_facts SELECT * FROM taken";
    sqlx::query(aside).execute(pool).await?;
    rig.start(Role::Cron).await?;
    let back = "WITH taken AS (DELETE FROM bench_facts RETURNING *)
                INSERT INTO score_facts OVERRIDING SYSTEM VALUE SELECT * FROM taken ORDER BY id";
    sqlx::query(back).execute(pool).await?;
    let before = rig.usage();
    let started = Instant::now();
    queue.announce_facts().await;
    wait_until("every fact is on the board", async || Ok(!super::whole::folding(pool).await?)).await?;
    rates.fold.push(facts as f64 / started.elapsed().as_secs_f64());
    rates.fold_cpu.push((cpu::difference(&rig.usage(), &before), facts as f64));
    rig.stop("cron").await?;
    Ok(usize::try_from(facts).unwrap_or_default())
}

/// Waits for a condition, looking every few milliseconds.
async fn wait_until(
    what: &'static str,
    condition: impl AsyncFn() -> Result<bool, BenchError>,
) -> Result<(), BenchError> {
    let started = Instant::now();
    while !condition().await? {
        if started.elapsed() > STEP_WITHIN {
            return Err(BenchError::NotSettled(what, STEP_WITHIN));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
