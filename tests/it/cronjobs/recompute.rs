//! Definitions change while workers run, and a recompute equals what folding as they came would have given
//! (docs/rules.md#definitions-change-while-workers-run).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use scoreline::aggregator::builds::{POLL, run};
use scoreline::aggregator::hooks::follow_definitions;
use scoreline::aggregator::recompute::{Outcome, build};
use scoreline::aggregator::schedule::Context;
use scoreline::directory::publication::directory_key;
use scoreline::domain::board::BoardGeneration;
use scoreline::redis_connection::{Connection, Timeouts};
use scoreline::services::audit::entries::audit_entries;
use scoreline::services::directory_publication::publish_if_stale;
use scoreline::store::leaderboards::Applied;
use scoreline::store::partitions;
use scoreline::store::recompute::{self, ChangeError};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::stage::{Happening, Stage, at};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(20);

async fn begin(stage: &Stage, board: &BoardGeneration) -> BoardGeneration {
    let mut transaction = stage.pool().begin().await.unwrap();
    let again = recompute::begin(&mut transaction, board.leaderboard_id).await.unwrap();
    transaction.commit().await.unwrap();
    again
}

#[tokio::test]
async fn a_new_leaderboard_is_live_within_a_blink_when_there_is_no_history() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let stop = CancellationToken::new();
    let context = Arc::new(Context { stop: stop.clone(), ..(*stage.context).clone() });
    let running = tokio::spawn({
        let context = context.clone();
        async move { run(&context, POLL).await }
    });
    let generation = stage.create("global", json!({})).await;
    eventually("the leaderboard is live", Duration::from_secs(5), async || {
        let mut connection = stage.pool().acquire().await.unwrap();
        let progress = recompute::progress(&mut connection, generation.id).await.unwrap().unwrap();
        progress.state == "live" && progress.scan_finished
    })
    .await;
    let live: Option<i32> =
        sqlx::query_scalar("SELECT live_generation_id FROM leaderboards").fetch_one(stage.pool()).await.unwrap();
    assert_eq!(live, Some(generation.id.0));
    assert!(stage.ranking.version(generation.id).await.unwrap().is_some(), "published and ready");
    stop.cancel();
    running.await.unwrap();
}

/// Whoever orders a recompute publishes the directory; nobody looks for the order by itself here.
#[tokio::test]
async fn the_publication_of_a_new_leaderboard_wakes_who_builds_it() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let stop = CancellationToken::new();
    let context = Arc::new(Context { stop: stop.clone(), ..(*stage.context).clone() });
    let wanted = Arc::clone(&context.recompute_wanted);
    let following = tokio::spawn(follow_definitions(stage.redis.url.clone(), "sl".to_owned(), wanted, stop.clone()));
    let is_live = async |generation: &BoardGeneration| {
        let mut connection = stage.pool().acquire().await.unwrap();
        recompute::progress(&mut connection, generation.id).await.unwrap().unwrap().state == "live"
    };
    let first = stage.create("before", json!({})).await;
    let running = tokio::spawn(async move { run(&context, Duration::from_secs(3_600)).await });
    eventually("what waited at the start is live", SOON, async || is_live(&first).await).await;
    let mut redis = Connection::open(&stage.redis.url, Timeouts::default()).unwrap();
    eventually("cron listens", SOON, async || {
        let channel = directory_key("sl");
        let (_, listeners): (String, u32) =
            redis::cmd("PUBSUB").arg("NUMSUB").arg(channel).query(&mut stage.redis.connection()).unwrap();
        listeners == 1
    })
    .await;
    let second = stage.create("after", json!({})).await;
    publish_if_stale(stage.pool(), &mut redis, "sl").await.unwrap();
    eventually("the new leaderboard is live", SOON, async || is_live(&second).await).await;
    stop.cancel();
    running.await.unwrap();
    following.await.unwrap();
}

#[tokio::test]
async fn events_before_and_after_the_change_count_once_each() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    stage.accept(&[stage.event("a", 10, "2026-11-20T00:00:00Z"), stage.event("b", 5, "2026-11-20T01:00:00Z")]).await;
    let board = stage.create("sum", json!({"operator": "incr"})).await;
    // While it is being built, workers go on: these events are stamped later and come through their facts.
    stage.accept(&[stage.event("a", 100, "2026-11-20T02:00:00Z")]).await;
    stage.build(board.id).await;
    stage.accept(&[stage.event("b", 1_000, "2026-11-20T03:00:00Z")]).await;
    stage.fold().await;
    let scores: Vec<(String, String)> = stage.entries(board.id).await.into_iter().map(|e| (e.1, e.2)).collect();
    assert_eq!(scores, [("a".into(), "110".into()), ("b".into(), "1005".into())]);
}

