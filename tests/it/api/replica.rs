//! History is read from the replica, and from the primary when the replica is away or behind.

use std::time::Duration;

use scoreline::store::periods::StoredPeriod;

use super::world::{World, board};
use crate::support::postgres::TestDatabase;
use crate::support::{eventually, postgres};

/// Closes a period with one final entry. Keys of other tables are not checked: a copy has no more than this.
async fn close(on: &TestDatabase, period: &StoredPeriod, generation: i32, player: &str) {
    let mut connection = on.superuser().await;
    for statement in [
        "SET session_replication_role = replica".to_owned(),
        format!(
            "INSERT INTO leaderboard_periods (id, generation_id, starts_at) OVERRIDING SYSTEM VALUE
             VALUES ({}, {generation}, '-infinity') ON CONFLICT (id) DO NOTHING",
            period.id
        ),
        format!(
            "UPDATE leaderboard_periods SET state = 'closed', entry_count = 1, closed_at = now(),
                    unpublished_at = now() WHERE id = {}",
            period.id
        ),
        format!(
            "INSERT INTO period_standings (period_id, rank, competition_rank, player_id, score, subscore, reached_at,
                                           plays) VALUES ({}, 1, 1, '{player}', 9, 0, now(), 3)",
            period.id
        ),
        "RESET session_replication_role".to_owned(),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    }
}

#[tokio::test]
async fn history_is_read_from_a_replica_that_has_it_and_else_from_the_primary() {
    let copy = postgres::database().await;
    let world = World::with_replica(copy.pool.clone()).await;
    let game = world.game("demo").await;
    let (generation, last, _) = world.last_week(&game, board("weekly")).await;
    close(&world.db, &last, generation.0, "on-primary").await;
    let path = "/v1/leaderboards/weekly/entries?period=previous";
    let players = || async { world.get(path, Some(&game.client)).await.players() };
    assert_eq!(players().await, ["on-primary"], "the replica lags behind");
    // The freezing arrives before the standings do.
    let mut copied = copy.superuser().await;
    for statement in [
        "SET session_replication_role = replica".to_owned(),
        format!(
            "INSERT INTO leaderboard_periods (id, generation_id, starts_at, state) OVERRIDING SYSTEM VALUE
             VALUES ({}, {}, '-infinity', 'closed')",
            last.id, generation.0
        ),
        "RESET session_replication_role".to_owned(),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut copied).await.unwrap();
    }
    assert_eq!(players().await, ["on-primary"], "the replica has it frozen and not ranked");
    let included = world.get(&format!("{path}&include=plays"), Some(&game.client)).await.json();
    assert_eq!(included["entries"][0]["plays"], 3, "what is included comes from the primary as well");

    close(&copy, &last, generation.0, "on-replica").await;
    let read_from = async |whom: &str| {
        let what = format!("{whom} answers");
        eventually(&what, Duration::from_secs(5), || async { players().await == [whom] }).await;
    };
    read_from("on-replica").await;
    // Both were restored, the replica from before the period was closed: what it had is asked again.
    for remove in ["DELETE FROM period_standings", "DELETE FROM leaderboard_periods"] {
        sqlx::query(remove).execute(&mut copied).await.unwrap();
    }
    world.begin_era().await;
    read_from("on-primary").await;
    close(&copy, &last, generation.0, "on-replica").await;
    read_from("on-replica").await;
    copy.pool.close().await;
    read_from("on-primary").await;
}
