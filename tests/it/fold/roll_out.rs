//! A newer program runs beside this one: what it defined is kept for it, and brought back when it can be read.

use std::time::Duration;

use scoreline::domain::clock::Micros;
use scoreline::domain::fact::shard_of;
use scoreline::domain::ids::BoardGenerationId;
use serde_json::json;

use super::arena::{Arena, old_fact, play, seconds, stop};
use crate::support::eventually;

async fn define(arena: &Arena, board: BoardGenerationId, reset: &str) {
    sqlx::query("UPDATE leaderboard_generations SET spec = jsonb_set(spec, '{reset}', $2::text::jsonb) WHERE id = $1")
        .bind(board.0)
        .bind(reset)
        .execute(arena.pool())
        .await
        .unwrap();
}

#[tokio::test]
async fn facts_of_an_unreadable_leaderboard_are_kept() {
    let arena = Arena::new().await;
    let (known, future) = (arena.board("known", json!({})).await, arena.board("future", json!({})).await);
    arena.rebuild(known).await;
    arena.rebuild(future).await;
    arena.facts(known, &[play("a", 1, 0)]).await;
    arena.facts(future, &[play("a", 2, 0), play("b", 3, 0)]).await;
    define(&arena, future, r#""lunar""#).await;
    arena.rules.reload().await.unwrap();
    arena.fold().await;
    arena.publish().await;
    assert_eq!(arena.top(known).await, [(1, "a".into(), 1)], "who can be read goes on");
    assert_eq!(arena.count("SELECT coalesce(sum(fact_count), 0)::bigint FROM score_facts WHERE shard < 0").await, 2);
    let waits = "SELECT count(*) FROM score_facts WHERE shard < 0 AND games = ARRAY[(SELECT id FROM games)]";
    assert!(arena.count(waits).await > 0, "and still hold back its periods");
    // The definition can be read again: a cron that runs finds out by itself.
    define(&arena, future, r#""never""#).await;
    arena.rules.reload().await.unwrap();
    let whole = arena.whole(future);
    define(&arena, future, r#""lunar""#).await;
    arena.shards.release().await;
    let cron = arena.start("cron");
    eventually("it holds what it cannot read", Duration::from_secs(10), || async {
        arena.count("SELECT count(*) FROM leases WHERE holder = 'cron'").await == 4 && arena.count(waits).await > 0
    })
    .await;
    define(&arena, future, r#""never""#).await;
    eventually("what was kept counts", Duration::from_secs(15), || async {
        let page = arena.ranking.page(&whole, 10, None, scoreline::ranking::Direction::Forward).await;
        page.is_ok_and(|page| page.entries.len() == 2)
    })
    .await;
    stop(cron).await;
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 0);
}

/// A row of an earlier program does not say when its periods end: only who can read the definition knows. It would be
/// counted in a period without an end.
#[tokio::test]
async fn a_row_without_ends_is_kept_whole() {
    let arena = Arena::new().await;
    let (known, future) =
        (arena.board("known", json!({})).await, arena.board("future", json!({"reset": "daily"})).await);
    let day = arena.rules.board(future).unwrap().schedule.period_at(seconds(0));
    let shard = shard_of(future, "a");
    let beside = (0..).map(|n| format!("p-{n}")).find(|player| shard_of(known, player) == shard).unwrap();
    let row = [old_fact(future, day.starts_at, "a"), old_fact(known, Micros(0), &beside)[1..].to_vec()].concat();
    define(&arena, future, r#""lunar""#).await;
    arena.raw_facts(shard.cast_signed(), 2, seconds(0), row).await;
    arena.rules.reload().await.unwrap();
    arena.fold().await;
    let whole =
        "SELECT coalesce(max(id), 0) FROM score_facts WHERE shard < 0 AND get_byte(facts, 0) = 1 AND fact_count = 2";
    let kept = arena.count(whole).await;
    assert!(kept > 0);
    // Who takes the shard over leaves it where it is, and brings back what is behind it.
    arena.facts(known, &[play(&beside, 1, 1)]).await;
    sqlx::query("UPDATE score_facts SET shard = -1 - shard WHERE shard >= 0").execute(arena.pool()).await.unwrap();
    arena.shards.release().await;
    let cron = arena.start("cron");
    let folded = async || arena.entries(known).await.get(&beside).map_or(0, |entry| entry.2);
    eventually("what can be read counts", Duration::from_secs(60), async || folded().await == 1).await;
    assert_eq!(arena.count(whole).await, kept, "it was not tried in vain");
    define(&arena, future, r#""daily""#).await;
    eventually("all of it counts", Duration::from_secs(60), async || {
        folded().await == 2 && arena.entries(future).await.len() == 1
    })
    .await;
    stop(cron).await;
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 0);
    let periods = "SELECT count(*) FROM leaderboard_periods p JOIN leaderboard_generations g ON g.id = p.generation_id
                    WHERE g.spec ->> 'slug' = 'future' AND p.ends_at = p.starts_at + interval '1 day'";
    assert_eq!(arena.count(periods).await, 1);
}

#[tokio::test]
async fn who_takes_a_shard_over_brings_back_what_it_can_read_and_leaves_the_rest() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({"operator": "incr"})).await;
    arena.rebuild(board).await;
    // More rows than one portion takes, put aside by a holder that could not read them.
    arena.facts(board, &[play("a", 1, 0)]).await;
    let many = "INSERT INTO score_facts (shard, fact_count, min_received_at, games, facts)
                SELECT shard, fact_count, min_received_at, games, facts FROM score_facts, generate_series(1, 899)";
    sqlx::query(many).execute(arena.pool()).await.unwrap();
    sqlx::query("UPDATE score_facts SET shard = -1 - shard").execute(arena.pool()).await.unwrap();
    // What this program cannot read either.
    arena.raw_facts(-3, 3, Micros(5), vec![99, 1, 2]).await;
    let unreadable = "SELECT max(id) FROM score_facts WHERE shard = -3 AND fact_count = 3";
    let id = arena.count(unreadable).await;
    arena.shards.release().await;
    let cron = arena.start("cron");
    eventually("all that can be read counts", Duration::from_secs(60), || async {
        arena.entries(board).await.get("a").is_some_and(|entry| entry.2 == 900)
    })
    .await;
    stop(cron).await;
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 1);
    assert_eq!(arena.count(unreadable).await, id, "it was not tried in vain");
}

#[tokio::test]
async fn a_shard_is_taken_over_before_anything_is_brought_back() {
    let arena = Arena::new().await;
    arena.shards.release().await;
    let mut superuser = arena.database.superuser().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE score_facts, dirty_entries").execute(&mut superuser).await.unwrap();
    let renewed = tokio::time::timeout(Duration::from_secs(10), arena.shards.renew()).await;
    assert!(renewed.is_ok_and(|renewed| renewed.is_ok()));
    assert_eq!(arena.shards.held().len(), 4);
    sqlx::raw_sql("ROLLBACK").execute(&mut superuser).await.unwrap();
}
