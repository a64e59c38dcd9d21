//! Edits, recomputes and deletes beside each other, and beside retention: each reads what it acts on under its lock.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use scoreline::aggregator::baseline::{Step, fold_chunk};
use scoreline::aggregator::close_periods::close_due;
use scoreline::aggregator::recompute::{Outcome, build};
use scoreline::aggregator::retention::drop_old_months;
use scoreline::domain::board::LeaderboardSpec;
use scoreline::domain::fact::fact_of;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::month::Month;
use scoreline::domain::packed_facts::FactPacker;
use scoreline::services::audit::entries::audit_entries;
use scoreline::store::audit_log::Actor;
use scoreline::store::event_scan::{self, Pace, ScanKey};
use scoreline::store::leaderboards::{self, Applied, ApplyError};
use scoreline::store::recompute::{self, ChangeError};
use scoreline::store::{baseline, facts, partitions};
use serde_json::{Value, json};

use super::stage::{Stage, at};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(20);
const MONDAY: &str = "2026-11-23T00:00:00Z";

/// Waits until some statement of this database waits for a lock.
async fn somebody_waits(stage: &Stage) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("somebody waits for a lock", SOON, || async { stage.count(waiting).await > 0 }).await;
}

async fn begun(stage: &Stage, leaderboard: i32) -> Result<LeaderboardSpec, ChangeError> {
    let mut transaction = stage.pool().begin().await.unwrap();
    let begun = recompute::begin(&mut transaction, leaderboard).await;
    transaction.commit().await.unwrap();
    begun.map(|generation| generation.spec)
}

#[tokio::test]
async fn a_recompute_undoes_no_edit_that_came_before_it() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    let board = stage.live("b", json!({"public": true})).await.generation;
    let mut editing = stage.pool().begin().await.unwrap();
    let hidden = Stage::spec("b", json!({"public": false}));
    leaderboards::apply(&mut editing, stage.game, &hidden, false, Actor::CommandLine).await.unwrap();
    // It has read the board by now, if it reads before it has the lock.
    let (written, ()) = tokio::join!(begun(&stage, board.leaderboard_id), async {
        somebody_waits(&stage).await;
        editing.commit().await.unwrap();
    });
    assert!(!written.unwrap().public);
    assert_eq!(stage.count("SELECT count(*) FROM leaderboards WHERE (spec->>'public')::boolean").await, 0);
}

#[tokio::test]
async fn a_recompute_brings_no_deleted_leaderboard_back() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    let board = stage.live("b", json!({})).await.generation;
    let mut deleting = stage.pool().begin().await.unwrap();
    assert!(leaderboards::delete(&mut deleting, stage.game, "b", Actor::CommandLine).await.unwrap());
    let (refused, ()) = tokio::join!(begun(&stage, board.leaderboard_id), async {
        somebody_waits(&stage).await;
        deleting.commit().await.unwrap();
    });
    assert!(matches!(refused, Err(ChangeError::NotFound)), "{refused:?}");
    assert_eq!(stage.count("SELECT count(*) FROM leaderboard_generations WHERE state <> 'retired'").await, 0);
}

#[tokio::test]
async fn a_recompute_waits_for_the_first_chunk_of_a_month() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    let month = Month::of(at("2026-01-15T00:00:00Z"));
    let mut chunk = stage.pool().begin().await.unwrap();
    baseline::lock_progress(&mut chunk, month).await.unwrap();
    let seen = async {
        let mut transaction = stage.pool().begin().await.unwrap();
        baseline::stand_still(&mut transaction).await.unwrap();
        let seen = baseline::coverage(&mut transaction).await.unwrap();
        transaction.commit().await.unwrap();
        seen
    };
    let (seen, ()) = tokio::join!(seen, async {
        somebody_waits(&stage).await;
        baseline::advance(&mut chunk, month, None, at(MONDAY)).await.unwrap();
        chunk.commit().await.unwrap();
    });
    assert_eq!(seen.get(&month), Some(&baseline::Covered::Everything));
}

