//! What waits for one board's row, or takes too long, stops nothing else.

use std::time::Duration;

use scoreline::aggregator::fold::{FoldError, fold_once};
use scoreline::aggregator::portion::Portion;
use scoreline::aggregator::refused::Refused;
use scoreline::aggregator::settings::AggregatorConfig;
use scoreline::domain::fact::shard_of;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::runtime::lifecycle::Lifecycle;
use scoreline::store::leases::Lease;
use scoreline::store::{Pool, Transaction};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::arena::{Arena, Play, play, stop};
use super::refused::refuse;
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(60);

/// Connections whose patience with locks ends sooner than that of others, so that the test does.
async fn impatient(arena: &Arena) -> Pool {
    let options: PgConnectOptions = arena.database.url.parse().unwrap();
    let options = options.options([("lock_timeout", "300ms")]);
    Pool::new(PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap())
}

async fn start(arena: &Arena) -> Lifecycle {
    arena.shards.release().await;
    arena.start_on(impatient(arena).await, "cron", AggregatorConfig::default())
}

/// Who has met a fact of a board that is held, the oldest of its shard, and leaves the board out.
async fn met(arena: &Arena, pool: &Pool, board: BoardGenerationId, player: &str) -> Refused {
    arena.shards.renew().await.unwrap();
    let name = format!("fold-{}", shard_of(board, player));
    let alone: Vec<Lease> = arena.shards.held().into_iter().filter(|lease| lease.name == name).collect();
    let folded = fold_once(pool, &arena.rules, &alone, 1).await;
    let Err(FoldError::Postgres(error)) = folded else { panic!("{folded:?}") };
    let mut refused = Refused::default();
    assert!(refused.met(pool, &arena.rules, &alone, 1.into(), &error).await.unwrap());
    refused
}

/// Somebody has a row of a board's, and does not let go.
async fn hold(arena: &Arena, statement: &'static str, board: BoardGenerationId) -> Transaction {
    let mut held = arena.pool().begin().await.unwrap();
    sqlx::query(statement).bind(board.0).execute(&mut *held).await.unwrap();
    held
}

/// How many entries of a board have so many plays.
async fn entries(arena: &Arena, board: BoardGenerationId, plays: i64) -> usize {
    arena.entries(board).await.values().filter(|entry| entry.2 == plays).count()
}

/// Two boards that share rows of facts. Everybody has played once, and that is folded.
async fn theirs_and_ours(arena: &Arena) -> [BoardGenerationId; 2] {
    let boards = [arena.board("theirs", json!({})).await, arena.board("ours", json!({})).await];
    for board in boards {
        arena.rebuild(board).await;
    }
    round(arena, &boards, 1).await;
    arena.fold().await;
    boards
}

/// Thirty players play once more.
async fn round(arena: &Arena, boards: &[BoardGenerationId], score: i64) {
    let players: Vec<String> = (0..30).map(|n| format!("p-{n}")).collect();
    let plays: Vec<_> = players.iter().map(|player| play(player, score, score)).collect();
    arena.facts_of(&mut arena.pool().acquire().await.unwrap(), boards, &plays).await;
}

async fn a_held_board_stops_no_other(row: &'static str) {
    let arena = Arena::new().await;
    let [theirs, ours] = theirs_and_ours(&arena).await;
    let held = hold(&arena, row, theirs).await;
    let cron = start(&arena).await;
    for score in 2..6 {
        round(&arena, &[theirs, ours], score).await;
        eventually("the other board goes on", SOON, async || entries(&arena, ours, score).await == 30).await;
    }
    // Where one entry is held, others of its board may go on.
    assert_eq!(arena.entries(theirs).await["p-7"].2, 1, "it waits");
    held.rollback().await.unwrap();
    eventually("what waited is folded", SOON, async || entries(&arena, theirs, 5).await == 30).await;
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 0);
    stop(cron).await;
}

#[tokio::test]
async fn a_board_whose_version_is_held_stops_no_other() {
    a_held_board_stops_no_other("SELECT 1 FROM board_versions WHERE generation_id = $1 FOR UPDATE").await;
}

#[tokio::test]
async fn a_board_whose_period_is_held_stops_no_other() {
    a_held_board_stops_no_other("SELECT 1 FROM leaderboard_periods WHERE generation_id = $1 FOR UPDATE").await;
}

#[tokio::test]
async fn a_board_with_a_held_entry_stops_no_other() {
    a_held_board_stops_no_other(
        "SELECT 1 FROM leaderboard_entries e JOIN leaderboard_periods p ON p.id = e.period_id
          WHERE p.generation_id = $1 AND player_id = 'p-7' FOR UPDATE OF e",
    )
    .await;
}

