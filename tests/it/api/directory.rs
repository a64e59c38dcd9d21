//! The directory: published, followed, and kept while Redis is away.

use std::time::Duration;

use scoreline::directory::{DirectorySource, publish_if_stale};
use scoreline::domain::ids::Slug;
use scoreline::store::audit_log::Actor;
use scoreline::store::games;
use tokio_util::sync::CancellationToken;

use crate::support::{self, eventually};

const WAIT: Duration = Duration::from_secs(10);

async fn create(db: &support::postgres::TestDatabase, slug: &str) {
    let mut tx = db.pool.begin().await.unwrap();
    games::create(&mut tx, &Slug::parse(slug).unwrap(), slug, Actor::CommandLine).await.unwrap().unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_process_waits_for_the_first_snapshot_and_stops_when_told() {
    let (db, redis) = (support::postgres::database().await, support::redis::redis());
    let client = redis::Client::open(redis.url.as_str()).unwrap();
    let stop = CancellationToken::new();
    let source = DirectorySource::open(&redis.url, "sl").unwrap();
    let waiting = tokio::spawn({
        let (source, stop) = (source.clone(), stop.clone());
        async move { source.wait_for_first(None, &stop).await }
    });
    create(&db, "one").await;
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    assert!(publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap());
    assert!(!publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap(), "nothing changed");
    assert!(waiting.await.unwrap().unwrap().load().games.contains_key("one"));
    let elsewhere = DirectorySource::open(&redis.url, "other").unwrap();
    stop.cancel();
    assert!(elsewhere.wait_for_first(None, &stop).await.is_none());
}

#[tokio::test]
async fn the_last_snapshot_stays_while_redis_is_away_or_empty() {
    let (db, mut redis) = (support::postgres::database().await, support::redis::redis());
    let client = redis::Client::open(redis.url.as_str()).unwrap();
    let stop = CancellationToken::new();
    create(&db, "one").await;
    let publish = async || {
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap()
    };
    publish().await;
    let source = DirectorySource::open(&redis.url, "sl").unwrap();
    let shared = source.wait_for_first(None, &stop).await.unwrap();
    let following = tokio::spawn(source.follow(shared.clone(), stop.clone()));
    let knows = |slug: &'static str| {
        let shared = shared.clone();
        move || {
            let known = shared.load().games.contains_key(slug);
            async move { known }
        }
    };
    create(&db, "two").await;
    publish().await;
    eventually("a notice brings the change", WAIT, knows("two")).await;
    redis.kill();
    redis.start();
    redis::cmd("FLUSHALL").exec(&mut redis.connection()).unwrap();
    assert!(knows("one")().await);
    create(&db, "three").await;
    assert!(publish().await, "what was flushed is published again");
    eventually("it follows again", WAIT, knows("three")).await;
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn a_slow_publisher_cannot_go_back_in_time_but_a_restored_database_can() {
    let (db, redis) = (support::postgres::database().await, support::redis::redis());
    let client = redis::Client::open(redis.url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    create(&db, "one").await;
    publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap();
    let version =
        |c: &mut redis::Connection| -> i64 { redis::cmd("HGET").arg("sl:directory").arg("version").query(c).unwrap() };
    assert_eq!(version(&mut redis.connection()), 2);
    sqlx::query("UPDATE directory_version SET version = 1").execute(&db.pool).await.unwrap();
    assert!(publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap(), "restored from a backup");
    assert_eq!(version(&mut redis.connection()), 1);
    // Many publishers at once: the newest wins.
    let creating: Vec<_> = (0..8).map(|i| format!("game-{i}")).collect();
    let tasks = creating.iter().map(|slug| {
        let (client, pool, db) = (client.clone(), db.pool.clone(), &db);
        async move {
            create(db, slug).await;
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            publish_if_stale(&pool, &mut connection, "sl").await.unwrap();
        }
    });
    futures_util::future::join_all(tasks).await;
    assert_eq!(version(&mut redis.connection()), 9);
    let directory = scoreline::directory::follow::load(&mut connection, "sl").await.unwrap().unwrap();
    assert_eq!(directory.games.len(), 9);
}

#[tokio::test]
async fn the_same_version_of_another_history_is_published_and_read() {
    let (db, redis) = (support::postgres::database().await, support::redis::redis());
    let client = redis::Client::open(redis.url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    create(&db, "lost").await;
    publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap();
    let stop = CancellationToken::new();
    let source = DirectorySource::open(&redis.url, "sl").unwrap();
    let shared = source.wait_for_first(None, &stop).await.unwrap();
    let following = tokio::spawn(source.follow(shared.clone(), stop.clone()));
    // Restored from a backup, and changed as often as before.
    sqlx::raw_sql("DELETE FROM games; UPDATE directory_version SET version = version - 1")
        .execute(&db.pool)
        .await
        .unwrap();
    create(&db, "kept").await;
    assert_eq!(scoreline::store::directory::version(&db.pool).await.unwrap().0, shared.load().version);
    assert!(publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap());
    assert!(!publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap(), "once");
    eventually("it is read", WAIT, || async {
        let directory = shared.load();
        directory.games.len() == 1 && directory.games.keys().all(|slug| slug.as_str() == "kept")
    })
    .await;
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn a_board_that_cannot_be_read_keeps_no_revoked_key() {
    let (db, redis) = (support::postgres::database().await, support::redis::redis());
    let client = redis::Client::open(redis.url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    create(&db, "one").await;
    sqlx::raw_sql(
        "INSERT INTO api_keys (game_id, kind, key_sha256, hint) SELECT id, 'server', sha256('first'), 'f' FROM games;
         INSERT INTO api_keys (game_id, kind, key_sha256, hint) SELECT id, 'server', sha256('second'), 's' FROM games;
         INSERT INTO leaderboards (game_id, slug, spec)
         SELECT id, 'future', '{\"slug\":\"future\",\"event_type\":\"t\",\"score\":\"/s\",\"reset\":\"lunar\"}' FROM games;
         UPDATE directory_version SET version = version + 1;",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap();
    let stop = CancellationToken::new();
    let source = DirectorySource::open(&redis.url, "sl").unwrap();
    let shared = source.wait_for_first(None, &stop).await.unwrap();
    let following = tokio::spawn(source.follow(shared.clone(), stop.clone()));
    assert!(shared.load().authenticate("first").is_some() && shared.load().authenticate("second").is_some());
    sqlx::raw_sql(
        "UPDATE api_keys SET revoked_at = now() WHERE key_sha256 = sha256('first');
         UPDATE directory_version SET version = version + 1;",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap();
    eventually("the key is refused", WAIT, || async { shared.load().authenticate("first").is_none() }).await;
    assert!(shared.load().authenticate("second").is_some());
    // Who publishes hands on what it cannot read.
    let json: std::collections::HashMap<String, String> =
        redis::cmd("HGETALL").arg("sl:directory").query(&mut redis.connection()).unwrap();
    assert!(json.values().any(|game| game.contains("lunar")), "{json:?}");
    stop.cancel();
    following.await.unwrap();
}
