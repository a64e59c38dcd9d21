//! The limit of folding: as many players as a fold gets facts for are looked up and changed by one `UPDATE` a group on
//! two connections, and half of them, as many as improve, move in a plain sorted set with their score and nothing else.
//! No facts to take and to decode, no leases, no markers, no guard against older values, no exact order.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng};
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::BenchError;
use crate::store::pool::Pool;

/// The sorted set.
const BOARD: &str = "bench:fold";
/// Players of one `UPDATE`, as many as a fold takes facts.
const GROUP: usize = 40_000;
/// Connections to Postgres.
const WRITERS: usize = 2;
/// Members of one `ZADD`, and commands under way at once, as the publisher has them.
const MEMBERS: usize = 250;
const COMMANDS_AT_ONCE: usize = 2;

/// A player and his new score.
type Move = (Arc<str>, i64);

/// A table and a sorted set of their own, with the players of the largest period.
#[derive(Debug)]
pub struct BareFold {
    redis: MultiplexedConnection,
    pool: Pool,
    players: Vec<Arc<str>>,
    random: SmallRng,
}

fn failed(error: redis::RedisError) -> BenchError {
    BenchError::Queue(error.to_string())
}

impl BareFold {
    /// Copies the players.
    ///
    /// # Errors
    /// [`BenchError`].
    pub async fn prepare(redis_url: &str, pool: &Pool) -> Result<Self, BenchError> {
        for statement in [
            "CREATE TABLE bench_entries (LIKE leaderboard_entries, PRIMARY KEY (period_id, player_id)) WITH (fillfactor = 80)",
            "INSERT INTO bench_entries SELECT * FROM leaderboard_entries WHERE period_id =
                (SELECT period_id FROM leaderboard_entries GROUP BY period_id ORDER BY count(*) DESC LIMIT 1)",
            "VACUUM (ANALYZE) bench_entries",
        ] {
            sqlx::query(statement).execute(pool).await?;
        }
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT player_id, score FROM bench_entries").fetch_all(pool).await?;
        let redis = redis::Client::open(redis_url).map_err(failed)?;
        let redis = redis.get_multiplexed_async_connection().await.map_err(failed)?;
        let moves: Vec<Move> = rows.into_iter().map(|(player, score)| (player.into(), score)).collect();
        publish(&redis, &moves).await?;
        let players = moves.into_iter().map(|(player, _)| player).collect();
        Ok(Self { redis, pool: pool.clone(), players, random: SmallRng::seed_from_u64(1) })
    }

    /// Removes table and set, so that they burden no other stage.
    ///
    /// # Errors
    /// [`BenchError`].
    pub async fn forget(mut self) -> Result<(), BenchError> {
        sqlx::query("DROP TABLE bench_entries").execute(&self.pool).await?;
        redis::cmd("UNLINK").arg(BOARD).exec_async(&mut self.redis).await.map_err(failed)
    }

    /// Gives new scores to `count` random players; returns the seconds that this takes.
    ///
    /// # Errors
    /// [`BenchError`].
    pub async fn run(&mut self, count: usize) -> Result<f64, BenchError> {
        let mut moves: Vec<Move> = (0..count)
            .filter_map(|_| Some((Arc::clone(self.players.choose(&mut self.random)?), self.random.random())))
            .collect();
        let groups: Vec<Vec<Move>> = moves
            .chunks_mut(GROUP)
            .map(|group| {
                group.sort_unstable();
                group.to_vec()
            })
            .collect();
        let started = Instant::now();
        let (updated, mut to_publish) = mpsc::channel::<Vec<Move>>(1);
        let pool = self.pool.clone();
        let writing = async move {
            let write = |mut group: Vec<Move>| {
                let (pool, updated) = (pool.clone(), updated.clone());
                async move {
                    update(&pool, &group).await?;
                    // Every other improves; neighbours go together, as the publisher sends them.
                    let mut improved: Vec<Move> = group.drain(..).step_by(2).collect();
                    improved.sort_unstable_by_key(|(_, score)| *score);
                    let _ = updated.send(improved).await;
                    Ok::<_, BenchError>(())
                }
            };
            stream::iter(groups).map(Ok).try_for_each_concurrent(WRITERS, write).await
        };
        let publishing = async {
            while let Some(moves) = to_publish.recv().await {
                publish(&self.redis, &moves).await?;
            }
            Ok::<_, BenchError>(())
        };
        tokio::try_join!(writing, publishing)?;
        Ok(started.elapsed().as_secs_f64())
    }
}

async fn update(pool: &Pool, group: &[Move]) -> Result<(), BenchError> {
    let players: Vec<&str> = group.iter().map(|(player, _)| &**player).collect();
    let scores: Vec<i64> = group.iter().map(|(_, score)| *score).collect();
    let mut transaction = pool.begin().await?;
    crate::store::markers::next_version(&mut transaction).await?;
    sqlx::query(
        "UPDATE bench_entries AS e
            SET score = f.score, reached_at = clock_timestamp(), version = e.version + 1, plays = e.plays + 1
           FROM unnest($1::text[], $2::bigint[]) AS f (player_id, score)
          WHERE e.period_id = (SELECT period_id FROM bench_entries LIMIT 1) AND e.player_id = f.player_id",
    )
    .bind(players)
    .bind(scores)
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

async fn publish(redis: &MultiplexedConnection, moves: &[Move]) -> Result<(), BenchError> {
    let commands = moves.chunks(MEMBERS).map(|members| {
        let mut command = redis::cmd("ZADD");
        command.arg(BOARD);
        for (player, score) in members {
            command.arg(*score as f64).arg(&**player);
        }
        command
    });
    stream::iter(commands)
        .map(|command| {
            let mut redis = redis.clone();
            async move { command.exec_async(&mut redis).await.map_err(failed) }
        })
        .buffered(COMMANDS_AT_ONCE)
        .try_collect()
        .await
}
