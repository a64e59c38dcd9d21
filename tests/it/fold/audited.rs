//! An audit beside folds and publications.

use std::sync::atomic::{AtomicBool, Ordering};

use scoreline::services::audit::audit_board;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::arena::{Arena, play};
use crate::support::look_again;

const AUDITS: u64 = 30;

#[tokio::test]
async fn an_audit_beside_a_board_on_which_everybody_scores_finds_nothing() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({"operator": "incr"})).await;
    arena.rebuild(board).await;
    let players: Vec<String> = (0..200).map(|n| format!("p-{n}")).collect();
    arena.score(board, &players.iter().map(|player| play(player, 1, 0)).collect::<Vec<_>>()).await;
    let done = AtomicBool::new(false);
    let scoring = async {
        let mut round = 1;
        while !done.load(Ordering::SeqCst) {
            let plays: Vec<_> = players.iter().map(|player| play(player, 1, round)).collect();
            arena.facts(board, &plays).await;
            arena.fold().await;
            // What an audit reads now is in Postgres and not in Redis.
            look_again().await;
            arena.publish().await;
            round += 1;
        }
        round
    };
    let auditing = async {
        let (rules, never) = (arena.rules.board(board).unwrap(), CancellationToken::new());
        let mut compared = 0;
        for _ in 0..AUDITS {
            let found = audit_board(arena.pool(), &arena.ranking, &rules, false, "cron", &never).await.unwrap();
            assert!(found.is_clean() && !found.redis.repaired, "{found:?}");
            compared += found.redis.compared;
        }
        done.store(true, Ordering::SeqCst);
        compared
    };
    let (rounds, compared) = tokio::join!(scoring, auditing);
    assert_eq!(compared, AUDITS * 200);
    assert!(rounds > 8, "{rounds}");
}
