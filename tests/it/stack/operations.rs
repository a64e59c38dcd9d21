//! The operations listener: health, readiness with reasons, pools, metrics.

use std::time::Duration;

use clap::Parser;
use scoreline::process::listener::Operations;
use scoreline::process::start::{self, StartError};
use scoreline::redis_connection::settings::{RedisConfig, RedisUse};
use scoreline::runtime::clock;
use scoreline::runtime::lifecycle::Lifecycle;
use scoreline::store::pool::Pool;
use scoreline::store::settings::PostgresConfig;

use crate::support::{self, eventually};

const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    postgres: PostgresConfig,
    #[command(flatten)]
    redis: RedisConfig,
}

fn settings(database_url: &str, redis_url: &str, more: &[&str]) -> Settings {
    let given = ["test", "--database-url", database_url, "--redis-url", redis_url];
    Settings::parse_from(given.iter().chain(more))
}

async fn operations(role: &'static str, lifecycle: &Lifecycle) -> Operations {
    Operations::start(role, "127.0.0.1:0".parse().unwrap(), &clock::system(), lifecycle).await.unwrap()
}

#[tokio::test]
async fn readiness_names_each_dependency_its_reason_and_the_persistence_mode() {
    let database = support::postgres::database().await;
    let mut redis = support::redis::redis();
    redis.kill();
    let settings = settings(&database.url, &redis.url, &[]);
    let lifecycle = Lifecycle::default();
    let operations = operations("worker", &lifecycle).await;
    let connecting = tokio::spawn({
        let (redis, operations, lifecycle) = (settings.redis.clone(), operations.clone(), lifecycle.clone());
        async move { start::redis(RedisUse::Queue, &redis, &operations, &lifecycle).await.map(|_| ()) }
    });
    let address = operations.address;
    eventually("it says what it waits for", PATIENCE, || async {
        let (status, body) = support::http::get(address, "/readyz").await;
        status == 503 && body.contains("redis_queue") && body.contains("\"ready\":false")
    })
    .await;
    assert_eq!(support::http::get(address, "/healthz").await.0, 200);
    redis.start();
    connecting.await.unwrap().unwrap();
    start::postgres(&settings.postgres, &clock::system(), &operations, &lifecycle).await.unwrap();
    operations.readiness.started();
    let (status, body) = support::http::get(address, "/readyz").await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("AOF, appendfsync everysec, noeviction"), "{body}");
    redis.kill();
    eventually("a lost Redis is noticed", PATIENCE, || async { support::http::get(address, "/readyz").await.0 == 503 })
        .await;
    redis.start();
    eventually("and found again", PATIENCE, || async { support::http::get(address, "/readyz").await.0 == 200 }).await;
    lifecycle.soft.cancel();
    let (status, body) = support::http::get(address, "/readyz").await;
    assert!(status == 503 && body.contains("stopping"), "{body}");
    lifecycle.hard.cancel();
}

#[tokio::test]
async fn a_redis_that_evicts_keys_is_refused_for_the_queue() {
    let redis = support::redis::redis_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let settings = settings("postgres://localhost/x", &redis.url, &[]);
    let lifecycle = Lifecycle::default();
    let operations = operations("ingest", &lifecycle).await;
    let waiting = start::redis(RedisUse::Queue, &settings.redis, &operations, &lifecycle);
    let stop = async {
        eventually("the reason is told", PATIENCE, || async {
            operations
                .readiness
                .report()
                .dependencies
                .get("redis_queue")
                .is_some_and(|d| d.detail.contains("noeviction"))
        })
        .await;
        lifecycle.soft.cancel();
    };
    let (refused, ()) = tokio::join!(waiting, stop);
    assert!(matches!(refused, Err(StartError::Stopped("redis_queue"))));
    start::redis(RedisUse::Cache, &settings.redis, &operations, &Lifecycle::default())
        .await
        .expect("a cache may evict");
}