#[tokio::test]
async fn facts_that_were_set_aside_keep_no_recompute_waiting() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    stage.accept(&[stage.event("a", 10, "2026-11-20T00:00:00Z")]).await;
    let aside = r"INSERT INTO score_facts (shard, fact_count, min_received_at, games, facts)
                  VALUES (-1, 10000000, '2026-11-20', '{}', '\x63')";
    sqlx::query(aside).execute(stage.pool()).await.unwrap();
    let board = stage.create("b", json!({})).await;
    let built = tokio::time::timeout(std::time::Duration::from_secs(60), stage.build(board.id)).await;
    assert!(built.is_ok(), "it waits for what nobody here folds");
    assert_eq!(stage.entries(board.id).await.len(), 1);
}

#[tokio::test]
async fn scores_during_a_recompute_are_neither_lost_nor_doubled() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let live = stage.live("sum", json!({"operator": "incr"})).await;
    for n in 0..20 {
        let events: Vec<Happening> =
            (0..300).map(|i| stage.event(&format!("p-{}", i % 40), n, "2026-11-20T00:00:00Z")).collect();
        stage.accept(&events).await;
    }
    let done = AtomicBool::new(false);
    let again = begin(&stage, &live.generation).await;
    let posting = async {
        while !done.load(Ordering::SeqCst) {
            stage.accept(&[stage.event("p-1", 7, "2026-11-20T05:00:00Z")]).await;
        }
    };
    let building = async {
        stage.build(again.id).await;
        done.store(true, Ordering::SeqCst);
    };
    tokio::join!(posting, building);
    stage.fold().await;
    let board = stage.rules.board(again.id).unwrap();
    let audit = audit_entries(stage.pool(), &board).await.unwrap().unwrap();
    assert_eq!((audit.computed, audit.differing), (40, 0), "{audit:?}");
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_recompute_resumes() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    partitions::ensure(stage.pool(), at("2026-09-01T00:00:00Z"), at("2026-10-01T00:00:00Z")).await.unwrap();
    for month in ["09", "10", "11"] {
        for _ in 0..8 {
            let events: Vec<Happening> = (0..1_000)
                .map(|i| stage.event(&format!("p-{}", i % 90), i, &format!("2026-{month}-10T00:00:00Z")))
                .collect();
            stage.accept(&events).await;
        }
    }
    let board = stage.create("sum", json!({"operator": "incr"})).await;
    // Processes that die, with their connections, as soon as another chunk is committed, and once more when all are;
    // their leases are left to be taken over.
    let done = AtomicBool::new(false);
    let dying = async {
        let progress = async || {
            let mut connection = stage.pool().acquire().await.unwrap();
            let progress = recompute::progress(&mut connection, board.id).await.unwrap().unwrap();
            (progress.events_scanned, progress.scan_finished)
        };
        let mut crashes = 0;
        loop {
            let before = progress().await;
            let pool =
                sqlx::postgres::PgPoolOptions::new().max_connections(4).connect(&stage.database.url).await.unwrap();
            let context = Context { pool: pool.clone().into(), ..(*stage.context).clone() };
            let process = tokio::spawn(async move { build(&context, board.id).await });
            if !before.1 {
                eventually("another chunk is committed", Duration::from_secs(60), async || {
                    process.is_finished() || progress().await > before
                })
                .await;
            }
            if before.1 || process.is_finished() {
                match process.await.unwrap() {
                    Ok(Outcome::Live) => break,
                    other => tracing::debug!(?other),
                }
            } else {
                process.abort();
                let _ = process.await;
                crashes += 1;
            }
            pool.close().await;
            sqlx::query("UPDATE leases SET expires_at = '-infinity' WHERE name LIKE 'recompute-%'")
                .execute(stage.pool())
                .await
                .unwrap();
        }
        done.store(true, Ordering::SeqCst);
        crashes
    };
    let (crashes, ()) = tokio::join!(dying, stage.fold_until(&done));
    assert!(crashes > 2, "{crashes}");
    stage.rules.reload().await.unwrap();
    let audit = audit_entries(stage.pool(), &stage.rules.board(board.id).unwrap()).await.unwrap().unwrap();
    assert_eq!((audit.computed, audit.differing), (90, 0), "{audit:?}");
}

#[tokio::test]
async fn a_process_that_lost_its_lease_moves_nothing() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    stage.accept(&[stage.event("a", 10, "2026-11-20T00:00:00Z")]).await;
    let tenure = stage.tenure("recompute-1").await;
    sqlx::query("UPDATE leases SET expires_at = '-infinity', token = nextval('lease_token')")
        .execute(stage.pool())
        .await
        .unwrap();
    assert!(tenure.begin().await.is_err());
    assert!(tenure.check().await.is_err());
}

