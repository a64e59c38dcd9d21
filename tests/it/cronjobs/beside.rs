//! A game's board whose rebuild does not end is beside others that must not notice.

use std::sync::Arc;
use std::time::Duration;

use scoreline::aggregator::audit::audit_all_samples;
use scoreline::aggregator::rebuild::{check_boards, keep_boards};
use scoreline::aggregator::schedule::Context;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::ranking::BoardStatus;
use scoreline::store::{Pool, Transaction};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use super::tenants::{board, game};
use crate::support::{eventually, look_again};

const SOON: Duration = Duration::from_secs(60);

fn forever() -> serde_json::Value {
    json!({"reset": "never"})
}

async fn two_boards(stage: &Stage) -> [BoardGenerationId; 2] {
    let theirs = game(stage, "noisy").await;
    let boards = [board(stage, theirs, "theirs", forever()).await, board(stage, stage.game, "ours", forever()).await];
    sqlx::query("UPDATE directory_version SET version = version + 1").execute(stage.pool()).await.unwrap();
    check_boards(stage.pool(), &stage.ranking, &stage.rules).await.unwrap();
    assert_eq!(stage.ranking.status(&boards).await.unwrap(), [BoardStatus::Ready; 2]);
    boards
}

/// Keeps every rebuild of a board from ending: it gets no version.
async fn hold(stage: &Stage, board: BoardGenerationId) -> Transaction {
    let mut held = stage.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM board_versions WHERE generation_id = $1 FOR UPDATE")
        .bind(board.0)
        .execute(&mut *held)
        .await
        .unwrap();
    held
}

async fn status(stage: &Stage, board: BoardGenerationId) -> BoardStatus {
    stage.ranking.status(&[board]).await.unwrap()[0]
}

#[tokio::test]
async fn a_board_whose_rebuild_does_not_end_holds_up_its_own_game_only() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let [theirs, ours] = two_boards(&stage).await;
    let held = hold(&stage, theirs).await;
    for board in [theirs, ours] {
        stage.ranking.doubt(board).await.unwrap();
    }
    let stop = CancellationToken::new();
    let keeping = {
        let (pool, ranking, rules, stop) =
            (stage.pool().clone(), stage.ranking.clone(), Arc::clone(&stage.rules), stop.clone());
        tokio::spawn(async move { keep_boards(&pool, &ranking, &rules, &Arc::new(Notify::new()), &stop).await })
    };
    let rebuilt = async || status(&stage, ours).await == BoardStatus::Ready;
    eventually("the other board is rebuilt", SOON, &rebuilt).await;
    // And so is one that is found missing only now.
    stage.ranking.doubt(ours).await.unwrap();
    eventually("it is rebuilt again", SOON, &rebuilt).await;
    assert_ne!(status(&stage, theirs).await, BoardStatus::Ready);
    held.rollback().await.unwrap();
    eventually("and at last the slow one", SOON, async || status(&stage, theirs).await == BoardStatus::Ready).await;
    stop.cancel();
    keeping.await.unwrap();
}

/// Each board has an entry that Redis has lost.
async fn lose(stage: &Stage, boards: &[BoardGenerationId]) {
    sqlx::query(
        "WITH made AS (INSERT INTO leaderboard_periods (generation_id, starts_at)
                       SELECT id, 'epoch' FROM leaderboard_generations RETURNING id)
         INSERT INTO leaderboard_entries (period_id, player_id, score, subscore, reached_at, event_id, plays, version)
         SELECT id, 'a', 1, 0, now(), gen_random_uuid(), 1, 1 FROM made",
    )
    .execute(stage.pool())
    .await
    .unwrap();
    let mut redis = stage.redis.connection();
    for board in boards {
        stage.ranking.doubt(*board).await.unwrap();
    }
    check_boards(stage.pool(), &stage.ranking, &stage.rules).await.unwrap();
    for board in boards {
        let lost: i64 = redis::cmd("DEL").arg(rank(*board)).arg(member(*board)).query(&mut redis).unwrap();
        assert_eq!(lost, 2);
    }
}

#[tokio::test]
async fn a_board_whose_repair_does_not_end_keeps_no_other_game_from_being_audited() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let boards = two_boards(&stage).await;
    lose(&stage, &boards).await;
    let [theirs, ours] = boards;
    let held = hold(&stage, theirs).await;
    let auditing = {
        let context = Arc::clone(&stage.context);
        let tenure = stage.tenure("job-audit-boards").await;
        tokio::spawn(async move { audit_all_samples(&context, &tenure).await })
    };
    let repaired =
        |board| redis::cmd("EXISTS").arg(rank(board)).query::<i64>(&mut stage.redis.connection()).unwrap() == 1;
    eventually("the other game's board is repaired", SOON, async || repaired(ours)).await;
    assert!(!repaired(theirs));
    held.rollback().await.unwrap();
    assert!(auditing.await.unwrap().unwrap() >= 2);
    assert!(repaired(theirs));
}

/// Whoever publishes a marker needs a connection to say so. A process has four.
#[tokio::test]
async fn audits_that_wait_leave_connections_to_others() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let mut boards = Vec::new();
    for slug in ["one", "two", "three"] {
        let game = game(&stage, slug).await;
        boards.push(board(&stage, game, slug, forever()).await);
    }
    sqlx::query("UPDATE directory_version SET version = version + 1").execute(stage.pool()).await.unwrap();
    lose(&stage, &boards).await;
    // Nobody publishes it.
    sqlx::query("INSERT INTO dirty_entries (shard, entries) VALUES (0, '')").execute(stage.pool()).await.unwrap();
    let four = PgPoolOptions::new().max_connections(4).connect(&stage.database.url).await.unwrap();
    let context = Context { pool: Pool::new(four), ..(*stage.context).clone() };
    let pool = context.pool.clone();
    let tenure = stage.tenure("job-audit-boards").await;
    let auditing = tokio::spawn(async move { audit_all_samples(&context, &tenure).await });
    while !auditing.is_finished() {
        let four = futures_util::future::join_all((0..4).map(|_| pool.acquire()));
        let had = tokio::time::timeout(Duration::from_secs(3), four).await.expect("they are not kept");
        assert!(had.iter().all(Result::is_ok));
        drop(had);
        look_again().await;
    }
    auditing.await.unwrap().unwrap();
}

fn rank(board: BoardGenerationId) -> String {
    format!("{{sl:b3:{board}}}:p:0..:rank")
}

fn member(board: BoardGenerationId) -> String {
    format!("{{sl:b3:{board}}}:p:0..:member")
}
