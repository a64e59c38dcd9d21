//! What Postgres refuses in one row of facts stops nothing else, and is no reason to put everything aside.

use std::time::Duration;

use scoreline::aggregator::fold::{FoldError, fold_once};
use scoreline::aggregator::refused::Refused;
use scoreline::aggregator::settings::AggregatorConfig;
use scoreline::domain::fact::shard_of;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::store::leases::Lease;
use serde_json::json;

use super::arena::{Arena, play, stop};
use crate::support::eventually;

/// Postgres refuses entries, with this SQLSTATE, where this holds.
pub async fn refuse(arena: &Arena, code: &str, condition: &str) {
    let statements = format!(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'refused' USING ERRCODE = '{code}';
         END $$;
         CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON leaderboard_entries FOR EACH ROW
             WHEN ({condition}) EXECUTE FUNCTION refuse()"
    );
    let mut superuser = arena.database.superuser().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut superuser).await.unwrap();
}

/// One row of facts of one player, and who folds it alone.
struct Row<'a> {
    arena: &'a Arena,
    held: Vec<Lease>,
    refused: Refused,
}

impl<'a> Row<'a> {
    async fn of(arena: &'a Arena, board: BoardGenerationId) -> Self {
        arena.facts(board, &[play("a", 1, 0)]).await;
        let name = format!("fold-{}", arena.count("SELECT shard::bigint FROM score_facts").await);
        let held = arena.shards.held().into_iter().filter(|lease| lease.name == name).collect();
        Self { arena, held, refused: Refused::default() }
    }

    /// Its fold fails; whether it was put aside for that.
    async fn fails(&mut self) -> Result<bool, sqlx::Error> {
        let folded = fold_once(self.arena.pool(), &self.arena.rules, &self.held, 1).await;
        let Err(FoldError::Postgres(error)) = folded else { panic!("{folded:?}") };
        let put_aside = self.refused.met(self.arena.pool(), &self.arena.rules, &self.held, 1.into(), &error).await;
        let aside = self.arena.count("SELECT count(*) FROM score_facts WHERE shard < 0").await;
        assert_eq!(aside, i64::from(matches!(put_aside, Ok(true))));
        put_aside
    }
}

#[tokio::test]
async fn a_row_that_postgres_refuses_is_put_aside_and_its_shard_goes_on() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    refuse(&arena, "22012", "NEW.player_id = 'bad'").await;
    let players: Vec<String> = (0..20).map(|n| format!("p-{n}")).collect();
    let plays: Vec<_> = players.iter().map(|player| play(player, 1, 1)).collect();
    // There are good rows before it and behind it, which first fail together with it.
    arena.facts(board, &plays).await;
    arena.facts(board, &[play("bad", 1, 0)]).await;
    arena.facts(board, &plays).await;
    arena.shards.release().await;
    let cron = arena.start("cron");
    let folded = "SELECT count(*) FROM leaderboard_entries WHERE plays = 2";
    eventually("all others are folded", Duration::from_secs(60), || async { arena.count(folded).await == 20 }).await;
    stop(cron).await;
    assert_eq!(arena.count("SELECT count(*) FROM score_facts WHERE shard < 0 AND fact_count = 1").await, 1);
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 1);
}

#[tokio::test]
async fn a_row_is_not_at_fault_where_postgres_refuses_every_fold() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    refuse(&arena, "22012", "true").await;
    let mut row = Row::of(&arena, board).await;
    for _ in 0..5 {
        assert!(!row.fails().await.unwrap_or(false));
    }
    // The server takes folds of others: then it is the row.
    refuse(&arena, "22012", "NEW.player_id = 'a'").await;
    assert!(row.fails().await.unwrap());
}

/// Rights on another table were withdrawn for some seconds: folds that needed it failed, a fold of our own did not, and
/// thousands of facts were put aside for nothing.
#[tokio::test]
async fn a_right_that_is_withdrawn_puts_no_row_aside() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    refuse(&arena, "42501", "NEW.player_id = 'a'").await;
    let mut row = Row::of(&arena, board).await;
    for _ in 0..5 {
        assert!(!row.fails().await.unwrap());
    }
}

/// A new process tries it once, should it be of a program that can fold it. It would come round for as long as the
/// process lives, and its lane would be narrowed down to it each time.
#[tokio::test]
async fn a_row_that_is_refused_again_does_not_come_round() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    refuse(&arena, "22012", "NEW.player_id = 'bad'").await;
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
    refuse(&arena, "22012", "NEW.player_id = 'bad'").await;
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

/// Postgres takes too long for so many entries at once, and counts how often.
async fn refuse_many(arena: &Arena, many: usize) {
    let too_long = format!(
        "CREATE SEQUENCE attempts;
         GRANT ALL ON SEQUENCE attempts TO PUBLIC;
         CREATE FUNCTION too_long() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF (SELECT count(*) FROM many) >= {many} THEN
                 PERFORM nextval('attempts');
                 RAISE EXCEPTION 'too long' USING ERRCODE = '57014';
             END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER too_long AFTER INSERT ON leaderboard_entries REFERENCING NEW TABLE AS many
             FOR EACH STATEMENT EXECUTE FUNCTION too_long()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(too_long)).execute(&mut arena.database.superuser().await).await.unwrap();
}

/// A row has thousands of facts, and what Postgres does in one statement has a limit of time.
#[tokio::test]
async fn a_row_that_takes_too_long_is_cut_into_its_facts() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let in_one_row = |player: &String| shard_of(board, player) == shard_of(board, "p");
    let players: Vec<String> = (0..).map(|n| format!("p-{n}")).filter(in_one_row).take(10).collect();
    // All of them, and then also a few of what came of the row.
    for (round, many) in [(1, 10), (2, 4)] {
        refuse_many(&arena, many).await;
        arena.facts(board, &players.iter().map(|player| play(player, round, round)).collect::<Vec<_>>()).await;
        arena.shards.release().await;
        let cron = arena.start("cron");
        let folded = format!("SELECT count(*) FROM leaderboard_entries WHERE plays = {round}");
        eventually("all are folded", Duration::from_secs(60), || async {
            arena.count(sqlx::AssertSqlSafe(folded.clone())).await == 10
        })
        .await;
        stop(cron).await;
        assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 0, "none is put aside");
        // Each takes as long as a statement may, and its shard waits, with all games.
        let attempts = arena.count("SELECT last_value FROM attempts").await;
        assert!(many < 10 || attempts <= 5, "{attempts} attempts at the same row");
        let undone = "DROP TRIGGER too_long ON leaderboard_entries; DROP FUNCTION too_long; DROP SEQUENCE attempts";
        sqlx::raw_sql(undone).execute(&mut arena.database.superuser().await).await.unwrap();
    }
}
