//! The services that tests and `scoreline up` stand on.

use crate::support;

#[tokio::test]
async fn every_test_has_its_own_migrated_database_and_redis() {
    let one = support::postgres::database().await;
    let two = support::postgres::database().await;
    sqlx::query("INSERT INTO games (slug, name) VALUES ('demo', 'Demo')").execute(&one.pool).await.unwrap();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM games").fetch_one(&two.pool).await.unwrap();
    assert_eq!(count, 0);
    let redis = support::redis::redis();
    let pong: String = redis::cmd("PING").query(&mut redis.connection()).unwrap();
    assert_eq!(pong, "PONG");
}
