//! What Postgres refuses in one row of facts stops nothing else, and is no reason to put everything aside.

use std::time::Duration;

use scoreline::aggregator::fold::{FoldError, fold_once};
use scoreline::aggregator::refused::Refused;
use scoreline::config::AggregatorConfig;
use scoreline::domain::fact::shard_of;
use scoreline::store::leases::Lease;
use serde_json::json;

use super::arena::{Arena, play, stop};
use crate::support::eventually;

const REFUSE: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'refused' USING ERRCODE = '22012';
    END $$;";

#[tokio::test]
async fn a_row_that_postgres_refuses_is_put_aside_and_its_shard_goes_on() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON leaderboard_entries FOR EACH ROW
                       WHEN (NEW.player_id = 'bad') EXECUTE FUNCTION refuse()";
    let mut superuser = arena.database.superuser().await;
    sqlx::raw_sql(REFUSE).execute(&mut superuser).await.unwrap();
    sqlx::raw_sql(trigger).execute(&mut superuser).await.unwrap();
    arena.facts(board, &[play("bad", 1, 0)]).await;
    let players: Vec<String> = (0..20).map(|n| format!("p-{n}")).collect();
    arena.facts(board, &players.iter().map(|player| play(player, 1, 1)).collect::<Vec<_>>()).await;
    arena.shards.release().await;
    let cron = arena.start("cron");
    let folded = "SELECT count(*) FROM leaderboard_entries";
    eventually("all others are folded", Duration::from_secs(60), || async { arena.count(folded).await == 20 }).await;
    stop(cron).await;
    assert_eq!(arena.count("SELECT count(*) FROM score_facts WHERE shard < 0 AND fact_count = 1").await, 1);
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 1);
}

#[tokio::test]
async fn a_row_is_not_at_fault_where_postgres_refuses_every_fold() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON leaderboard_entries FOR EACH ROW EXECUTE FUNCTION refuse()";
    let mut superuser = arena.database.superuser().await;
    sqlx::raw_sql(REFUSE).execute(&mut superuser).await.unwrap();
    sqlx::raw_sql(trigger).execute(&mut superuser).await.unwrap();
    arena.facts(board, &[play("a", 1, 0)]).await;
    let shard = arena.count("SELECT shard::bigint FROM score_facts").await;
    let held: Vec<Lease> =
        arena.shards.held().into_iter().filter(|lease| lease.name == format!("fold-{shard}")).collect();
    let mut refused = Refused::default();
    let fail = async |refused: &mut Refused| {
        let folded = fold_once(arena.pool(), &arena.rules, &held, 1).await;
        let Err(FoldError::Postgres(error)) = folded else { panic!("{folded:?}") };
        refused.met(arena.pool(), &arena.rules, &held, 1.into(), &error).await
    };
    for _ in 0..5 {
        assert!(!fail(&mut refused).await.unwrap_or(false));
    }
    assert_eq!(arena.count("SELECT count(*) FROM score_facts WHERE shard >= 0").await, 1);
    // The server takes folds of others: then it is the row.
    let others = "DROP TRIGGER refuse ON leaderboard_entries;
                  CREATE TRIGGER refuse BEFORE INSERT ON leaderboard_entries FOR EACH ROW
                      WHEN (NEW.player_id = 'a') EXECUTE FUNCTION refuse();";
    sqlx::raw_sql(others).execute(&mut superuser).await.unwrap();
    assert!(fail(&mut refused).await.unwrap());
    assert_eq!(arena.count("SELECT count(*) FROM score_facts WHERE shard < 0").await, 1);
}

/// Rights on another table were withdrawn for some seconds: folds that needed it failed, a fold of our own did not, and
/// thousands of facts were put aside for nothing.
#[tokio::test]
async fn a_right_that_is_withdrawn_puts_no_row_aside() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON leaderboard_entries FOR EACH ROW
                       WHEN (NEW.player_id = 'a') EXECUTE FUNCTION refuse()";
    let mut superuser = arena.database.superuser().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(REFUSE.replace("22012", "42501"))).execute(&mut superuser).await.unwrap();
    sqlx::raw_sql(trigger).execute(&mut superuser).await.unwrap();
    arena.facts(board, &[play("a", 1, 0)]).await;
    let shard = arena.count("SELECT shard::bigint FROM score_facts").await;
    let held: Vec<Lease> =
        arena.shards.held().into_iter().filter(|lease| lease.name == format!("fold-{shard}")).collect();
    let mut refused = Refused::default();
    for _ in 0..5 {
        let folded = fold_once(arena.pool(), &arena.rules, &held, 1).await;
        let Err(FoldError::Postgres(error)) = folded else { panic!("{folded:?}") };
        assert!(!refused.met(arena.pool(), &arena.rules, &held, 1.into(), &error).await.unwrap());
    }
    assert_eq!(arena.count("SELECT count(*) FROM score_facts WHERE shard >= 0").await, 1);
}

