//! Pages, standings, around and lookup agree with each other and with the exact order.

use std::time::Duration;

use scoreline::domain::board::{Order, TiePolicy};
use scoreline::domain::clock::Micros;
use scoreline::domain::ranking_key::Standing;
use scoreline::ranking::subscription::BoardNotice;
use scoreline::ranking::{BoardPeriod, Direction, Page, Ranking, ReadError, SortKey};
use serde_json::json;

use super::arena::{Arena, play};

/// Scores with many ties: 23 players, scores 0..5.
async fn tied(arena: &Arena) -> BoardPeriod {
    let board = arena.board("ties", json!({"tie_policy": "competition"})).await;
    arena.rebuild(board).await;
    let players: Vec<String> = (0..23).map(|n| format!("p-{n:02}")).collect();
    let plays: Vec<_> = players.iter().zip(0i64..).map(|(p, n)| play(p, n * 7 % 5, n)).collect();
    arena.score(board, &plays).await;
    arena.whole(board)
}

/// Rank by definition: one more than the number of better scores.
fn competition_rank(all: &[(u64, String, i64)], score: i64) -> u64 {
    1 + all.iter().filter(|(_, _, other)| *other > score).count() as u64
}

#[tokio::test]
async fn equal_scores_share_a_rank_and_the_next_counts_them() {
    let arena = Arena::new().await;
    let board = tied(&arena).await;
    let all = arena.top_of(&board).await;
    assert_eq!(all.len(), 23);
    for (rank, player, score) in &all {
        assert_eq!(*rank, competition_rank(&all, *score), "{player}");
    }
    let ordinal = BoardPeriod { tie_policy: TiePolicy::Ordinal, ..board };
    let ranks: Vec<u64> = arena.top_of(&ordinal).await.iter().map(|(rank, _, _)| *rank).collect();
    assert_eq!(ranks, (1..=23).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_page_and_a_single_standing_never_disagree_also_across_page_borders() {
    let arena = Arena::new().await;
    let board = tied(&arena).await;
    for policy in [TiePolicy::Competition, TiePolicy::Ordinal] {
        let board = BoardPeriod { tie_policy: policy, ..board };
        let all = arena.ranking.page(&board, 1000, None, Direction::Forward).await.unwrap();
        for limit in [1, 2, 3, 4, 7, 22, 23, 24] {
            let mut forward = Vec::new();
            let mut page = arena.ranking.page(&board, limit, None, Direction::Forward).await.unwrap();
            assert_eq!(page.previous, None);
            loop {
                assert_eq!((page.total, page.version, page.published), (23, all.version, true));
                forward.extend(page.entries);
                let Some(next) = page.next else { break };
                page = arena.ranking.page(&board, limit, Some(&next), Direction::Forward).await.unwrap();
            }
            assert_eq!(forward, all.entries, "{policy:?} {limit} forward");
            let mut backward = Vec::new();
            let mut page = arena.ranking.page(&board, limit, None, Direction::Backward).await.unwrap();
            assert_eq!(page.next, None);
            loop {
                backward.splice(0..0, page.entries);
                let Some(previous) = page.previous else { break };
                page = arena.ranking.page(&board, limit, Some(&previous), Direction::Backward).await.unwrap();
            }
            assert_eq!(backward, all.entries, "{policy:?} {limit} backward");
            for (n, entry) in all.entries.iter().enumerate() {
                let around = arena.ranking.around(&board, entry.player_id(), limit).await.unwrap();
                let from = n.saturating_sub(limit / 2).min(23usize.saturating_sub(limit));
                assert_eq!(around.entries, all.entries[from..(from + limit).min(23)], "{policy:?} around {n}");
            }
        }
        for entry in &all.entries {
            let standing = arena.ranking.standing(&board, entry.player_id()).await.unwrap();
            assert_eq!(standing.entry.as_ref(), Some(entry), "{policy:?}");
        }
    }
}

#[tokio::test]
async fn friends_are_ranked_overall_and_among_themselves() {
    let arena = Arena::new().await;
    let board = tied(&arena).await;
    let all = arena.top_of(&board).await;
    let friends = ["p-22", "p-05", "nobody", "p-10", "p-01", "p-05"];
    let found = arena.ranking.lookup(&board, &friends).await.unwrap();
    let seen: Vec<(u64, u64, &str)> = found.entries.iter().map(|(a, e)| (*a, e.rank, e.player_id())).collect();
    let mut expected: Vec<&(u64, String, i64)> =
        all.iter().filter(|(_, p, _)| ["p-22", "p-05", "p-10", "p-01"].contains(&p.as_str())).collect();
    expected.sort_by_key(|(rank, _, _)| *rank);
    let ours: Vec<(u64, String, i64)> = expected.iter().map(|e| (*e).clone()).collect();
    let expected: Vec<(u64, u64, &str)> =
        ours.iter().map(|(rank, p, score)| (competition_rank(&ours, *score), *rank, p.as_str())).collect();
    assert_eq!(seen, expected);
    assert_eq!(arena.ranking.lookup(&board, &[]).await.unwrap().entries, []);
    let many: Vec<String> = (0..500).map(|n| format!("p-{:02}", n % 100)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(arena.ranking.lookup(&board, &many).await.unwrap().entries.len(), 23);
}

#[tokio::test]
async fn a_cursor_stays_a_place_in_the_order_when_its_entry_has_moved() {
    let arena = Arena::new().await;
    let board = tied(&arena).await;
    let first = arena.ranking.page(&board, 5, None, Direction::Forward).await.unwrap();
    let cursor = first.next.unwrap();
    let expected = arena.ranking.page(&board, 5, Some(&cursor), Direction::Forward).await.unwrap();
    // Its player climbs to the top: everything behind the cursor stays where it was.
    arena.score(board.generation, &[play(cursor.player_id(), 99, 500)]).await;
    let now = arena.ranking.page(&board, 5, Some(&cursor), Direction::Forward).await.unwrap();
    assert_eq!(now.entries, expected.entries);
    assert!(now.version > expected.version);
    let far = SortKey::new(&Standing { score: i64::MIN, subscore: 0, reached_at: Micros(0) }, "z", Order::Descending);
    let beyond = arena.ranking.page(&board, 5, Some(&far), Direction::Forward).await.unwrap();
    assert_eq!((beyond.entries.len(), beyond.next), (0, None));
}

#[tokio::test]
async fn who_has_no_entry_is_told_so_and_an_empty_period_is_not_a_missing_board() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    let whole = arena.whole(board);
    let missing = arena.ranking.standing(&whole, "a").await;
    assert!(matches!(missing, Err(ReadError::Rebuilding)), "a missing board is never an empty 200");
    assert!(matches!(arena.ranking.page(&whole, 5, None, Direction::Forward).await, Err(ReadError::Rebuilding)));
    assert!(matches!(arena.ranking.around(&whole, "a", 5).await, Err(ReadError::Rebuilding)));
    assert_eq!(arena.ranking.version(board).await.unwrap(), None);
    arena.rebuild(board).await;
    let none = arena.ranking.standing(&whole, "a").await.unwrap();
    assert_eq!((none.entry, none.total, none.published), (None, 0, false));
    for direction in [Direction::Forward, Direction::Backward] {
        let page = arena.ranking.page(&whole, 5, None, direction).await.unwrap();
        assert_eq!((page.entries.len(), page.next, page.previous), (0, None, None));
    }
    assert_eq!(arena.ranking.around(&whole, "a", 5).await.unwrap().entries, []);
}

#[tokio::test]
async fn every_publication_is_announced_with_the_boards_version() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    let (sender, mut notices) = tokio::sync::mpsc::unbounded_channel();
    let stop = tokio_util::sync::CancellationToken::new();
    let listening = {
        let (ranking, stop) = (arena.ranking.clone(), stop.clone());
        tokio::spawn(async move { ranking.listen(stop, |notice| sender.send(notice).unwrap_or_default()).await })
    };
    assert_eq!(notices.recv().await.unwrap(), BoardNotice::Unknown, "subscribed: anything may have changed");
    let built = arena.rebuild(board).await;
    assert_eq!(notices.recv().await.unwrap(), BoardNotice::Changed(board, built.version));
    arena.score(board, &[play("a", 1, 0)]).await;
    let version = arena.ranking.version(board).await.unwrap().unwrap();
    assert!(version > built.version);
    assert_eq!(notices.recv().await.unwrap(), BoardNotice::Changed(board, version));
    let micros = scoreline::runtime::clock::system().now().0;
    assert!((micros - built.version).abs() < 60_000_000, "microseconds of Postgres's clock");
    stop.cancel();
    listening.await.unwrap();
}

#[tokio::test]
async fn reading_without_redis_fails_within_its_bound_and_recovers_by_itself() {
    let mut arena = Arena::new().await;
    let board = tied(&arena).await;
    arena.redis.kill();
    let started = std::time::Instant::now();
    assert!(matches!(arena.ranking.standing(&board, "p-01").await, Err(ReadError::Unavailable(_))));
    assert!(started.elapsed() < Duration::from_secs(5));
    arena.redis.start();
    let ranking: Ranking = arena.ranking.clone();
    crate::support::eventually("the connection is back", Duration::from_secs(5), || async {
        ranking.ping().await.is_ok()
    })
    .await;
}

/// Script calls that Redis has run.
fn calls(arena: &Arena) -> i64 {
    let mut connection = arena.redis.connection();
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut connection).unwrap();
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap();
    line.split("calls=").nth(1).and_then(|rest| rest.split(',').next()).unwrap().parse().unwrap()
}

