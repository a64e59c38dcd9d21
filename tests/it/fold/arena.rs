//! A game with leaderboards, the facts that workers would write, and the aggregator's steps one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use scoreline::aggregator::fold::{Folded, fold_once};
use scoreline::aggregator::publish::Publisher;
use scoreline::aggregator::rules::Rules;
use scoreline::aggregator::settings::AggregatorConfig;
use scoreline::aggregator::shards::Shards;
use scoreline::aggregator::{Aggregator, run};
use scoreline::domain::clock::Micros;
use scoreline::domain::fact::Fact;
use scoreline::domain::ids::{BoardGenerationId, GameId};
use scoreline::domain::packed_facts::FactPacker;
use scoreline::domain::period::Period;
use scoreline::ranking::{BoardPeriod, Ranking};
use scoreline::runtime::clock;
use scoreline::runtime::lifecycle::Lifecycle;
use scoreline::services::board_rebuild::{Rebuilt, rebuild_board};
use scoreline::store::facts;
use scoreline::store::pool::Pool;
use serde_json::{Value, json};
use sqlx::Row;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::support::postgres::{TestDatabase, database};
use crate::support::redis::{TestRedis, redis};

/// Some Monday noon.
pub const NOON: i64 = 1_700_481_600;

pub struct Arena {
    pub database: TestDatabase,
    pub redis: TestRedis,
    pub ranking: Ranking,
    pub rules: Arc<Rules>,
    pub shards: Arc<Shards>,
    pub wanted: Arc<Notify>,
    game: i32,
}

/// A fact without its board.
#[derive(Debug, Clone, Copy)]
pub struct Play<'a> {
    pub player: &'a str,
    pub score: i64,
    pub subscore: i64,
    /// Seconds after [`NOON`].
    pub at: i64,
    /// Seconds after [`NOON`].
    pub received: i64,
    pub event: u128,
    pub metadata: Option<&'a str>,
}

static NEXT_EVENT: AtomicI64 = AtomicI64::new(1);

/// A play that is received when it happens.
pub fn play(player: &str, score: i64, at: i64) -> Play<'_> {
    let event = NEXT_EVENT.fetch_add(1, Ordering::Relaxed) as u128;
    Play { player, score, subscore: 0, at, received: at, event, metadata: None }
}

pub fn seconds(after_noon: i64) -> Micros {
    Micros::from_seconds(NOON + after_noon)
}

impl Arena {
    pub async fn new() -> Self {
        let (database, redis) = (database().await, redis());
        let ranking = Ranking::open(&redis.url, "sl").unwrap();
        let game = sqlx::query("INSERT INTO games (slug, name) VALUES ('g', 'G') RETURNING id")
            .fetch_one(&database.pool)
            .await
            .unwrap()
            .get(0);
        let rules = Arc::new(Rules::new(database.pool.clone()));
        let shards = Arc::new(Shards::new(database.pool.clone(), "test".into()));
        shards.renew().await.unwrap();
        Self { database, redis, ranking, rules, shards, wanted: Arc::default(), game }
    }

    pub fn pool(&self) -> &Pool {
        &self.database.pool
    }

    /// A live board; `spec` is laid over a plain one.
    pub async fn board(&self, slug: &str, spec: Value) -> BoardGenerationId {
        self.board_in(slug, spec, "live").await
    }

