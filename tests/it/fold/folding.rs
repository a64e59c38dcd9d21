//! Operators, periods and lateness by example.

use std::time::Duration;

use scoreline::aggregator::fold::fold_once;
use scoreline::aggregator::rules::Rules;
use scoreline::domain::board::{Order, TiePolicy};
use scoreline::domain::clock::Micros;
use scoreline::domain::fact::shard_of;
use scoreline::ranking::BoardPeriod;
use scoreline::store::Pool;
use scoreline::store::fold_periods;
use serde_json::json;
use sqlx::postgres::PgPoolOptions;

use super::arena::{Arena, Play, old_fact, play, seconds};

const DAY: i64 = 86_400;

#[tokio::test]
async fn best_keeps_the_better_score_and_counts_every_play() {
    let arena = Arena::new().await;
    let high = arena.board("high", json!({})).await;
    let low = arena.board("low", json!({"order": "ascending"})).await;
    for board in [high, low] {
        arena.rebuild(board).await;
        arena.score(board, &[play("a", 5, 0), play("b", 7, 1)]).await;
        arena.score(board, &[play("a", 3, 2), play("a", 9, 3), play("b", 7, 4)]).await;
    }
    assert_eq!(arena.top(high).await, [(1, "a".into(), 9), (2, "b".into(), 7)]);
    assert_eq!(arena.top(low).await, [(1, "a".into(), 3), (2, "b".into(), 7)]);
    let entries = arena.entries(high).await;
    assert_eq!((entries["a"].2, entries["b"].2), (3, 2), "plays");
    assert!(entries["b"].3 < entries["a"].3, "an equal, later score is no change of b's standing");
    let page = arena.ranking.page(&arena.whole(high), 9, None, scoreline::ranking::Direction::Forward).await.unwrap();
    assert_eq!(page.entries[1].standing.reached_at, seconds(1), "the first of equals stays");
}

#[tokio::test]
async fn set_keeps_the_latest_whatever_came_last() {
    let arena = Arena::new().await;
    let board = arena.board("set", json!({"operator": "set"})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 5, 10)]).await;
    arena.score(board, &[play("a", 9, 5)]).await;
    assert_eq!(arena.top(board).await, [(1, "a".into(), 5)]);
    arena.score(board, &[play("a", 1, 11)]).await;
    assert_eq!(arena.top(board).await, [(1, "a".into(), 1)]);
    // Equal times: the greater event id is the later.
    let (mut early, mut late) = (play("a", 20, 12), play("a", 30, 12));
    (early.event, late.event) = (u128::MAX - 1, u128::MAX);
    arena.score(board, &[late]).await;
    arena.score(board, &[early]).await;
    assert_eq!(arena.top(board).await, [(1, "a".into(), 30)]);
}

#[tokio::test]
async fn sums_beyond_i64_are_exact_and_clamped_when_published() {
    let arena = Arena::new().await;
    let incr = arena.board("incr", json!({"operator": "incr"})).await;
    let decr = arena.board("decr", json!({"operator": "decr"})).await;
    for board in [incr, decr] {
        arena.rebuild(board).await;
        arena.score(board, &[play("a", i64::MAX, 0), play("b", 2, 0)]).await;
        arena.score(board, &[play("a", i64::MAX, 1), play("b", 3, 1)]).await;
    }
    assert_eq!(arena.top(incr).await, [(1, "a".into(), i64::MAX), (2, "b".into(), 5)]);
    assert_eq!(arena.top(decr).await, [(1, "b".into(), -5), (2, "a".into(), i64::MIN)]);
    let twice = (i128::from(i64::MAX) * 2).to_string();
    assert_eq!(arena.entries(incr).await["a"].4.as_deref(), Some(twice.as_str()));
    assert_eq!(arena.entries(decr).await["a"].4, Some(format!("-{twice}")));
    // Back within bounds: nothing was lost by clamping.
    arena.score(incr, &[play("a", i64::MIN, 2)]).await;
    arena.score(incr, &[play("a", -10, 3)]).await;
    assert_eq!(arena.top(incr).await[0], (1, "a".into(), i64::MAX - 11));
    assert_eq!(arena.entries(arena.board("best", json!({})).await).await.len(), 0);
}

#[tokio::test]
async fn best_and_set_store_no_sums() {
    let arena = Arena::new().await;
    let board = arena.board("best", json!({})).await;
    arena.score(board, &[play("a", 1, 0)]).await;
    assert_eq!(arena.entries(board).await["a"].4, None);
}

#[tokio::test]
async fn scores_beyond_doubles_and_subscores_rank_exactly() {
    let arena = Arena::new().await;
    let board = arena.board("exact", json!({"subscore": "/sub"})).await;
    arena.rebuild(board).await;
    let edge = 1i64 << 53;
    let with = |play: Play<'static>, subscore| Play { subscore, ..play };
    arena
        .score(
            board,
            &[
                play("even", edge, 0),
                play("odd", edge + 1, 1),
                with(play("sub", edge, 2), 1),
                play("least", i64::MIN, 3),
                play("most", i64::MAX, 4),
                play("z-early", 7, 5),
                play("a-late", 7, 6),
                play("tie-b", 8, 7),
                play("tie-a", 8, 7),
            ],
        )
        .await;
    let order: Vec<String> = arena.top(board).await.into_iter().map(|(_, player, _)| player).collect();
    assert_eq!(order, ["most", "odd", "sub", "even", "tie-a", "tie-b", "z-early", "a-late", "least"]);
}