#[tokio::test]
async fn a_ranking_redis_that_evicts_or_has_no_limit_is_said() {
    let redis = support::redis::redis();
    let settings = settings("postgres://localhost/x", &redis.url, &[]);
    let lifecycle = Lifecycle::default();
    let operations = operations("api", &lifecycle).await;
    operations.readiness.ready("postgres", "there");
    start::redis(RedisUse::Ranking, &settings.redis, &operations, &lifecycle).await.unwrap();
    operations.readiness.started();
    let (status, body) = support::http::get(operations.address, "/readyz").await;
    assert!(status == 200 && body.contains(r#""state":"ready""#) && body.contains("no memory limit"), "{body}");
    let set = |policy: &str| {
        let mut command = ::redis::cmd("CONFIG");
        command.arg("SET").arg("maxmemory-policy").arg(policy).exec(&mut redis.connection()).unwrap();
    };
    set("allkeys-random");
    eventually("it is said while it runs", PATIENCE, || async {
        let (status, body) = support::http::get(operations.address, "/readyz").await;
        status == 200 && body.contains(r#""state":"degraded""#) && body.contains("parts of leaderboards")
    })
    .await;
    set("noeviction");
    eventually("and that it is well again", PATIENCE, || async {
        support::http::get(operations.address, "/readyz").await.1.contains(r#""state":"ready""#)
    })
    .await;
    lifecycle.hard.cancel();
    lifecycle.soft.cancel();
}

#[tokio::test]
async fn an_older_schema_is_refused_with_the_command_to_run() {
    let database = support::postgres::empty_database().await;
    let settings = settings(&database.url, "redis://127.0.0.1:1", &[]);
    let lifecycle = Lifecycle::default();
    let operations = operations("cron", &lifecycle).await;
    let refused = start::postgres(&settings.postgres, &clock::system(), &operations, &lifecycle).await.unwrap_err();
    assert!(matches!(refused, StartError::Schema { .. }));
    assert!(refused.to_string().contains("scoreline migrate"), "{refused}");
}

#[tokio::test]
async fn a_pool_larger_than_the_server_allows_is_refused() {
    let database = support::postgres::database().await;
    let settings = settings(&database.url, "redis://127.0.0.1:1", &["--db-pool-max", "100000"]);
    let lifecycle = Lifecycle::default();
    let operations = operations("api", &lifecycle).await;
    let refused = start::postgres(&settings.postgres, &clock::system(), &operations, &lifecycle).await.unwrap_err();
    assert!(matches!(&refused, StartError::Config(reason) if reason.contains("DB_POOL_MAX")), "{refused}");
}

#[tokio::test]
async fn the_pool_tells_who_waits_and_each_role_shows_its_own_metrics() {
    let database = support::postgres::database().await;
    let settings = settings(&database.url, "redis://127.0.0.1:1", &["--db-pool-max", "1"]);
    let lifecycle = Lifecycle::default();
    let (mine, other) = (operations("pool-a", &lifecycle).await, operations("pool-b", &lifecycle).await);
    let pool = Pool::lazy(&settings.postgres, "pool-a").unwrap();
    mine.show_pools(vec![("primary", pool.clone())]);
    let held = pool.acquire().await.unwrap();
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&pool).await }
    });
    eventually("one waits", PATIENCE, || async {
        support::http::get(mine.address, "/health/pool").await.1
            == r#"{"primary":{"total":1,"idle":0,"waiting":1,"max":1}}"#
    })
    .await;
    let metrics = support::http::get(mine.address, "/metrics").await.1;
    assert!(
        metrics.contains(r#"scoreline_pool_connections{role="pool-a",pool="primary",state="waiting"} 1"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#"scoreline_process_resident_bytes{role="pool-a"}"#), "{metrics}");
    assert!(!support::http::get(other.address, "/metrics").await.1.contains("pool-a"));
    drop(held);
    assert_eq!(waiter.await.unwrap().unwrap(), 1);
    assert_eq!(pool.state().waiting, 0);
}

#[tokio::test]
async fn every_connection_carries_its_limits() {
    let database = support::postgres::database().await;
    let settings = settings(&database.url, "redis://127.0.0.1:1", &[]);
    let pool = Pool::lazy(&settings.postgres, "worker").unwrap();
    for (name, value) in [
        ("statement_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("lock_timeout", "3s"),
        ("client_connection_check_interval", "2s"),
        ("application_name", "scoreline worker"),
    ] {
        let found: String = sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(&pool).await.unwrap();
        assert_eq!(found, value, "{name}");
    }
    let keepalive: String = sqlx::query_scalar("SHOW tcp_user_timeout").fetch_one(&pool).await.unwrap();
    assert_eq!(keepalive, "10000", "milliseconds");
}
