//! Boards of several games are to be rebuilt: no game's many boards come before another's only one.

use std::sync::Arc;
use std::time::Duration;

use scoreline::aggregator::rebuild::keep_boards;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::ranking::BoardStatus;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use super::tenants::{board, game};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(60);

/// A game makes so many boards, and another one a board after them, all with so many entries. Rebuilds them, looking
/// for those that are missing all the time. How many of the first game's were rebuilt before the other's?
async fn come_before_ours(theirs: usize, entries: i64) -> usize {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let noisy = game(&stage, "noisy").await;
    let mut boards = Vec::new();
    for n in 0..theirs {
        boards.push(board(&stage, noisy, &format!("theirs-{n}"), json!({"reset": "never"})).await);
    }
    boards.push(board(&stage, stage.game, "ours", json!({"reset": "never"})).await);
    sqlx::query(
        "WITH made AS (INSERT INTO leaderboard_periods (generation_id, starts_at)
                       SELECT id, 'epoch' FROM leaderboard_generations RETURNING id)
         INSERT INTO leaderboard_entries (period_id, player_id, score, subscore, reached_at, event_id, plays, version)
         SELECT id, 'p-' || n, n, 0, now(), gen_random_uuid(), 1, 1 FROM made, generate_series(1, $1) n",
    )
    .bind(entries)
    .execute(stage.pool())
    .await
    .unwrap();
    let (stop, wanted) = (CancellationToken::new(), Arc::new(Notify::new()));
    let keeping = {
        let (pool, ranking) = (stage.pool().clone(), stage.ranking.clone());
        let (rules, wanted, stop) = (Arc::clone(&stage.rules), Arc::clone(&wanted), stop.clone());
        tokio::spawn(async move { keep_boards(&pool, &ranking, &rules, &wanted, &stop).await })
    };
    eventually("all are rebuilt", SOON, async || {
        wanted.notify_one();
        stage.ranking.status(&boards).await.unwrap().iter().all(|status| *status == BoardStatus::Ready)
    })
    .await;
    stop.cancel();
    keeping.await.unwrap();
    // One after the other, by Postgres's clock.
    let rebuilt: Vec<i32> = sqlx::query_scalar("SELECT generation_id FROM board_versions ORDER BY version")
        .fetch_all(stage.pool())
        .await
        .unwrap();
    assert_eq!(rebuilt.len(), boards.len());
    rebuilt.iter().position(|id| boards.last() == Some(&BoardGenerationId(*id))).unwrap()
}

/// One begins, and one more where a rebuild takes so long that it is given company.
const MOST_BEFORE: usize = 3;

#[tokio::test]
async fn a_games_many_small_boards_hold_up_no_other_game() {
    let before = come_before_ours(30, 1_000).await;
    assert!(before <= MOST_BEFORE, "{before} of theirs were first");
}

#[tokio::test]
async fn a_games_many_large_boards_hold_up_no_other_game() {
    let before = come_before_ours(12, 10_001).await;
    assert!(before <= MOST_BEFORE, "{before} of theirs were first");
}
