//! Whatever a studio does to a board, in whatever order, and wherever cron dies: what is not final is what a fresh
//! installation with the last definition computes from the same rows; what was ever final stays as it was; and what
//! Redis shows of a period is what Postgres has.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use scoreline::aggregator::close_periods::close_due;
use scoreline::aggregator::publish::Publisher;
use scoreline::aggregator::rebuild::check_boards;
use scoreline::aggregator::recompute::build;
use scoreline::aggregator::retention::{clean_up, drop_old_months};
use scoreline::aggregator::schedule::Context;
use scoreline::domain::board::{Order, TiePolicy};
use scoreline::domain::clock::Micros;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::ranking::{BoardPeriod, Direction};
use scoreline::services::audit::entries::audit_entries;
use scoreline::store::audit_log::Actor;
use scoreline::store::periods::StoredPeriod;
use scoreline::store::{leaderboards, partitions, periods, recompute};
use serde_json::Value;
use uuid::Uuid;

use super::edits_steps::{Step, definition, longer_resets, next_season, steps};
use super::stage::{Stage, at};
use crate::support::look_again;

const BOARD: &str = "b";
/// Monday: its day, its week and the first quarter of it begin together.
const BEGIN: &str = "2026-11-23T06:00:00Z";
const HOUR: i64 = 3_600;
/// How many lives of a board are played at most, and for how long another one is begun.
const CASES: usize = 60;
const BUDGET: Duration = Duration::from_secs(15);

/// A final period: from, to, entries, and every row of its standings as text.
type Final = (Micros, Option<Micros>, Option<i64>, Vec<String>);

struct Play {
    stage: Stage,
    publisher: Publisher,
    now: Micros,
    spec: Value,
    finals: BTreeMap<i64, Final>,
    /// Periods of boards that were deleted: nobody lists them.
    forgotten: HashSet<i64>,
    dropped: bool,
}

impl Play {
    async fn begin(spec: Value) -> Self {
        let stage = Stage::new(BEGIN).await;
        partitions::ensure(stage.pool(), at("2026-06-01T00:00:00Z"), at("2027-01-31T00:00:00Z")).await.unwrap();
        stage.apply(&Stage::spec(BOARD, spec.clone()), true).await.unwrap();
        let (finals, forgotten) = (BTreeMap::new(), HashSet::new());
        let (pool, ranking, rules) = (stage.pool().clone(), stage.ranking.clone(), Arc::clone(&stage.rules));
        let (shards, clock) = (Arc::clone(&stage.shards), stage.context.clock.clone());
        let publisher = Publisher::new(pool, ranking, rules, shards, clock, Arc::default());
        let play = Self { stage, publisher, now: at(BEGIN), spec, finals, forgotten, dropped: false };
        // Old enough to be dropped.
        let old: Vec<_> = (0..4).map(|n| play.stage.event("p-0", 7 * n, "2026-06-10T10:00:00Z")).collect();
        play.stage.accept(&old).await;
        play.stage.fold().await;
        play
    }

    async fn building(&self) -> Option<BoardGenerationId> {
        let found: Option<i32> =
            sqlx::query_scalar("SELECT id FROM leaderboard_generations WHERE state = 'building' ORDER BY id LIMIT 1")
                .fetch_optional(self.stage.pool())
                .await
                .unwrap();
        found.map(BoardGenerationId)
    }

    async fn live(&self) -> Option<BoardGenerationId> {
        let live: Option<i32> =
            sqlx::query_scalar("SELECT live_generation_id FROM leaderboards WHERE slug = $1 AND deleted_at IS NULL")
                .bind(BOARD)
                .fetch_one(self.stage.pool())
                .await
                .unwrap();
        live.map(BoardGenerationId)
    }

