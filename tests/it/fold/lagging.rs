//! A Redis that lags takes over: what it lacks of a board must not look whole under the version of the
//! next publication.

use scoreline::aggregator::rebuild::check_boards;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::ranking::{BoardStatus, Still};
use serde_json::json;

use super::arena::{Arena, play, seconds};

impl Arena {
    /// Does something to a board, and takes it back in Redis. Returns the board's version as it was before.
    async fn goes_back(&self, board: BoardGenerationId, after: impl AsyncFnOnce()) -> i64 {
        let mut redis = self.redis.connection();
        let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{{sl:b3:{board}}}:*")).query(&mut redis).unwrap();
        let behind: Vec<Vec<u8>> =
            keys.iter().map(|key| redis::cmd("DUMP").arg(key).query(&mut redis).unwrap()).collect();
        let old = self.ranking.version(board).await.unwrap();
        after().await;
        for (key, value) in keys.iter().zip(behind) {
            redis::cmd("RESTORE").arg(key).arg(0).arg(value).arg("REPLACE").exec(&mut redis).unwrap();
        }
        old.unwrap()
    }
}

#[tokio::test]
async fn a_board_that_has_gone_back_gets_no_new_version_until_it_is_rebuilt() {
    let arena = Arena::new().await;
    // By the script, and as plain commands.
    for publication in [1, 60] {
        let board = arena.board(&format!("b-{publication}"), json!({})).await;
        arena.rebuild(board).await;
        arena.score(board, &[play("a", 1, 0)]).await;
        let old = Some(arena.goes_back(board, async || arena.score(board, &[play("lost", 9, 1)]).await).await);
        let players: Vec<String> = (0..publication).map(|n| format!("p-{n}")).collect();
        let more: Vec<_> = players.iter().map(|player| play(player, 5, 2)).collect();
        arena.score(board, &more).await;
        assert_eq!(arena.ranking.version(board).await.unwrap(), old, "a new version says that all is there");
        assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Doubtful]);
        check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
        assert_eq!(arena.top(board).await[0], (1, "lost".into(), 9));
        assert!(arena.ranking.version(board).await.unwrap() > old);
        arena.score(board, &[play("a", 10, 3)]).await;
        assert_eq!(arena.top(board).await[0], (1, "a".into(), 10), "it is published to again");
    }
}

#[tokio::test]
async fn a_period_that_is_removed_from_a_board_that_has_gone_back_gives_it_no_version() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily"})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 1, 0), play("b", 1, 86_400)]).await;
    let old = arena.goes_back(board, async || arena.score(board, &[play("lost", 9, 86_401)]).await).await;
    let over = arena.rules.board(board).unwrap().schedule.period_at(seconds(0));
    assert!(arena.ranking.remove_period(board, &over, Still::InEra("")).await.unwrap());
    assert_eq!(arena.ranking.version(board).await.unwrap(), Some(old), "a new version says that all is there");
    assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Doubtful]);
    let left = format!("{{sl:b3:{board}}}:p:{}..*", over.starts_at.0);
    let left: Vec<String> = redis::cmd("KEYS").arg(left).query(&mut arena.redis.connection()).unwrap();
    assert_eq!(left, Vec::<String>::new());
    check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
    assert!(arena.ranking.version(board).await.unwrap().unwrap() > old + 1);
}
