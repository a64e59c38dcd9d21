//! The first version of a generation against the swap that holds the generation.

use scoreline::store::{board_versions, recompute, swap};
use serde_json::json;

use super::meeting::{Party, meet};
use crate::fold::arena::Arena;

const ROWS: [&str; 2] = [
    "SELECT 1 FROM leaderboard_periods WHERE state = 'open' FOR UPDATE",
    "SELECT 1 FROM leaderboard_generations WHERE state = 'building' FOR UPDATE",
];

#[tokio::test]
async fn the_first_fold_of_a_generation_and_what_makes_way_in_it_do_not_deadlock() {
    let arena = Arena::new().await;
    let live = arena.board("b", json!({"reset": "daily"})).await;
    let leaderboard: i32 = sqlx::query_scalar("SELECT leaderboard_id FROM leaderboard_generations WHERE id = $1")
        .bind(live.0)
        .fetch_one(arena.pool())
        .await
        .unwrap();
    let mut transaction = arena.pool().begin().await.unwrap();
    let building = recompute::begin(&mut transaction, leaderboard).await.unwrap();
    transaction.commit().await.unwrap();
    sqlx::query(
        "INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at, state)
         VALUES ($1, '2026-01-01', '2026-01-02', 'closed'), ($2, '2026-01-01', '2026-01-02', 'open')",
    )
    .bind(live.0)
    .bind(building.id.0)
    .execute(arena.pool())
    .await
    .unwrap();
    let (pool, generation) = (arena.pool().clone(), building.id.0);
    let folding: Party = Box::pin(async move {
        let mut transaction = pool.begin().await?;
        let period = "SELECT 1 FROM leaderboard_periods WHERE generation_id = $1 FOR SHARE";
        sqlx::query(period).bind(generation).execute(&mut *transaction).await?;
        board_versions::note(&mut transaction, &[(generation, 1)].into(), 1).await?;
        transaction.commit().await
    });
    let pool = arena.pool().clone();
    let making_way: Party = Box::pin(async move {
        let mut transaction = pool.begin().await?;
        match swap::make_way(&mut transaction, &building).await {
            Ok(_) => transaction.commit().await,
            Err(recompute::ChangeError::Postgres(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    });
    let ended = meet(arena.pool(), ROWS, [folding, making_way]).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
}