    async fn apply(&mut self, spec: &Value) {
        self.stage.apply(&Stage::spec(BOARD, spec.clone()), true).await.unwrap();
        self.spec = spec.clone();
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Edit(spec) => self.apply(spec).await,
            Step::Recompute => {
                let id = "SELECT id::bigint FROM leaderboards WHERE deleted_at IS NULL";
                let leaderboard = i32::try_from(self.stage.count(id).await).unwrap();
                let mut transaction = self.stage.pool().begin().await.unwrap();
                recompute::begin(&mut transaction, leaderboard).await.unwrap();
                transaction.commit().await.unwrap();
                self.stage.rules.reload().await.unwrap();
            }
            Step::DeleteAndCreate(spec) => {
                let mut transaction = self.stage.pool().begin().await.unwrap();
                let deleted =
                    leaderboards::delete(&mut transaction, self.stage.game, BOARD, Actor::CommandLine).await.unwrap();
                assert!(deleted);
                transaction.commit().await.unwrap();
                self.forgotten.extend(self.finals.keys());
                self.apply(spec).await;
            }
            Step::Score(scores) => self.score(scores).await,
            Step::Fold => self.stage.fold().await,
            Step::Close(hours) => self.close_after(*hours).await,
            Step::Build => self.build().await,
            Step::Die(looks) => self.die(*looks).await,
            Step::Drop => self.drop_old().await,
            Step::Rest => {
                // A month is dropped when nothing of it waits, and no recompute goes on.
                self.stage.fold().await;
                self.build().await;
                self.close_after(130 * 24).await;
                let (from, to) = partitions::window(self.now, 7 * 86_400);
                partitions::ensure(self.stage.pool(), from, to).await.unwrap();
                self.drop_old().await;
            }
            Step::Publish => self.check_redis().await,
            Step::Compare => self.check_open().await,
            Step::Flush => redis::cmd("FLUSHALL").exec(&mut self.stage.redis.connection()).unwrap(),
        }
    }

    async fn close_after(&mut self, hours: i64) {
        self.now = self.now.plus_seconds(hours * HOUR);
        self.stage.set_now(&self.now.to_string());
        let tenure = self.stage.tenure("job-close-periods").await;
        close_due(&self.stage.context, &tenure).await.unwrap();
        tenure.sign_off().await;
    }

    async fn drop_old(&mut self) {
        let tenure = self.stage.tenure("job-drop-old-months").await;
        self.dropped |= drop_old_months(&self.stage.context, &tenure).await.unwrap() > 0;
        tenure.sign_off().await;
        sqlx::query("UPDATE leaderboard_generations SET retired_at = retired_at - interval '1 hour'")
            .execute(self.stage.pool())
            .await
            .unwrap();
        let tenure = self.stage.tenure("job-clean-up").await;
        clean_up(&self.stage.context, &tenure).await.unwrap();
        tenure.sign_off().await;
    }

    async fn score(&self, scores: &[(u8, i64, i64, bool)]) {
        let events: Vec<_> = scores
            .iter()
            .map(|(player, score, hours, first)| {
                let mut event = self.stage.event(&format!("p-{player}"), *score, BEGIN);
                event.occurred_at = self.now.plus_seconds(-hours * HOUR);
                event.received_at = self.now;
                event.event_type = if *first { "game_ended" } else { "race_ended" }.into();
                event
            })
            .collect();
        self.stage.accept(&events).await;
    }

    async fn build(&self) {
        if let Some(building) = self.building().await {
            self.stage.build(building).await;
        }
    }

    /// A process that builds, with connections of its own, is gone in the middle; its lease is left to be taken over.
    async fn die(&self, looks: u8) {
        let Some(building) = self.building().await else { return };
        let pool =
            sqlx::postgres::PgPoolOptions::new().max_connections(4).connect(&self.stage.database.url).await.unwrap();
        let context = Context { pool: pool.clone().into(), ..(*self.stage.context).clone() };
        let process = tokio::spawn(async move { build(&context, building).await });
        let done = AtomicBool::new(false);
        let dying = async {
            for _ in 0..looks {
                look_again().await;
            }
            process.abort();
            // However it ended: it was quicker, or it is gone.
            let _ = process.await;
            done.store(true, Ordering::SeqCst);
        };
        tokio::join!(dying, self.stage.fold_until(&done));
        pool.close().await;
        // As much later as it takes.
        sqlx::query("UPDATE leases SET expires_at = '-infinity' WHERE name LIKE 'recompute-%'")
            .execute(self.stage.pool())
            .await
            .unwrap();
        let turn = format!("{{sl:b3:{building}}}:rebuild");
        redis::cmd("DEL").arg(turn).exec(&mut self.stage.redis.connection()).unwrap();
        self.stage.rules.reload().await.unwrap();
    }

    /// Whatever waits is published. Then Redis shows, by what the api asks it, of each period that it is to hold what
    /// Postgres has: entries of open ones, final standings of closed ones.
    async fn check_redis(&mut self) {
        while self.publisher.publish_leftovers().await.unwrap() {}
        let Stage { ranking, rules, .. } = &self.stage;
        check_boards(self.stage.pool(), ranking, rules).await.unwrap();
        for period in self.listed().await.iter().filter(|period| period.in_redis) {
            let StoredPeriod { generation, period: of, order, .. } = *period;
            let board = BoardPeriod { generation, period: of, order, tie_policy: TiePolicy::Ordinal };
            let page = ranking.page(&board, 1_000, None, Direction::Forward).await.unwrap();
            let shown: Vec<_> = page
                .entries
                .iter()
                .map(|e| (e.player_id().to_owned(), e.standing.score, e.standing.reached_at))
                .collect();
            assert_eq!(shown, self.in_postgres(period).await, "{period:?}");
        }
    }

    /// Players with score and moment, best first.
    async fn in_postgres(&self, period: &StoredPeriod) -> Vec<(String, i64, Micros)> {
        let statement = match (period.closed, period.order) {
            (true, _) => "SELECT player_id, score, reached_at FROM period_standings WHERE period_id = $1 ORDER BY rank",
            (false, Order::Ascending) => {
                "SELECT player_id, coalesce(sum_score::bigint, score), reached_at FROM leaderboard_entries
                  WHERE period_id = $1 ORDER BY 2, reached_at, player_id"
            }
            (false, Order::Descending) => {
                "SELECT player_id, coalesce(sum_score::bigint, score), reached_at FROM leaderboard_entries
                  WHERE period_id = $1 ORDER BY 2 DESC, reached_at, player_id"
            }
        };
        sqlx::query_as(statement).bind(period.id).fetch_all(self.stage.pool()).await.unwrap()
    }

    /// The board's periods, as the api lists them.
    async fn listed(&self) -> Vec<StoredPeriod> {
        let all = at("2040-01-01T00:00:00Z");
        // One that was made a moment ago, of a game that has events, has none yet.
        let Some(live) = self.live().await else { return Vec::new() };
        periods::began_before(self.stage.pool(), live, all, 10_000).await.unwrap()
    }

    /// What was ever final is as it was, and listed once.
    async fn check_finals(&mut self) {
        let found: Vec<(i64, Micros, Option<Micros>, Option<i64>)> = sqlx::query_as(
            "SELECT id, starts_at, ends_at, entry_count FROM leaderboard_periods WHERE closed_at IS NOT NULL",
        )
        .fetch_all(self.stage.pool())
        .await
        .unwrap();
        let mut now = BTreeMap::new();
        for (id, starts_at, ends_at, entries) in found {
            let rows: Vec<String> =
                sqlx::query_scalar("SELECT s::text FROM period_standings s WHERE period_id = $1 ORDER BY rank")
                    .bind(id)
                    .fetch_all(self.stage.pool())
                    .await
                    .unwrap();
            now.insert(id, (starts_at, ends_at, entries, rows));
        }
        for (id, was) in &self.finals {
            assert_eq!(now.get(id), Some(was), "final period {id}");
        }
        self.finals = now;
        let listed = self.listed().await;
        let ids: HashSet<i64> = listed.iter().map(|p| p.id).collect();
        for id in self.finals.keys().filter(|id| !self.forgotten.contains(id)) {
            assert!(ids.contains(id), "final period {id} is not listed");
        }
        let names: HashSet<Period> = listed.iter().map(|p| p.period).collect();
        assert_eq!(names.len(), listed.len(), "a period is listed once: {listed:?}");
    }

    /// What is not final is what the events say.
    async fn check_open(&mut self) {
        self.build().await;
        self.stage.fold().await;
        self.check_finals().await;
        self.check_redis().await;
        let live = self.live().await.unwrap();
        let audit = audit_entries(self.stage.pool(), &self.stage.rules.board(live).unwrap()).await.unwrap().unwrap();
        assert_eq!(audit.differing, 0, "{audit:?}");
        // Else a fresh board lacks what the baseline has, and the audit above is all that can be said.
        if !self.dropped {
            self.check_fresh(live).await;
        }
    }

    /// What is not final is what a fresh board computes. It is gone then.
    async fn check_fresh(&self, live: BoardGenerationId) {
        let finals: HashSet<Period> = self
            .finals
            .iter()
            .filter(|(id, _)| !self.forgotten.contains(id))
            .map(|(_, (starts_at, ends_at, ..))| Period { starts_at: *starts_at, ends_at: *ends_at })
            .collect();
        self.stage.apply(&Stage::spec("fresh", self.spec.clone()), true).await.unwrap();
        self.build().await;
        let fresh = self.stage.newest("fresh").await.0;
        let (mut expected, mut found) = (entries(&self.stage, fresh).await, entries(&self.stage, live).await);
        expected.retain(|entry| !finals.contains(&Period { starts_at: entry.0, ends_at: entry.1 }));
        found.retain(|entry| !finals.contains(&Period { starts_at: entry.0, ends_at: entry.1 }));
        assert_eq!(found, expected);
        let mut transaction = self.stage.pool().begin().await.unwrap();
        leaderboards::delete(&mut transaction, self.stage.game, "fresh", Actor::CommandLine).await.unwrap();
        transaction.commit().await.unwrap();
        self.stage.rules.reload().await.unwrap();
    }
}