#[tokio::test]
async fn an_edit_replaces_the_recompute_that_was_under_way() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let live = stage.live("b", json!({})).await;
    // Without stored events there would be nothing to recompute.
    stage.accept(&[stage.event("a", 10, "2026-11-20T00:00:00Z")]).await;
    let edit = async |over: Value| {
        let applied = stage.apply(&Stage::spec("b", over), false).await.unwrap();
        (applied, stage.newest("b").await.0)
    };
    let (applied, first) = edit(json!({"order": "ascending"})).await;
    assert_eq!(applied, Applied::Recomputing);
    let (applied, second) = edit(json!({"operator": "set"})).await;
    assert_eq!(applied, Applied::Recomputing);
    assert_eq!(build(&stage.context, first).await.unwrap(), Outcome::Superseded);
    stage.build(second).await;
    let states = "SELECT id, state FROM leaderboard_generations WHERE id >= $1 ORDER BY id";
    let states: Vec<(i32, String)> =
        sqlx::query_as(states).bind(live.generation.id.0).fetch_all(stage.pool()).await.unwrap();
    let states: Vec<(i32, &str)> = states.iter().map(|(id, state)| (*id, state.as_str())).collect();
    assert_eq!(states, [(live.generation.id.0, "retired"), (first.0, "retired"), (second.0, "live")]);
    // Shown only: no new generation, but the directory is published anew.
    let before = stage.count("SELECT version FROM directory_version").await;
    assert_eq!(edit(json!({"operator": "set", "public": true})).await, (Applied::Shown, second));
    assert_eq!(stage.count("SELECT version FROM directory_version").await, before + 1);
    let snapshot = scoreline::store::directory::snapshot(stage.pool()).await.unwrap();
    let directory = scoreline::directory::Directory::from_snapshot(snapshot);
    let board = &directory.games.values().next().unwrap().leaderboards["b"];
    assert!(board.public && board.live.as_ref().is_some_and(|live| live.generation.id == second));
}

#[tokio::test]
async fn a_specification_that_is_unusable_never_gets_in() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = stage.create("one", json!({})).await;
    let mut transaction = stage.pool().begin().await.unwrap();
    let spec = Stage::spec("one", json!({"reset": {"cron": "0 0 30 2 *"}}));
    // As damage would leave it: no edit writes it.
    sqlx::query("UPDATE leaderboards SET spec = $2::text::jsonb WHERE id = $1")
        .bind(board.leaderboard_id)
        .bind(serde_json::to_string(&spec).unwrap())
        .execute(&mut *transaction)
        .await
        .unwrap();
    let unusable = recompute::begin(&mut transaction, board.leaderboard_id).await;
    assert!(matches!(unusable, Err(ChangeError::Spec(_))), "{unusable:?}");
}

/// A definition and events for the property below.
fn definitions() -> impl Strategy<Value = Value> {
    (
        prop::sample::select(vec!["best", "set", "incr", "decr"]),
        prop::sample::select(vec!["ascending", "descending"]),
        prop::sample::select(vec![json!("never"), json!("daily"), json!("weekly"), json!({"cron": "0 */7 * * *"})]),
        prop::sample::select(vec!["UTC", "Europe/Berlin", "America/St_Johns"]),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(operator, order, reset, zone, metadata, bounded)| {
            let mut spec = json!({"operator": operator, "order": order, "reset": reset, "time_zone": zone});
            if metadata {
                spec["metadata"] = json!("/level");
                spec["subscore"] = json!("/sub");
            }
            if bounded {
                spec["min_score"] = json!(-50);
                spec["match"] = json!([{"pointer": "/mode", "equals": "ranked"}]);
            }
            spec
        })
}

type Draw = (u8, i64, i64, i64, i64, bool);

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    // Player, score, subscore, second within six days around the end of DST, delay of receipt, ranked.
    prop::collection::vec((0u8..6, -100i64..100, 0i64..3, 0i64..6 * 86_400, 0i64..8_000, any::<bool>()), 1..80)
}

fn happen(stage: &Stage, draw: &Draw) -> Happening {
    let mut event = stage.event(&format!("p-{}", draw.0), 0, "2026-10-22T00:00:00Z");
    event.occurred_at = event.occurred_at.plus_seconds(draw.3);
    event.received_at = event.occurred_at.plus_seconds(draw.4);
    let mode = if draw.5 { "ranked" } else { "casual" };
    event.payload = json!({"score": draw.1, "sub": draw.2, "mode": mode, "level": draw.0}).to_string();
    event
}

#[tokio::test]
async fn a_recompute_equals_what_folding_as_they_came_gave() {
    let stage = Stage::new("2026-10-29T00:00:00Z").await;
    let mut runner = TestRunner::default();
    for case in 0..12 {
        let spec = definitions().new_tree(&mut runner).unwrap().current();
        let live = stage.live(&format!("b-{case}"), spec.clone()).await;
        for _ in 0..3 {
            let drawn = draws().new_tree(&mut runner).unwrap().current();
            let events: Vec<Happening> = drawn.iter().map(|draw| happen(&stage, draw)).collect();
            stage.accept(&events).await;
            stage.fold().await;
        }
        // Events of earlier cases are history to this board, stamped before it; its own are not.
        let came = stage.entries(live.generation.id).await;
        let again = begin(&stage, &live.generation).await;
        stage.build(again.id).await;
        assert_eq!(stage.entries(again.id).await, came, "{spec}");
        let audit = audit_entries(stage.pool(), &stage.rules.board(again.id).unwrap()).await.unwrap().unwrap();
        assert_eq!(audit.differing, 0, "{spec} {audit:?}");
    }
}
