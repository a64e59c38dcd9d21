//! The steps of an event's path one at a time, each beside its limit: accept, drain, fold and publish.

use std::time::Duration;

use crate::store::pool::Pool;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::batch;
use super::compare::LimitProcess;
use super::load::{Target, flood};
use super::report::Figure;
use super::rig::{Rig, Role};
use super::{BenchError, Options};
use crate::domain::clock::Clock;
use crate::domain::event::Event;
use crate::domain::ids::GameId;
use crate::queue::Queue;
use crate::store::events::{EventRow, copy_new};

/// How long one step may take.
const STEP_WITHIN: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
struct Rates {
    bare_accept: Vec<f64>,
    accept: Vec<f64>,
    copy: Vec<f64>,
    drain: Vec<f64>,
    drain_cpu: Vec<f64>,
    fold: Vec<f64>,
    fold_cpu: Vec<f64>,
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
    let limit = LimitProcess::start(rig, "bench:rank").await?;
    let bare = Target { address: limit.address, ..target.clone() };
    let mut rates = Rates::default();
    for round in 0..options.rounds {
        let seed = u64::from(round);
        rates.bare_accept.push(accept(&bare, options, seed).await?);
        rig.start(Role::Ingest).await?;
        rates.accept.push(accept(target, options, seed + 1_000).await?);
        rig.stop("ingest").await?;
        rates.copy.push(copy(pool, target, options, seed).await?);
        drain(rig, queue, options, &mut rates).await?;
        fold(rig, pool, &mut rates).await?;
    }
    limit.stop().await;
    Ok(vec![
        Figure::new("accept", "ingest; limit: bare axum + EVALSHA", "events/s", rates.accept)
            .with_limit(rates.bare_accept)
            .with_target("≥ 70 %"),
        Figure::new("drain", "worker; limit: raw COPY, 2 connections", "events/s", rates.drain)
            .with_limit(rates.copy)
            .with_target("≥ 75 % of a bare drain with COPY"),
        Figure::new("drain", "CPU, worker + postgres + redis", "s/1M events", rates.drain_cpu),
        Figure::new("fold", "fold and publish", "facts/s", rates.fold).with_target("≥ 150,000"),
        Figure::new("fold", "CPU, cron + postgres + redis", "s/1M facts", rates.fold_cpu),
    ])
}

async fn accept(target: &Target, options: &Options, seed: u64) -> Result<f64, BenchError> {
    let posted = flood(target, options.events, options.connections, seed).await.map_err(BenchError::Load)?;
    if posted.refused > 0 {
        return Err(BenchError::Refused(posted.refused));
    }
    Ok(posted.accepted as f64 / posted.wall.as_secs_f64())
}

async fn drain(rig: &mut Rig, queue: &Queue, options: &Options, rates: &mut Rates) -> Result<(), BenchError> {
    let before = rig.cpu_seconds();
    let started = Instant::now();
    rig.start(Role::Worker).await?;
    wait_until("the queue is empty", async || {
        Ok(queue.status().await.map_err(|e| BenchError::Queue(e.to_string()))?.jobs == 0)
    })
    .await?;
    rates.drain.push(options.events as f64 / started.elapsed().as_secs_f64());
    rates.drain_cpu.push((rig.cpu_seconds() - before) * 1e6 / options.events as f64);
    rig.stop("worker").await?;
    Ok(())
}

async fn fold(rig: &mut Rig, pool: &Pool, rates: &mut Rates) -> Result<(), BenchError> {
    let facts: i64 = sqlx::query_scalar("SELECT coalesce(sum(fact_count), 0) FROM score_facts").fetch_one(pool).await?;
    let before = rig.cpu_seconds();
    let started = Instant::now();
    rig.start(Role::Cron).await?;
    wait_until("every fact is on the board", async || Ok(!super::whole::folding(pool).await?)).await?;
    rates.fold.push(facts as f64 / started.elapsed().as_secs_f64());
    rates.fold_cpu.push((rig.cpu_seconds() - before) * 1e6 / facts as f64);
    rig.stop("cron").await?;
    Ok(())
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

/// The limit of storing: the same rows, prepared beforehand, by binary COPY on two connections.
async fn copy(pool: &Pool, target: &Target, options: &Options, seed: u64) -> Result<f64, BenchError> {
    let halves = [0, 1].map(|half| {
        let (pool, mix, events) = (pool.clone(), target.mix, options.events / 2);
        tokio::spawn(async move { copy_half(&pool, &mix, events, seed * 2 + half).await })
    });
    let mut seconds: f64 = 0.0;
    for half in halves {
        seconds = seconds.max(half.await.map_err(|e| BenchError::Load(std::io::Error::other(e)))??);
    }
    Ok(options.events as f64 / seconds)
}

/// Rows of one COPY, as the worker writes them.
const GROUP: usize = 5_000;

async fn copy_half(pool: &Pool, mix: &batch::Mix, events: u64, seed: u64) -> Result<f64, BenchError> {
    // A game of its own keeps these rows out of every count.
    let game_id = GameId(-1);
    let mut random = SmallRng::seed_from_u64(seed);
    let now = Clock::system().now();
    let mut connection = pool.acquire().await?;
    let mut seconds = 0.0;
    let payload = batch::sample_payload();
    let mut left = events as usize;
    while left > 0 {
        let count = left.min(GROUP);
        let players: Vec<String> = (0..count).map(|_| batch::player(mix, &mut random)).collect();
        let mut rows: Vec<EventRow<'_>> = players
            .iter()
            .map(|player| EventRow {
                game_id,
                event: Event {
                    event_id: batch::event_id(now, &mut random),
                    event_type: "level_progress",
                    player_id: player,
                    session_id: Some("s-1"),
                    schema_version: Some(1),
                    occurred_at: now,
                    payload: &payload,
                },
                received_at: now,
                definitions_generation: 1,
                from_server: true,
            })
            .collect();
        rows.sort_by_key(EventRow::key);
        let started = Instant::now();
        copy_new(&mut connection, &rows).await?;
        seconds += started.elapsed().as_secs_f64();
        left -= count;
    }
    Ok(seconds)
}
