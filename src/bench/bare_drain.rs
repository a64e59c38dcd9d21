//! The limit of storing: the very jobs that ingest queued, taken from a plain list, decoded and written by binary COPY
//! on two connections. No lease, no retry, no facts, no locks, no settlement.

use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::BenchError;
use crate::domain::clock::Micros;
use crate::domain::ids::GameId;
use crate::queue::payload::decode_persist_events;
use crate::store::events::{EventRow, copy_new};
use crate::store::pool::Pool;

/// The list that it takes jobs from.
const LIST: &str = "bench:jobs";
/// Jobs of one transaction.
const GROUP: usize = 250;
/// Connections to Postgres.
const WRITERS: usize = 2;
/// A game of its own keeps these rows out of every count and away from the keys of the real ones.
const GAME: GameId = GameId(-1);

/// Copies the jobs that wait in `queue_jobs` (a hash) and stores the copies; returns the seconds that this takes.
///
/// # Errors
/// [`BenchError`].
pub async fn run(redis_url: &str, queue_jobs: &str, pool: &Pool) -> Result<f64, BenchError> {
    let failed = |e: redis::RedisError| BenchError::Queue(e.to_string());
    let client = redis::Client::open(redis_url).map_err(failed)?;
    let mut redis = client.get_multiplexed_async_connection().await.map_err(failed)?;
    copy_jobs(&mut redis, queue_jobs).await.map_err(failed)?;
    let started = Instant::now();
    let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(drain(redis.clone(), pool.clone()))).collect();
    for writer in writers {
        writer.await.map_err(|e| BenchError::Load(std::io::Error::other(e)))??;
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn copy_jobs(redis: &mut MultiplexedConnection, queue_jobs: &str) -> redis::RedisResult<()> {
    let mut cursor = 0u64;
    loop {
        let (next, page): (u64, Vec<Vec<u8>>) =
            redis::cmd("HSCAN").arg(queue_jobs).arg(cursor).arg("COUNT").arg(GROUP).query_async(redis).await?;
        let bytes: Vec<&Vec<u8>> = page.iter().skip(1).step_by(2).collect();
        if !bytes.is_empty() {
            redis::cmd("RPUSH").arg(LIST).arg(bytes).exec_async(redis).await?;
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

async fn drain(mut redis: MultiplexedConnection, pool: Pool) -> Result<(), BenchError> {
    let mut connection = pool.acquire().await?;
    loop {
        let taken: Option<Vec<Vec<u8>>> = redis::cmd("LPOP")
            .arg(LIST)
            .arg(GROUP)
            .query_async(&mut redis)
            .await
            .map_err(|e| BenchError::Queue(e.to_string()))?;
        let Some(jobs) = taken else { return Ok(()) };
        let decoded = jobs.iter().map(|job| decode_persist_events(job)).collect::<Result<Vec<_>, _>>();
        let decoded = decoded.map_err(|e| BenchError::Queue(e.to_string()))?;
        let row = |event| EventRow {
            game_id: GAME,
            event,
            received_at: Micros(0),
            definitions_generation: 1,
            from_server: true,
        };
        let mut rows: Vec<EventRow<'_>> =
            decoded.iter().flat_map(|job| job.events.iter().map(|event| row(*event))).collect();
        rows.sort_by_key(EventRow::key);
        copy_new(&mut connection, &rows).await?;
    }
}