/// Its chunk has looked for recomputes before this one was begun, and is not committed when this one looks
/// at the baseline.
#[tokio::test]
async fn a_recompute_takes_over_the_first_chunk_of_a_month() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    partitions::ensure(stage.pool(), at("2026-06-01T00:00:00Z"), at("2026-06-30T00:00:00Z")).await.unwrap();
    let board = stage.live("sum", json!({"operator": "incr"})).await.generation;
    stage.accept(&[stage.event("a", 5, "2026-06-10T10:00:00Z"), stage.event("a", 7, "2026-06-11T10:00:00Z")]).await;
    stage.fold().await;
    let mut gate = stage.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE entry_baseline IN SHARE MODE").execute(&mut *gate).await.unwrap();
    let waiting = async |least: i64| {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        stage.count(waiting).await >= least
    };
    let month = Month::of(at("2026-06-15T00:00:00Z"));
    let tenure = stage.tenure("job-drop-old-months").await;
    let folding = async {
        let step = fold_chunk(&stage.context, &tenure, month, &mut Pace::new(100)).await.unwrap();
        assert_eq!(step, Step::More);
    };
    let again = AtomicI32::new(0);
    let building = async {
        eventually("the chunk is under way", SOON, || waiting(1)).await;
        let mut transaction = stage.pool().begin().await.unwrap();
        let begun = recompute::begin(&mut transaction, board.leaderboard_id).await.unwrap().id;
        transaction.commit().await.unwrap();
        again.store(begun.0, Ordering::SeqCst);
        stage.build(begun).await;
    };
    let letting_go = async {
        eventually("the recompute waits for it, or does not and is over", SOON, async || {
            let (newest, state) = stage.newest("sum").await;
            waiting(2).await || (newest.0 == again.load(Ordering::SeqCst) && state == "live")
        })
        .await;
        gate.rollback().await.unwrap();
    };
    tokio::join!(folding, building, letting_go);
    let again = BoardGenerationId(again.into_inner());
    let audit = audit_entries(stage.pool(), &stage.rules.board(again).unwrap()).await.unwrap().unwrap();
    assert_eq!((audit.computed, audit.differing), (1, 0), "{audit:?}");
}

#[tokio::test]
async fn an_edit_hears_of_a_month_that_is_being_counted() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    stage.live("b", json!({})).await;
    stage.accept(&[stage.event("a", 5, "2026-11-23T10:00:00Z")]).await;
    stage.fold().await;
    let month = Month::of(at("2026-01-15T00:00:00Z"));
    let mut chunk = stage.pool().begin().await.unwrap();
    baseline::lock_progress(&mut chunk, month).await.unwrap();
    let spec = Stage::spec("b", json!({"operator": "incr"}));
    let (refused, ()) = tokio::join!(stage.apply(&spec, false), async {
        somebody_waits(&stage).await;
        baseline::advance(&mut chunk, month, None, at(MONDAY)).await.unwrap();
        chunk.commit().await.unwrap();
    });
    assert!(matches!(refused, Err(ApplyError::HistoryIncomplete)), "{refused:?}");
}

#[tokio::test]
async fn an_edit_whose_periods_reach_back_into_what_was_dropped_is_refused() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    partitions::ensure(stage.pool(), at("2026-01-01T00:00:00Z"), at("2026-11-01T00:00:00Z")).await.unwrap();
    stage.live("b", json!({"reset": "daily"})).await;
    for day in ["2026-06-30", "2026-09-01", "2026-11-23"] {
        stage.accept(&[stage.event("a", 5, &format!("{day}T10:00:00Z"))]).await;
    }
    stage.fold().await;
    let closing = stage.tenure("job-close-periods").await;
    close_due(&stage.context, &closing).await.unwrap();
    let tenure = stage.tenure("job-drop-old-months").await;
    assert!(drop_old_months(&stage.context, &tenure).await.unwrap() > 0);
    let edited = async |over: Value, accept| {
        let mut transaction = stage.pool().begin().await.unwrap();
        let spec = Stage::spec("b", over);
        let edited = leaderboards::apply(&mut transaction, stage.game, &spec, accept, Actor::CommandLine).await;
        transaction.rollback().await.unwrap();
        edited
    };
    // Its days are final, or wholly kept.
    assert!(matches!(edited(json!({"reset": "daily", "operator": "incr"}), false).await, Ok(Applied::Recomputing)));
    // For ever begins in 1970.
    let refused = edited(json!({"reset": "never"}), false).await;
    assert!(matches!(refused, Err(ApplyError::HistoryIncomplete)), "{refused:?}");
    assert!(matches!(edited(json!({"reset": "never"}), true).await, Ok(Applied::Recomputing)));
}

