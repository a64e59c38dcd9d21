//! A game with leaderboards, a worker that stores events and makes their facts, a clock that the test moves, and the
//! context of scheduled jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use scoreline::aggregator::fold::fold_once;
use scoreline::aggregator::rules::Rules;
use scoreline::aggregator::schedule::Context;
use scoreline::aggregator::settings::RetentionConfig;
use scoreline::aggregator::shards::Shards;
use scoreline::aggregator::tenure::Tenure;
use scoreline::domain::board::{BoardGeneration, CompiledBoard, GenerationState, LeaderboardSpec};
use scoreline::domain::clock::{Clock, Micros};
use scoreline::domain::fact::{Occurrence, fact_of};
use scoreline::domain::ids::{BoardGenerationId, GameId};
use scoreline::domain::low_water::{Hold, LowWater};
use scoreline::domain::packed_facts::FactPacker;
use scoreline::ranking::Ranking;
use scoreline::store::audit_log::Actor;
use scoreline::store::leaderboards::{self, Applied, ApplyError};
use scoreline::store::pool::Pool;
use scoreline::store::{definitions, facts, partitions, recompute};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::look_again;
use crate::support::postgres::{TestDatabase, database};
use crate::support::redis::{TestRedis, redis};

pub struct Stage {
    pub database: TestDatabase,
    pub redis: TestRedis,
    pub ranking: Ranking,
    pub rules: Arc<Rules>,
    pub shards: Arc<Shards>,
    pub context: Arc<Context>,
    pub game: GameId,
    now: Arc<AtomicI64>,
    pub queue_clock: Arc<AtomicI64>,
    pub database_clock: Arc<AtomicI64>,
    queue: Arc<AtomicI64>,
    next_event: AtomicU64,
}

/// One event to be stored.
#[derive(Debug, Clone)]
pub struct Happening {
    pub event_id: Uuid,
    pub event_type: String,
    pub player: String,
    pub occurred_at: Micros,
    pub received_at: Micros,
    pub payload: String,
}

impl Happening {
    pub fn occurrence(&self) -> Occurrence<'_> {
        Occurrence {
            event_id: self.event_id,
            event_type: &self.event_type,
            player_id: &self.player,
            payload: &self.payload,
            occurred_at: self.occurred_at,
            received_at: self.received_at,
            from_server: false,
        }
    }
}

pub fn at(text: &str) -> Micros {
    text.parse::<jiff::Timestamp>().unwrap().into()
}

/// Every column of an entry that a recompute must reproduce.
pub type EntryRow = (Micros, String, String, String, Micros, Uuid, i64, Option<String>);