type Entry = (Micros, Option<Micros>, String, String, Micros, Uuid, i64, Option<String>);

async fn entries(stage: &Stage, generation: BoardGenerationId) -> Vec<Entry> {
    sqlx::query_as(
        "SELECT p.starts_at, p.ends_at, e.player_id, coalesce(e.sum_score, e.score)::text, e.reached_at, e.event_id,
                e.plays, e.metadata::text
           FROM leaderboard_periods p JOIN leaderboard_entries e ON e.period_id = p.id
          WHERE p.generation_id = $1 ORDER BY 1, 2, 3",
    )
    .bind(generation.0)
    .fetch_all(stage.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn edits_deletes_and_recomputes_lose_and_resurrect_nothing() {
    let mut runner = TestRunner::default();
    let began = Instant::now();
    for case in 0..CASES {
        if began.elapsed() > BUDGET {
            println!("{case} of {CASES}");
            break;
        }
        let (first, opening) = match case % 4 {
            0 => longer_resets().new_tree(&mut runner).unwrap().current(),
            1 => next_season().new_tree(&mut runner).unwrap().current(),
            _ => (definition().new_tree(&mut runner).unwrap().current(), Vec::new()),
        };
        let steps = [opening, steps().new_tree(&mut runner).unwrap().current()].concat();
        // Captured, and shown when it fails.
        println!("{first}\n{steps:#?}");
        let mut play = Play::begin(first).await;
        for (n, step) in steps.iter().enumerate() {
            println!("step {n}");
            play.take(step).await;
            play.check_finals().await;
        }
        play.check_open().await;
    }
}