#[tokio::test]
async fn a_chunk_of_a_scan_is_bounded_in_bytes() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    let mut events = Vec::new();
    for n in 0..20 {
        let mut event = stage.event("a", n, "2026-11-23T10:00:00Z");
        event.payload = json!({"score": n, "padding": "x".repeat(1_000_000)}).to_string();
        events.push(event);
    }
    stage.accept(&events).await;
    let month = Month::of(at(MONDAY));
    let range = (month.starts_at(), month.ends_at());
    let mut connection = stage.pool().acquire().await.unwrap();
    let (mut pace, mut after, mut sizes) = (Pace::new(5_000), ScanKey::before(stage.game), Vec::new());
    loop {
        let chunk = event_scan::next_of_all(&mut connection, range, after, pace.limit()).await.unwrap();
        let Some(last) = chunk.last() else { break };
        after = last.key();
        pace.brought(chunk.len() as i64);
        sizes.push(chunk.len());
    }
    assert_eq!(sizes, [9, 9, 2]);
    assert!(pace.limit() < 5_000, "fewer are read at once");
    let scan = event_scan::GameScan {
        range,
        event_type: "game_ended",
        stamped_before: i32::MAX,
        players: (0, 1),
        limit: 5_000,
    };
    let chunk = event_scan::next_of_game(&mut connection, &scan, ScanKey::before(stage.game)).await.unwrap();
    assert_eq!((chunk.events.len(), chunk.looked_at), (9, 9));
    assert_eq!(chunk.reached, chunk.events.iter().map(event_scan::StoredEvent::key).max());
}

/// What players saw until the swap goes on being counted while it waits, and the new definition has nothing of it.
#[tokio::test]
async fn the_version_does_not_go_back_when_an_edit_is_swapped_in() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    let before = stage.live("b", json!({})).await;
    stage.accept(&[stage.event("a", 5, "2026-11-23T10:00:00Z")]).await;
    stage.fold().await;
    let applied = stage.apply(&Stage::spec("b", json!({"event_type": "other"})), false).await.unwrap();
    assert_eq!(applied, Applied::Recomputing);
    let (after, _) = stage.newest("b").await;
    let mut gate = stage.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM games FOR UPDATE").execute(&mut *gate).await.unwrap();
    let shown = async || -> i64 {
        sqlx::query_scalar("SELECT version FROM board_versions WHERE generation_id = $1")
            .bind(before.generation.id.0)
            .fetch_one(stage.pool())
            .await
            .unwrap()
    };
    let playing = async {
        somebody_waits(&stage).await;
        // By now the new board has its version. That of a fold may be a second behind the clock, or not at all.
        let made = stage.ranking.version(after).await.unwrap().unwrap();
        let now = "SELECT setval('entry_version', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)";
        stage.count(now).await;
        let mut packer = FactPacker::default();
        let event = stage.event("a", 9, "2026-11-23T11:00:00Z");
        packer.push(&fact_of(&before, &event.occurrence()).unwrap(), Some(stage.game));
        facts::insert(&mut stage.pool().acquire().await.unwrap(), &packer.finish()).await.unwrap();
        eventually("it counts by what players see", SOON, async || shown().await > made).await;
        gate.rollback().await.unwrap();
    };
    tokio::join!(stage.build(after), playing);
    let version = stage.ranking.version(after).await.unwrap().unwrap();
    assert!(version > shown().await, "{version} follows {}", shown().await);
}