/// A new process tries it once, should it be of a program that can fold it. It would come round for as long as the process
/// lives, and its lane would be narrowed down to it each time.
#[tokio::test]
async fn a_row_that_is_refused_again_does_not_come_round() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON leaderboard_entries FOR EACH ROW
                       WHEN (NEW.player_id = 'bad') EXECUTE FUNCTION refuse()";
    let mut superuser = arena.database.superuser().await;
    sqlx::raw_sql(REFUSE).execute(&mut superuser).await.unwrap();
    sqlx::raw_sql(trigger).execute(&mut superuser).await.unwrap();
    let aside = "UPDATE score_facts SET shard = -1 - shard";
    arena.facts(board, &[play("bad", 1, 0)]).await;
    sqlx::query(aside).execute(arena.pool()).await.unwrap();
    let first = arena.count("SELECT id FROM score_facts").await;
    arena.shards.release().await;
    let cron = arena.start_with("cron", AggregatorConfig { fold_max_facts: 2, ..AggregatorConfig::default() });
    let of_bad = "SELECT coalesce(min(id), 0) FROM score_facts WHERE shard < 0";
    eventually("it was tried and put aside again", Duration::from_secs(60), || async {
        arena.count(of_bad).await > first
    })
    .await;
    let second = arena.count(of_bad).await;
    // Behind it in the order in which things are brought back.
    let with_it = |player: &String| shard_of(board, player) == shard_of(board, "bad");
    let neighbour = (0..).map(|n| format!("p-{n}")).find(with_it).unwrap();
    let mut quietly = arena.pool().begin().await.unwrap();
    arena.facts_in(&mut quietly, board, &[play(&neighbour, 1, 1)]).await;
    sqlx::query("UPDATE score_facts SET shard = -1 - shard WHERE shard >= 0").execute(&mut *quietly).await.unwrap();
    quietly.commit().await.unwrap();
    let folded = "SELECT count(*) FROM leaderboard_entries";
    eventually("what is behind it is folded", Duration::from_secs(60), || async { arena.count(folded).await == 1 })
        .await;
    stop(cron).await;
    assert_eq!(arena.count(of_bad).await, second);
}

/// A row holds what many games' players did in one moment.
#[tokio::test]
async fn of_a_row_that_postgres_refuses_only_the_fact_at_fault_is_put_aside() {
    let arena = Arena::new().await;
    let (board, other) = (arena.board("b", json!({})).await, arena.board("other", json!({})).await);
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON leaderboard_entries FOR EACH ROW
                       WHEN (NEW.player_id = 'bad') EXECUTE FUNCTION refuse()";
    let mut superuser = arena.database.superuser().await;
    sqlx::raw_sql(REFUSE).execute(&mut superuser).await.unwrap();
    sqlx::raw_sql(trigger).execute(&mut superuser).await.unwrap();
    let players: Vec<String> = (0..40).map(|n| format!("p-{n}")).collect();
    let mut plays: Vec<_> = players.iter().map(|player| play(player, 1, 1)).collect();
    plays.insert(20, play("bad", 1, 0));
    arena.facts(board, &plays).await;
    arena.facts(other, &plays[..20]).await;
    arena.shards.release().await;
    let cron = arena.start_with("cron", AggregatorConfig { fold_max_facts: 4, ..AggregatorConfig::default() });
    let folded = "SELECT count(*) FROM leaderboard_entries";
    eventually("all others are folded", Duration::from_secs(60), || async { arena.count(folded).await == 60 }).await;
    eventually("it is put aside", Duration::from_secs(60), || async {
        arena.count("SELECT count(*) FROM score_facts WHERE shard >= 0").await == 0
    })
    .await;
    stop(cron).await;
    assert_eq!(arena.count("SELECT sum(fact_count)::bigint FROM score_facts").await, 1);
    assert_eq!(
        arena.count("SELECT count(*) FROM score_facts WHERE games = (SELECT array_agg(id) FROM games)").await,
        1
    );
}
