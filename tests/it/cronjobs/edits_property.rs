//! Whatever a studio does to a board, in whatever order, and wherever cron dies: what is not final is what a fresh
//! installation with the last definition computes from the same rows; what was ever final stays as it was.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use scoreline::aggregator::audit_events::audit_entries;
use scoreline::aggregator::close_periods::close_due;
use scoreline::aggregator::recompute::build;
use scoreline::aggregator::retention::drop_old_months;
use scoreline::aggregator::schedule::Context;
use scoreline::domain::clock::Micros;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::store::audit_log::Actor;
use scoreline::store::{leaderboards, partitions, periods, recompute};
use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{Stage, at};
use crate::support::look_again;

const BOARD: &str = "b";
const BEGIN: &str = "2026-11-20T06:00:00Z";

/// What happens to the board, or to the cron that works on it.
#[derive(Debug, Clone)]
enum Step {
    Edit(Value),
    Recompute,
    DeleteAndCreate(Value),
    /// Player, score, hours ago, whether of the first event type.
    Score(Vec<(u8, i64, i64, bool)>),
    Fold,
    /// Hours pass, and what is over is closed.
    Close(i64),
    Build,
    /// Cron dies while it builds, after so many looks.
    Die(u8),
    /// What is older than retention is dropped.
    Drop,
}

fn definition() -> impl Strategy<Value = Value> {
    (
        prop::sample::select(vec!["best", "set", "incr", "decr"]),
        prop::sample::select(vec!["ascending", "descending"]),
        prop::sample::select(vec![
            json!("never"),
            json!("daily"),
            json!("weekly"),
            json!({"cron": "0 0 * * *"}),
            json!({"cron": "0 */6 * * *"}),
        ]),
        prop::sample::select(vec!["UTC", "Europe/Berlin"]),
        prop::sample::select(vec![0, 600, 90_000]),
        prop::sample::select(vec!["game_ended", "race_ended"]),
        any::<bool>(),
    )
        .prop_map(|(operator, order, reset, zone, grace, event_type, public)| {
            json!({"operator": operator, "order": order, "reset": reset, "time_zone": zone, "grace_seconds": grace,
                   "event_type": event_type, "public": public, "metadata": "/level"})
        })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let scores = prop::collection::vec((0u8..5, -20i64..20, 0i64..60, prop::bool::weighted(0.8)), 1..12);
    let step = prop_oneof![
        3 => definition().prop_map(Step::Edit),
        1 => Just(Step::Recompute),
        1 => definition().prop_map(Step::DeleteAndCreate),
        4 => scores.prop_map(Step::Score),
        3 => Just(Step::Fold),
        3 => (1i64..40).prop_map(Step::Close),
        2 => Just(Step::Build),
        2 => (0u8..12).prop_map(Step::Die),
        1 => Just(Step::Drop),
    ];
    prop::collection::vec(step, 6..18)
}

/// A final period: from, to, entries, and every row of its standings as text.
type Final = (Micros, Option<Micros>, Option<i64>, Vec<String>);

struct Play {
    stage: Stage,
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
        let play = Self { stage, now: at(BEGIN), spec, finals, forgotten, dropped: false };
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

    async fn live(&self) -> BoardGenerationId {
        let live: i32 =
            sqlx::query_scalar("SELECT live_generation_id FROM leaderboards WHERE slug = $1 AND deleted_at IS NULL")
                .bind(BOARD)
                .fetch_one(self.stage.pool())
                .await
                .unwrap();
        BoardGenerationId(live)
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
            Step::Close(hours) => {
                self.now = self.now.plus_seconds(hours * 3_600);
                self.stage.set_now(&self.now.to_string());
                let tenure = self.stage.tenure("job-close-periods").await;
                close_due(&self.stage.context, &tenure).await.unwrap();
                tenure.sign_off().await;
            }
            Step::Build => self.build().await,
            Step::Die(looks) => self.die(*looks).await,
            Step::Drop => {
                let tenure = self.stage.tenure("job-drop-old-months").await;
                self.dropped |= drop_old_months(&self.stage.context, &tenure).await.unwrap() > 0;
                tenure.sign_off().await;
            }
        }
    }

    async fn score(&self, scores: &[(u8, i64, i64, bool)]) {
        let events: Vec<_> = scores
            .iter()
            .map(|(player, score, hours, first)| {
                let mut event = self.stage.event(&format!("p-{player}"), *score, BEGIN);
                event.occurred_at = self.now.plus_seconds(-hours * 3_600);
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
        sqlx::query("UPDATE leases SET expires_at = '-infinity' WHERE name LIKE 'recompute-%'")
            .execute(self.stage.pool())
            .await
            .unwrap();
        self.stage.rules.reload().await.unwrap();
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
        let live: Option<i32> =
            sqlx::query_scalar("SELECT live_generation_id FROM leaderboards WHERE slug = $1 AND deleted_at IS NULL")
                .bind(BOARD)
                .fetch_one(self.stage.pool())
                .await
                .unwrap();
        let Some(live) = live else { return };
        let all = at("2030-01-01T00:00:00Z");
        let listed = periods::began_before(self.stage.pool(), BoardGenerationId(live), all, 1_000).await.unwrap();
        let ids: HashSet<i64> = listed.iter().map(|p| p.id).collect();
        for id in self.finals.keys().filter(|id| !self.forgotten.contains(id)) {
            assert!(ids.contains(id), "final period {id} is not listed");
        }
        let names: HashSet<Period> = listed.iter().map(|p| p.period).collect();
        assert_eq!(names.len(), listed.len(), "a period is listed once: {listed:?}");
    }

    /// What is not final is what a fresh board computes.
    async fn check_open(&mut self) {
        self.build().await;
        self.stage.fold().await;
        self.check_finals().await;
        let live = self.live().await;
        let audit = audit_entries(self.stage.pool(), &self.stage.rules.board(live).unwrap()).await.unwrap().unwrap();
        assert_eq!(audit.differing, 0, "{audit:?}");
        if self.dropped {
            // Then a fresh board lacks what the baseline has, and the audit above is all that can be said.
            return;
        }
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
    for _ in 0..6 {
        let first = definition().new_tree(&mut runner).unwrap().current();
        let steps = steps().new_tree(&mut runner).unwrap().current();
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