/// Which of a row's boards is held shows in its parts. They stand behind all that workers have written meanwhile, each
/// row of which would fail, and be cut, before them.
#[tokio::test]
async fn a_held_board_is_found_before_all_that_waits_has_failed() {
    let arena = Arena::new().await;
    let [theirs, ours] = theirs_and_ours(&arena).await;
    let held = hold(&arena, "SELECT 1 FROM board_versions WHERE generation_id = $1 FOR UPDATE", theirs).await;
    for score in 2..=41 {
        round(&arena, &[theirs, ours], score).await;
    }
    let cron = start(&arena).await;
    eventually("the other board goes on", SOON, async || entries(&arena, ours, 41).await == 30).await;
    assert_eq!(entries(&arena, theirs, 1).await, 30, "they wait");
    held.rollback().await.unwrap();
    eventually("what waited is folded", SOON, async || entries(&arena, theirs, 41).await == 30).await;
    stop(cron).await;
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 0);
}

/// Facts may have a kilobyte of metadata each.
#[tokio::test]
async fn what_is_behind_a_look_is_not_folded_beside_a_held_board() {
    let arena = Arena::new().await;
    let [theirs, ours] = theirs_and_ours(&arena).await;
    let held = hold(&arena, "SELECT 1 FROM board_versions WHERE generation_id = $1 FOR UPDATE", theirs).await;
    let metadata = json!("m".repeat(1_000)).to_string();
    let large: Vec<_> = (0..18_000).map(|n| Play { metadata: Some(&metadata), ..play("p", 2, n) }).collect();
    arena.facts(theirs, &[play("a", 2, 2)]).await;
    arena.facts(ours, &large).await;
    arena.facts(theirs, &[play("b", 2, 2)]).await;
    let pool = impatient(&arena).await;
    let mut refused = met(&arena, &pool, theirs, "a").await;
    let mut facts = 0;
    loop {
        arena.shards.renew().await.unwrap();
        let shards = arena.shards.held();
        let mut portion = Portion::from(40_000);
        refused.make_way(&pool, &arena.rules, &shards, &mut portion).await;
        let folded = fold_once(&pool, &arena.rules, &shards, portion).await.unwrap();
        facts += folded.facts;
        if !folded.full {
            break;
        }
    }
    assert_eq!(facts, 18_000);
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 2, "theirs wait");
    held.rollback().await.unwrap();
}

/// Workers store facts at any moment.
#[tokio::test]
async fn what_comes_after_a_look_is_not_folded_beside_a_held_board() {
    let arena = Arena::new().await;
    let [theirs, ours] = theirs_and_ours(&arena).await;
    let held = hold(&arena, "SELECT 1 FROM board_versions WHERE generation_id = $1 FOR UPDATE", theirs).await;
    arena.facts(theirs, &[play("a", 2, 2)]).await;
    let pool = impatient(&arena).await;
    let mut refused = met(&arena, &pool, theirs, "a").await;
    arena.facts(ours, &[play("p-1", 2, 2)]).await;
    let (shards, mut portion) = (arena.shards.held(), Portion::from(40_000));
    refused.make_way(&pool, &arena.rules, &shards, &mut portion).await;
    round(&arena, &[theirs, ours], 2).await;
    let folded = fold_once(&pool, &arena.rules, &shards, portion).await.unwrap();
    assert_eq!((folded.facts, folded.full), (1, false));
    held.rollback().await.unwrap();
}

/// It cannot be cut, and is not at fault.
#[tokio::test]
async fn a_single_slow_fact_stops_no_other() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    refuse(&arena, "57014", "NEW.player_id = 'slow'").await;
    let beside = |player: &String| shard_of(board, player) == shard_of(board, "slow");
    let players: Vec<String> = (0..).map(|n| format!("p-{n}")).filter(beside).take(10).collect();
    arena.facts(board, &[play("slow", 1, 0)]).await;
    let cron = start(&arena).await;
    for score in 1..4 {
        arena.facts(board, &players.iter().map(|player| play(player, score, score)).collect::<Vec<_>>()).await;
        eventually("the others go on", SOON, async || entries(&arena, board, score).await == 10).await;
    }
    assert_eq!(arena.count("SELECT count(*) FROM score_facts WHERE shard >= 0").await, 1, "it waits");
    sqlx::query("DROP TRIGGER refuse ON leaderboard_entries")
        .execute(&mut arena.database.superuser().await)
        .await
        .unwrap();
    eventually("it is folded", SOON, async || arena.entries(board).await.contains_key("slow")).await;
    stop(cron).await;
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 0);
}