// On one thread all requests are begun before the first answer is read.
#[tokio::test]
async fn what_is_asked_at_the_same_time_is_answered_by_one_call_and_as_if_asked_alone() {
    let arena = Arena::new().await;
    let tied = tied(&arena).await;
    for board in [tied, BoardPeriod { tie_policy: TiePolicy::Ordinal, ..tied }] {
        let all = arena.ranking.page(&board, 1000, None, Direction::Forward).await.unwrap();
        let players: Vec<String> = (0..200).map(|n| format!("p-{:02}", n % 25)).collect();
        // Redis knows the script.
        arena.ranking.standing(&board, "p-00").await.unwrap();
        let before = calls(&arena);
        let standings = futures_util::future::join_all(players.iter().map(|p| arena.ranking.standing(&board, p))).await;
        assert_eq!(calls(&arena) - before, 2, "the first alone, all others together");
        for (player, standing) in players.iter().zip(standings) {
            let standing = standing.unwrap();
            let entry = all.entries.iter().find(|entry| entry.player_id() == player);
            assert_eq!((standing.entry.as_ref(), standing.total, standing.version), (entry, 23, all.version));
        }
        let players = &players[..100];
        let mut alone = Vec::new();
        for player in players {
            alone.push(arena.ranking.around(&board, player, 4).await.unwrap());
        }
        let before = calls(&arena);
        let together = futures_util::future::join_all(players.iter().map(|p| arena.ranking.around(&board, p, 4))).await;
        assert_eq!(calls(&arena) - before, 2, "the first alone, all others together");
        let together: Vec<Page> = together.into_iter().map(Result::unwrap).collect();
        assert_eq!(together, alone);
        assert!(alone.iter().any(|page| page.entries.is_empty()) && alone.iter().any(|page| page.entries.len() == 4));
        let before = calls(&arena);
        let large = players[..5].iter().map(|p| arena.ranking.around(&board, p, 100));
        assert!(futures_util::future::join_all(large).await.iter().all(Result::is_ok));
        assert_eq!(calls(&arena) - before, 5, "many neighbours keep nobody waiting");
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_keeps_nobody_who_waits_behind_it() {
    let arena = Arena::new().await;
    let board = tied(&arena).await;
    for _ in 0..20 {
        let mut first = Box::pin(arena.ranking.standing(&board, "p-01"));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(arena.ranking.standing(&board, "p-02"));
        let mut third = Box::pin(arena.ranking.standing(&board, "p-03"));
        assert!(futures_util::poll!(&mut second).is_pending() && futures_util::poll!(&mut third).is_pending());
        // Their clients are gone: of the one who calls, and of one who waits.
        drop((first, second));
        assert_eq!(third.await.unwrap().entry.unwrap().player_id(), "p-03");
    }
}