    pub async fn board_in(&self, slug: &str, spec: Value, state: &str) -> BoardGenerationId {
        let mut whole = json!({"slug": slug, "event_type": "game_ended", "score": "/score"});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let id: i32 = sqlx::query_scalar(
            "WITH l AS (INSERT INTO leaderboards (game_id, slug, spec) VALUES ($1, $2, $3::text::jsonb) RETURNING id)
             INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state)
             SELECT id, 1, $3::text::jsonb, $4 FROM l RETURNING id",
        )
        .bind(self.game)
        .bind(slug)
        .bind(whole.to_string())
        .bind(state)
        .fetch_one(self.pool())
        .await
        .unwrap();
        sqlx::query("UPDATE directory_version SET version = version + 1").execute(self.pool()).await.unwrap();
        self.rules.reload().await.unwrap();
        BoardGenerationId(id)
    }

    /// Writes facts as a worker does: one row per shard.
    pub async fn facts(&self, generation: BoardGenerationId, plays: &[Play<'_>]) {
        let mut connection = self.pool().acquire().await.unwrap();
        self.facts_in(&mut connection, generation, plays).await;
    }

    pub async fn facts_in(
        &self,
        connection: &mut sqlx::PgConnection,
        generation: BoardGenerationId,
        plays: &[Play<'_>],
    ) {
        self.facts_of(connection, &[generation], plays).await;
    }

    /// Each play counts for each of these boards, in the same rows.
    pub async fn facts_of(
        &self,
        connection: &mut sqlx::PgConnection,
        generations: &[BoardGenerationId],
        plays: &[Play<'_>],
    ) {
        let mut packer = FactPacker::default();
        for (play, generation) in plays.iter().flat_map(|play| generations.iter().map(move |id| (play, *id))) {
            let board = self.rules.board(generation).expect("a known board");
            let occurred_at = seconds(play.at);
            let fact = Fact {
                generation,
                period: board.schedule.period_at(occurred_at),
                player_id: play.player,
                score: play.score,
                subscore: play.subscore,
                occurred_at,
                event_id: Uuid::from_u128(play.event),
                received_at: seconds(play.received),
                metadata: play.metadata,
            };
            packer.push(&fact, Some(GameId(self.game)));
        }
        facts::insert(connection, &packer.finish()).await.unwrap();
    }

    pub async fn raw_facts(&self, shard: i16, count: i32, oldest: Micros, bytes: Vec<u8>) {
        sqlx::query(
            "INSERT INTO score_facts (shard, fact_count, min_received_at, facts)
             VALUES ($1, $2, timestamptz 'epoch' + $3 * interval '1 microsecond', $4)",
        )
        .bind(shard)
        .bind(count)
        .bind(oldest.0)
        .bind(bytes)
        .execute(self.pool())
        .await
        .unwrap();
    }

    pub fn publisher(&self) -> Publisher {
        Publisher::new(
            self.pool().clone(),
            self.ranking.clone(),
            self.rules.clone(),
            self.shards.clone(),
            clock::system(),
            self.wanted.clone(),
        )
    }

    pub async fn fold(&self) -> Folded {
        fold_once(self.pool(), &self.rules, &self.shards.held(), 20_000).await.unwrap()
    }

    /// Publishes every waiting marker.
    pub async fn publish(&self) {
        let mut publisher = self.publisher();
        while publisher.publish_leftovers().await.unwrap() {}
    }

    /// Facts, folded and published.
    pub async fn score(&self, generation: BoardGenerationId, plays: &[Play<'_>]) {
        self.facts(generation, plays).await;
        self.fold().await;
        self.publish().await;
    }

    pub async fn rebuild(&self, generation: BoardGenerationId) -> Rebuilt {
        let order = self.rules.board(generation).unwrap().generation.spec.definition.order;
        rebuild_board(self.pool(), &self.ranking, generation, order, "cron", |_| {}).await.unwrap()
    }

    /// Everything Redis holds of a board but its version, comparable, as printable text.
    pub fn redis_state(&self, generation: BoardGenerationId) -> BTreeMap<String, Vec<String>> {
        let mut connection = self.redis.connection();
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(format!("{{sl:b3:{generation}}}:*")).query(&mut connection).unwrap();
        let mut state = BTreeMap::new();
        for key in keys {
            let kind: String = redis::cmd("TYPE").arg(&key).query(&mut connection).unwrap();
            let (command, sorted): (&[&str], bool) = match kind.as_str() {
                "zset" => (&["ZRANGE", "0", "-1", "WITHSCORES"], false),
                "hash" => (&["HGETALL"], true),
                "set" => (&["SMEMBERS"], true),
                _ => (&["GET"], false),
            };
            let mut call = redis::cmd(command[0]);
            call.arg(&key).arg(&command[1..]);
            let value: Vec<Vec<u8>> = if kind == "string" {
                vec![call.query(&mut connection).unwrap()]
            } else {
                call.query(&mut connection).unwrap()
            };
            let value: Vec<Vec<u8>> = match kind.as_str() {
                "hash" => value.chunks(2).map(|pair| pair.join(&b'=')).collect(),
                _ => value,
            };
            let mut value: Vec<String> = value.iter().map(|v| v.escape_ascii().to_string()).collect();
            if sorted {
                value.sort();
            }
            if !key.ends_with(":version") {
                state.insert(key, value);
            }
        }
        state
    }

    /// Entries of the only period, by player: score, subscore, plays, version, sum.
    pub async fn entries(
        &self,
        generation: BoardGenerationId,
    ) -> BTreeMap<String, (i64, i64, i64, i64, Option<String>)> {
        sqlx::query(
            "SELECT e.player_id, e.score, e.subscore, e.plays, e.version, e.sum_score::text
               FROM leaderboard_entries e JOIN leaderboard_periods p ON p.id = e.period_id
              WHERE p.generation_id = $1",
        )
        .bind(generation.0)
        .fetch_all(self.pool())
        .await
        .unwrap()
        .into_iter()
        .map(|r| (r.get(0), (r.get(1), r.get(2), r.get(3), r.get(4), r.get(5))))
        .collect()
    }

    pub async fn count(&self, table_query: impl sqlx::SqlSafeStr) -> i64 {
        sqlx::query_scalar(table_query).fetch_one(self.pool()).await.unwrap()
    }

    pub fn whole(&self, generation: BoardGenerationId) -> BoardPeriod {
        let spec = &self.rules.board(generation).unwrap().generation.spec;
        BoardPeriod { generation, period: Period::WHOLE, order: spec.definition.order, tie_policy: spec.tie_policy }
    }

    /// Player and score from the top, as players read it.
    pub async fn top(&self, generation: BoardGenerationId) -> Vec<(u64, String, i64)> {
        self.top_of(&self.whole(generation)).await
    }

    pub async fn top_of(&self, board: &BoardPeriod) -> Vec<(u64, String, i64)> {
        let page = self.ranking.page(board, 1000, None, scoreline::ranking::Direction::Forward).await.unwrap();
        page.entries.iter().map(|e| (e.rank, e.player_id().to_owned(), e.standing.score)).collect()
    }

    /// A whole aggregator beside the steps above; stop it through the lifecycle.
    pub fn start(&self, holder: &str) -> Lifecycle {
        self.start_with(holder, AggregatorConfig::default())
    }

    pub fn start_with(&self, holder: &str, config: AggregatorConfig) -> Lifecycle {
        self.start_on(self.pool().clone(), holder, config)
    }

    pub fn start_on(&self, pool: Pool, holder: &str, config: AggregatorConfig) -> Lifecycle {
        let lifecycle = Lifecycle::default();
        let aggregator = Aggregator {
            config,
            pool,
            ranking: Ranking::open(&self.redis.url, "sl").unwrap(),
            queue_url: self.redis.url.clone(),
            prefix: "sl".into(),
            clock: clock::system(),
            holder: holder.into(),
            health: std::sync::Arc::default(),
        };
        lifecycle.spawn_essential("aggregator", run(aggregator, lifecycle.clone()));
        lifecycle
    }
}

/// A fact as programs of before packed it: its row does not say when its period ends.
pub fn old_fact(generation: BoardGenerationId, starts_at: Micros, player: &str) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&generation.0.to_le_bytes());
    // The period's start, score, subscore, moment; event; when it was received.
    for number in [starts_at.0, 5, 0, starts_at.0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(Uuid::from_u128(7).as_bytes());
    bytes.extend_from_slice(&starts_at.0.to_le_bytes());
    bytes.push(player.len() as u8);
    bytes.extend_from_slice(player.as_bytes());
    bytes.extend_from_slice(&0u16.to_le_bytes());
    bytes
}

/// Stops an aggregator and waits for its end.
pub async fn stop(lifecycle: Lifecycle) {
    lifecycle.soft.cancel();
    lifecycle.tasks.close();
    lifecycle.tasks.wait().await;
    assert!(!lifecycle.has_failed());
}