/// A fold of what players saw is under way while the new definition takes its place, under a version of before.
#[tokio::test]
async fn the_version_follows_a_fold_that_commits_after_the_swap() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    let before = stage.live("b", json!({})).await;
    stage.accept(&[stage.event("a", 5, "2026-11-23T10:00:00Z")]).await;
    stage.fold().await;
    stage.apply(&Stage::spec("b", json!({"event_type": "other"})), false).await.unwrap();
    let (after, _) = stage.newest("b").await;
    let [mut game, mut markers] = [stage.pool().begin().await.unwrap(), stage.pool().begin().await.unwrap()];
    sqlx::query("SELECT 1 FROM games FOR UPDATE").execute(&mut *game).await.unwrap();
    let waiting = async || -> i64 {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        stage.count(waiting).await
    };
    let is_over = AtomicBool::new(false);
    let building = async {
        assert_eq!(build(&stage.context, after).await.unwrap(), Outcome::Live);
        is_over.store(true, Ordering::SeqCst);
    };
    let playing = async {
        eventually("the swap waits", SOON, async || waiting().await == 1).await;
        sqlx::query("LOCK TABLE dirty_entries IN EXCLUSIVE MODE").execute(&mut *markers).await.unwrap();
        let now = "SELECT setval('entry_version', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)";
        stage.count(now).await;
        let mut packer = FactPacker::default();
        let event = stage.event("a", 9, "2026-11-23T11:00:00Z");
        packer.push(&fact_of(&before, &event.occurrence()).unwrap(), Some(stage.game));
        facts::insert(&mut stage.pool().acquire().await.unwrap(), &packer.finish()).await.unwrap();
        eventually("the fold has its version", SOON, async || waiting().await == 2).await;
        game.rollback().await.unwrap();
        eventually("it is live", SOON, async || stage.newest("b").await.1 == "live").await;
        eventually("the swap is over, or waits for the fold", SOON, async || {
            is_over.load(Ordering::SeqCst) || waiting().await == 2
        })
        .await;
        markers.rollback().await.unwrap();
    };
    tokio::join!(building, playing, stage.fold_until(&is_over));
    let shown: i64 = sqlx::query_scalar("SELECT version FROM board_versions WHERE generation_id = $1")
        .bind(before.generation.id.0)
        .fetch_one(stage.pool())
        .await
        .unwrap();
    let version = stage.ranking.version(after).await.unwrap().unwrap();
    assert!(version > shown, "{version} follows {shown}");
}

/// When that is made live it has locked no period of what players saw yet, and it has looked which ones there are.
#[tokio::test]
async fn a_fold_that_waits_for_another_board_gives_what_is_replaced_no_later_version() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    let (other, before) = (stage.live("x", json!({})).await, stage.live("b", json!({})).await);
    stage.accept(&[stage.event("a", 5, "2026-11-23T10:00:00Z")]).await;
    stage.fold().await;
    stage.apply(&Stage::spec("b", json!({"event_type": "other"})), false).await.unwrap();
    let (after, _) = stage.newest("b").await;
    let [mut game, mut period] = [stage.pool().begin().await.unwrap(), stage.pool().begin().await.unwrap()];
    sqlx::query("SELECT 1 FROM games FOR UPDATE").execute(&mut *game).await.unwrap();
    let waiting = async || -> i64 {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        stage.count(waiting).await
    };
    let is_over = AtomicBool::new(false);
    let building = async {
        assert_eq!(build(&stage.context, after).await.unwrap(), Outcome::Live);
        is_over.store(true, Ordering::SeqCst);
    };
    let playing = async {
        eventually("the swap waits", SOON, async || waiting().await == 1).await;
        // Of the older board: it is locked first.
        sqlx::query("SELECT 1 FROM leaderboard_periods WHERE generation_id = $1 FOR UPDATE")
            .bind(other.generation.id.0)
            .execute(&mut *period)
            .await
            .unwrap();
        let now = "SELECT setval('entry_version', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)";
        stage.count(now).await;
        let mut packer = FactPacker::default();
        let event = stage.event("a", 9, "2026-11-23T11:00:00Z");
        for board in [&other, &before] {
            packer.push(&fact_of(board, &event.occurrence()).unwrap(), Some(stage.game));
        }
        facts::insert(&mut stage.pool().acquire().await.unwrap(), &packer.finish()).await.unwrap();
        eventually("the fold waits", SOON, async || waiting().await == 2).await;
        game.rollback().await.unwrap();
        eventually("the swap is over", SOON, async || is_over.load(Ordering::SeqCst)).await;
        period.rollback().await.unwrap();
    };
    tokio::join!(building, playing, stage.fold_until(&is_over));
    stage.fold().await;
    assert_eq!(stage.entries(other.generation.id).await[0].2, "9", "the other board counts it");
    let shown: i64 = sqlx::query_scalar("SELECT version FROM board_versions WHERE generation_id = $1")
        .bind(before.generation.id.0)
        .fetch_one(stage.pool())
        .await
        .unwrap();
    let version = stage.ranking.version(after).await.unwrap().unwrap();
    assert!(version > shown, "{version} follows {shown}");
}