#[tokio::test]
async fn metadata_comes_from_the_fact_that_decided_the_standing() {
    let arena = Arena::new().await;
    let board = arena.board("meta", json!({"metadata": "/with"})).await;
    let with = |play: Play<'static>, metadata| Play { metadata: Some(metadata), ..play };
    arena.score(board, &[with(play("a", 5, 0), r#"{"car":"x"}"#)]).await;
    arena.score(board, &[with(play("a", 3, 1), r#"{"car":"y"}"#)]).await;
    let metadata = "SELECT count(*) FROM leaderboard_entries WHERE metadata->>'car' = 'x'";
    assert_eq!(arena.count(metadata).await, 1);
    arena.score(board, &[play("a", 9, 2)]).await;
    assert_eq!(arena.count("SELECT count(*) FROM leaderboard_entries WHERE metadata IS NULL").await, 1);
}

#[tokio::test]
async fn a_play_that_improves_nothing_publishes_nothing() {
    let arena = Arena::new().await;
    let board = arena.board("quiet", json!({})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 9, 0)]).await;
    let version = arena.ranking.version(board).await.unwrap();
    arena.facts(board, &[play("a", 1, 1)]).await;
    let folded = arena.fold().await;
    assert_eq!((folded.facts, folded.marker), (1, None));
    assert_eq!(arena.ranking.version(board).await.unwrap(), version);
}

#[tokio::test]
async fn a_late_score_lands_in_the_season_it_was_played() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily", "grace_seconds": 600})).await;
    arena.rebuild(board).await;
    let midnight = DAY / 2;
    arena.score(board, &[play("a", 1, midnight), play("b", 1, midnight + 1)]).await;
    // Played before midnight, received within the grace and after it. Outages make nobody late: the fold's own time
    // is no part of the rule.
    let played = |player, received| Play { received, ..play(player, 5, midnight - 1) };
    arena.score(board, &[played("a", midnight + 600), played("b", midnight + 601)]).await;
    let day = |start: i64| BoardPeriod {
        generation: board,
        period: arena.rules.board(board).unwrap().schedule.period_at(seconds(start)),
        order: Order::Descending,
        tie_policy: TiePolicy::Ordinal,
    };
    assert_eq!(arena.top_of(&day(midnight - DAY)).await, [(1, "a".into(), 5)]);
    assert_eq!(arena.top_of(&day(midnight)).await, [(1, "a".into(), 1), (2, "b".into(), 1)]);
    assert_eq!(arena.count("SELECT sum(late_count)::bigint FROM leaderboard_periods").await, 1);
    let ends = "SELECT count(*) FROM leaderboard_periods WHERE ends_at = starts_at + interval '1 day'";
    assert_eq!(arena.count(ends).await, 2);
}

#[tokio::test]
async fn facts_of_a_closed_period_are_late_and_change_nothing() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily"})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 1, 0)]).await;
    sqlx::query("UPDATE leaderboard_periods SET state = 'closed'").execute(arena.pool()).await.unwrap();
    arena.facts(board, &[play("a", 5, 1), play("c", 5, 1)]).await;
    let folded = arena.fold().await;
    assert_eq!((folded.facts, folded.late, folded.marker), (2, 2, None));
    assert_eq!(arena.entries(board).await["a"].0, 1);
    assert_eq!(arena.count("SELECT sum(late_count)::bigint FROM leaderboard_periods").await, 2);
}

#[tokio::test]
async fn boards_whose_periods_end_otherwise_than_their_facts_say_are_noted_once_each() {
    let arena = Arena::new().await;
    let daily = json!({"reset": "daily"});
    let boards = [arena.board("one", daily.clone()).await, arena.board("two", daily).await];
    // Made by turns, so that periods in the order of their ids are not in the order of their boards.
    for day in 0..2 {
        for board in boards {
            arena.score(board, &[play("a", 1, day * DAY)]).await;
        }
    }
    // As a program with another calendar makes them.
    sqlx::query("UPDATE leaderboard_periods SET ends_at = ends_at + interval '1 hour'")
        .execute(arena.pool())
        .await
        .unwrap();
    for board in boards {
        arena.facts(board, &[play("a", 2, 0), play("a", 2, DAY)]).await;
    }
    assert_eq!(arena.fold().await.facts, 4);
    assert_eq!(arena.count("SELECT count(*) FROM leaderboard_entries WHERE score = 2").await, 4);
    assert_eq!(arena.count("SELECT count(*) FROM board_versions").await, 2);
}

#[tokio::test]
async fn late_facts_of_two_places_that_share_a_row_are_all_counted() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily"})).await;
    arena.score(board, &[play("a", 1, 0)]).await;
    let id = arena.count("SELECT id FROM leaderboard_periods").await;
    let mut folding = arena.pool().begin().await.unwrap();
    fold_periods::count_late(&mut folding, &[id, id], &[1, 2]).await.unwrap();
    folding.commit().await.unwrap();
    assert_eq!(arena.count("SELECT late_count FROM leaderboard_periods").await, 3);
}

#[tokio::test]
async fn a_period_cannot_be_closed_while_a_fold_writes_into_it() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily"})).await;
    arena.score(board, &[play("a", 1, 0)]).await;
    let mut folding = arena.pool().begin().await.unwrap();
    let start = arena.rules.board(board).unwrap().schedule.period_at(seconds(0));
    let (shared, own) = (fold_periods::Hold::Shared, fold_periods::Of::Generation);
    let found = fold_periods::lock(&mut folding, shared, own, &[(board, start)]).await.unwrap();
    assert!(!found[0].1.closed);
    let close = "UPDATE leaderboard_periods SET state = 'closed' WHERE id IN (
                     SELECT id FROM leaderboard_periods FOR NO KEY UPDATE NOWAIT)";
    assert!(sqlx::query(close).execute(arena.pool()).await.is_err(), "the fold holds it open");
    folding.rollback().await.unwrap();
    assert_eq!(sqlx::query(close).execute(arena.pool()).await.unwrap().rows_affected(), 1);
}