impl Stage {
    pub async fn new(now: &str) -> Self {
        let (database, redis) = (database().await, redis());
        let ranking = Ranking::open(&redis.url, "sl").unwrap();
        let pool = database.pool.clone();
        let game: i32 = sqlx::query_scalar(
            "INSERT INTO games (slug, name, created_at) VALUES ('g', 'G', '2020-01-01') RETURNING id",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        let now = Arc::new(AtomicI64::new(at(now).0));
        let queue = Arc::new(AtomicI64::new(i64::MAX));
        let rules = Arc::new(Rules::new(pool.clone()));
        rules.reload().await.unwrap();
        let shards = Arc::new(Shards::new(pool.clone(), "test".into()));
        shards.renew().await.unwrap();
        // Two clocks that are this process's until a test sets them.
        let (queue_clock, database_clock) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
        let of = |clock: &Arc<AtomicI64>| {
            let (own, now) = (Arc::clone(clock), Arc::clone(&now));
            move || match own.load(Ordering::SeqCst) {
                0 => Micros(now.load(Ordering::SeqCst)),
                set => Micros(set),
            }
        };
        let (queue_now, database_now) = (of(&queue_clock), of(&database_clock));
        let (clock_now, oldest) = (now.clone(), queue.clone());
        let context = Context {
            pool: pool.clone(),
            ranking: ranking.clone(),
            clock: Clock::from_fn(move || Micros(clock_now.load(Ordering::SeqCst))),
            holder: "test".into(),
            retention: RetentionConfig {
                retention_days: 90,
                closed_period_redis_ttl: 86_400,
                close_wait_seconds: 3_600,
                log_retention_days: 365,
            },
            max_event_age_seconds: 7 * 86_400,
            queue_low_water: Arc::new(move |_| {
                let mut water = LowWater::at(queue_now());
                match oldest.load(Ordering::SeqCst) {
                    i64::MAX => {}
                    received_at => water.add(Hold::Queue, None, Micros(received_at)),
                }
                Box::pin(async move { Ok(water) })
            }),
            database_clock: Arc::new(move || {
                let now = database_now();
                Box::pin(async move { Ok(now) })
            }),
            announce_facts: Arc::new(|| {}),
            directory_changed: Arc::new(|| {}),
            recompute_wanted: Arc::new(Notify::new()),
            stop: CancellationToken::new(),
        };
        let stage = Self {
            database,
            redis,
            ranking,
            rules,
            shards,
            context: Arc::new(context),
            game: GameId(game),
            now,
            queue_clock,
            database_clock,
            queue,
            next_event: AtomicU64::new(1),
        };
        let (from, to) = partitions::window(stage.context.clock.now(), 7 * 86_400);
        partitions::ensure(stage.pool(), from, to).await.unwrap();
        stage
    }

    pub fn pool(&self) -> &Pool {
        &self.database.pool
    }

    pub fn set_now(&self, now: &str) {
        self.now.store(at(now).0, Ordering::SeqCst);
    }

    /// A job that was received at this time waits in the queue; `None`: the queue is empty.
    pub fn set_oldest_job(&self, received_at: Option<&str>) {
        self.queue.store(received_at.map_or(i64::MAX, |text| at(text).0), Ordering::SeqCst);
    }

    pub async fn tenure(&self, name: &str) -> Tenure {
        Tenure::take(self.pool(), name, "test").await.unwrap().expect("the lease is free")
    }

    pub fn spec(slug: &str, over: Value) -> LeaderboardSpec {
        let mut whole = json!({"slug": slug, "event_type": "game_ended", "score": "/score"});
        whole.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    /// Creates or edits a leaderboard, as the admin route does.
    pub async fn apply(&self, spec: &LeaderboardSpec, accept_incomplete: bool) -> Result<Applied, ApplyError> {
        let mut transaction = self.pool().begin().await.unwrap();
        let applied =
            leaderboards::apply(&mut transaction, self.game, spec, accept_incomplete, Actor::CommandLine).await?;
        transaction.commit().await.unwrap();
        self.rules.reload().await.unwrap();
        Ok(applied)
    }

    /// Creates a leaderboard that is in state `building`, as it would be live at once in a game without events.
    pub async fn create(&self, slug: &str, over: Value) -> BoardGeneration {
        let spec = Self::spec(slug, over);
        self.apply(&spec, false).await.unwrap();
        let (newest, state) = self.newest(slug).await;
        if state == "building" {
            return BoardGeneration { state: GenerationState::Building, ..self.generation(newest, spec).await };
        }
        let mut transaction = self.pool().begin().await.unwrap();
        let board = self.generation(newest, spec).await;
        let again = recompute::begin(&mut transaction, board.leaderboard_id).await.unwrap();
        transaction.commit().await.unwrap();
        self.rules.reload().await.unwrap();
        again
    }

    /// The newest generation of a leaderboard, and its state.
    pub async fn newest(&self, slug: &str) -> (BoardGenerationId, String) {
        let newest: (i32, String) = sqlx::query_as(
            "SELECT g.id, g.state FROM leaderboard_generations g JOIN leaderboards l ON l.id = g.leaderboard_id
              WHERE l.slug = $1 ORDER BY g.id DESC LIMIT 1",
        )
        .bind(slug)
        .fetch_one(self.pool())
        .await
        .unwrap();
        (BoardGenerationId(newest.0), newest.1)
    }

    async fn generation(&self, id: BoardGenerationId, spec: LeaderboardSpec) -> BoardGeneration {
        let (leaderboard_id, since_generation): (i32, i32) =
            sqlx::query_as("SELECT leaderboard_id, since_generation FROM leaderboard_generations WHERE id = $1")
                .bind(id.0)
                .fetch_one(self.pool())
                .await
                .unwrap();
        let state = GenerationState::Live;
        BoardGeneration { id, leaderboard_id, game_id: self.game, since_generation, state, spec }
    }

    /// Creates a leaderboard and makes it live.
    pub async fn live(&self, slug: &str, over: Value) -> CompiledBoard {
        let generation = self.create(slug, over).await;
        self.build(generation.id).await;
        CompiledBoard::compile(generation).unwrap()
    }

    /// Recomputes while folding.
    pub async fn build(&self, generation: BoardGenerationId) {
        use scoreline::aggregator::recompute::{Outcome, build};
        let done = AtomicBool::new(false);
        let building = async {
            let outcome = build(&self.context, generation).await.unwrap();
            done.store(true, Ordering::SeqCst);
            outcome
        };
        let (outcome, ()) = tokio::join!(building, self.fold_until(&done));
        assert_eq!(outcome, Outcome::Live);
        self.rules.reload().await.unwrap();
    }

    pub fn event(&self, player: &str, score: i64, when: &str) -> Happening {
        let n = self.next_event.fetch_add(1, Ordering::SeqCst);
        // Scattered like UUIDs of version 4, so that key order is not the order of time.
        let id = u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n);
        Happening {
            event_id: Uuid::from_u128(id),
            event_type: "game_ended".into(),
            player: player.into(),
            occurred_at: at(when),
            received_at: at(when),
            payload: json!({"score": score, "level": format!("l{}", n % 3)}).to_string(),
        }
    }

    /// Stores events and makes their facts in one transaction, as a worker does.
    pub async fn accept(&self, events: &[Happening]) {
        let mut transaction = self.pool().begin().await.unwrap();
        let stamp: i32 = sqlx::query_scalar("SELECT definitions_generation FROM games WHERE id = $1 FOR SHARE")
            .bind(self.game.0)
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        let definitions = definitions::load(&mut transaction).await.unwrap();
        let mut packer = FactPacker::default();
        for event in events {
            let inserted = sqlx::query(
                "INSERT INTO events (game_id, event_id, occurred_at, received_at, definitions_generation, from_server,
                                     type, player_id, payload)
                 VALUES ($1, $2, $3, $4, $5, false, $6, $7, $8::json) ON CONFLICT DO NOTHING",
            )
            .bind(self.game.0)
            .bind(event.event_id)
            .bind(event.occurred_at)
            .bind(event.received_at)
            .bind(stamp)
            .bind(&event.event_type)
            .bind(&event.player)
            .bind(&event.payload)
            .execute(&mut *transaction)
            .await
            .unwrap();
            if inserted.rows_affected() == 1 {
                for board in definitions.boards.values().filter(|b| b.generation.since_generation <= stamp) {
                    if let Some(fact) = fact_of(board, &event.occurrence()) {
                        packer.push(&fact, Some(self.game));
                    }
                }
            }
        }
        facts::insert(&mut transaction, &packer.finish()).await.unwrap();
        transaction.commit().await.unwrap();
    }

