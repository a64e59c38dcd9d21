//! A database went back in time while Redis can be read and not written: what is done about it is done once.

use scoreline::aggregator::history::History;

use super::arena::Arena;

#[tokio::test]
async fn lost_ids_are_left_out_once_while_redis_is_full() {
    let arena = Arena::new().await;
    let mut history = History::new(arena.pool(), &arena.ranking, &arena.rules);
    history.look(true).await.unwrap();
    let era = arena.ranking.era().await.unwrap();
    let memory = |most: &str| {
        let mut redis = arena.redis.connection();
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(most).exec(&mut redis).unwrap();
    };
    let given = async || arena.count("SELECT last_value FROM games_id_seq").await;
    let before = given().await;
    memory("1");
    for times in 1..3 {
        // It is restored; and once more, from before all that was done about it.
        sqlx::query("DELETE FROM beacons").execute(arena.pool()).await.unwrap();
        for _ in 0..4 {
            assert!(history.look(true).await.is_err(), "Redis cannot be told");
        }
        assert_eq!(given().await, before + times * 100_000);
    }
    memory("0");
    history.look(true).await.unwrap();
    assert_eq!(given().await, before + 200_000);
    assert_ne!(arena.ranking.era().await.unwrap(), era);
    history.look(true).await.unwrap();
    assert_eq!(given().await, before + 200_000, "it stands");
}