#[tokio::test]
async fn facts_of_a_retired_or_unknown_generation_count_nowhere() {
    let arena = Arena::new().await;
    let (gone, live) = (arena.board("gone", json!({})).await, arena.board("live", json!({})).await);
    arena.facts(gone, &[play("a", 1, 0)]).await;
    arena.facts(live, &[play("a", 1, 0)]).await;
    // The aggregator's copy of the definitions still says it is live.
    sqlx::query("UPDATE leaderboard_generations SET state = 'retired' WHERE id = $1")
        .bind(gone.0)
        .execute(arena.pool())
        .await
        .unwrap();
    assert_eq!(arena.fold().await.facts, 2);
    assert_eq!(arena.entries(gone).await.len(), 0);
    assert_eq!(arena.entries(live).await.len(), 1);
    assert_eq!(arena.count("SELECT count(*) FROM leaderboard_periods").await, 1);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_put_aside_and_blocks_nothing() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.raw_facts(2, 3, Micros(5), vec![99, 1, 2]).await;
    arena.facts(board, &[play("a", 1, 0)]).await;
    assert_eq!(arena.fold().await.facts, 1);
    assert_eq!(arena.entries(board).await.len(), 1);
    assert_eq!(arena.count("SELECT count(*) FROM score_facts WHERE shard = -3 AND fact_count = 3").await, 1);
    assert_eq!(arena.fold().await.facts, 0, "it is not tried again and again");
}

#[tokio::test]
async fn a_fold_takes_a_bounded_number_of_facts() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    for n in 0..10 {
        let players: Vec<String> = (0..50).map(|p| format!("p-{n}-{p}")).collect();
        arena.facts(board, &players.iter().map(|p| play(p, n, n)).collect::<Vec<_>>()).await;
    }
    let held = arena.shards.held();
    let first = scoreline::aggregator::fold::fold_once(arena.pool(), &arena.rules, &held, 100).await.unwrap();
    assert!(first.full && (100..200).contains(&first.facts), "{}", first.facts);
    let mut rounds = 1;
    while scoreline::aggregator::fold::fold_once(arena.pool(), &arena.rules, &held, 100).await.unwrap().facts > 0 {
        rounds += 1;
    }
    assert!((4..=6).contains(&rounds), "{rounds}");
    assert_eq!(arena.entries(board).await.len(), 500);
}

/// Whoever waits for another connection inside of a transaction may wait for those who wait for this transaction.
#[tokio::test]
async fn a_fold_reads_definitions_on_its_own_connection() {
    let arena = Arena::new().await;
    let one = PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(5));
    let pool = Pool::new(one.connect(&arena.database.url).await.unwrap());
    let rules = Rules::new(pool.clone());
    let (board, of_before) = (arena.board("b", json!({})).await, arena.board("before", json!({})).await);
    arena.facts(board, &[play("a", 1, 0)]).await;
    assert_eq!(fold_once(&pool, &rules, &arena.shards.held(), 100).await.unwrap().facts, 1);
    // A row of an earlier program, which has the definitions looked at.
    let row = old_fact(of_before, Micros(0), "a");
    arena.raw_facts(shard_of(of_before, "a").cast_signed(), 1, seconds(0), row).await;
    assert_eq!(fold_once(&pool, &rules, &arena.shards.held(), 100).await.unwrap().facts, 1);
    assert_eq!((arena.entries(board).await.len(), arena.entries(of_before).await.len()), (1, 1));
}