    pub async fn fold(&self) {
        self.shards.renew().await.unwrap();
        while fold_once(self.pool(), &self.rules, &self.shards.held(), 1_000).await.unwrap().facts > 0 {}
    }

    /// Folds until told to stop. Never dropped half way: that is what `Aggregator` promises as well.
    pub async fn fold_until(&self, done: &AtomicBool) {
        while !done.load(Ordering::SeqCst) {
            // A fold and a swap may find each other in the way; it tries again.
            self.shards.renew().await.ok();
            let _ = fold_once(self.pool(), &self.rules, &self.shards.held(), 1_000).await;
            look_again().await;
        }
    }

    /// The entries of a generation, whole.
    pub async fn entries(&self, generation: BoardGenerationId) -> Vec<EntryRow> {
        sqlx::query_as(
            "SELECT p.starts_at, e.player_id, coalesce(e.sum_score, e.score)::text,
                    coalesce(e.sum_subscore, e.subscore)::text, e.reached_at, e.event_id, e.plays, e.metadata::text
               FROM leaderboard_periods p JOIN leaderboard_entries e ON e.period_id = p.id
              WHERE p.generation_id = $1 ORDER BY 1, 2",
        )
        .bind(generation.0)
        .fetch_all(self.pool())
        .await
        .unwrap()
    }

    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(self.pool()).await.unwrap()
    }
}
