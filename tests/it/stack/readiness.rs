//! What `/readyz` tells of services that answer and still do not do what is asked of them, and who waits at a start.

use clap::Parser;
use scoreline::process::listener::Operations;
use scoreline::process::start::{self, StartError};
use scoreline::redis_connection::settings::{RedisConfig, RedisUse};
use scoreline::runtime::clock;
use scoreline::runtime::lifecycle::Lifecycle;
use scoreline::store::settings::PostgresConfig;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::processes::PATIENCE;
use crate::support::postgres::{TestDatabase, database};
use crate::support::{self, eventually};

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    postgres: PostgresConfig,
    #[command(flatten)]
    redis: RedisConfig,
}

fn settings(database_url: &str, redis_url: &str) -> Settings {
    Settings::parse_from(["test", "--database-url", database_url, "--redis-url", redis_url])
}

async fn operations(role: &'static str, lifecycle: &Lifecycle) -> Operations {
    Operations::start(role, "127.0.0.1:0".parse().unwrap(), &clock::system(), lifecycle).await.unwrap()
}

/// What `/readyz` says: its status, and whether it names `reason`.
async fn told(operations: &Operations, status: u16, reason: &str) -> bool {
    let (found, body) = support::http::get(operations.address, "/readyz").await;
    found == status && body.contains(reason)
}

/// Runs a statement about a database on another one of its server.
async fn about(database: &TestDatabase, sql: &str) {
    let options = database.as_superuser();
    let name = options.get_database().unwrap().to_owned();
    let mut connection = PgConnection::connect_with(&options.database("postgres")).await.unwrap();
    connection.execute(AssertSqlSafe(sql.replace("{d}", &name))).await.unwrap();
}

#[tokio::test]
async fn a_start_waits_for_a_postgres_that_takes_no_writes_and_a_reader_does_not() {
    let database = database().await;
    about(&database, "ALTER DATABASE \"{d}\" SET default_transaction_read_only = on").await;
    let settings = settings(&database.url, "redis://127.0.0.1:1");
    let lifecycle = Lifecycle::default();
    let (worker, api) = (operations("worker", &lifecycle).await, operations("api", &lifecycle).await);
    let starting = tokio::spawn({
        let (postgres, worker, lifecycle) = (settings.postgres.clone(), worker.clone(), lifecycle.clone());
        async move { start::postgres(&postgres, &clock::system(), &worker, &lifecycle).await.map(|_| ()) }
    });
    eventually("the worker says for what it waits", PATIENCE, || told(&worker, 503, "read-only")).await;
    start::postgres(&settings.postgres, &clock::system(), &api, &lifecycle).await.unwrap();
    api.readiness.started();
    api.readiness.ready("redis_ranking", "there");
    let (status, body) = support::http::get(api.address, "/readyz").await;
    assert!(status == 200 && body.contains(r#""state":"degraded""#) && body.contains("read-only"), "{body}");
    assert!(!starting.is_finished());
    about(&database, "ALTER DATABASE \"{d}\" RESET default_transaction_read_only").await;
    starting.await.unwrap().unwrap();
    worker.readiness.started();
    assert!(told(&worker, 200, r#""state":"ready""#).await);
    eventually("the api may write again", PATIENCE, || told(&api, 200, r#""state":"ready""#)).await;
    // A running process notices as well, with the connections that it has.
    about(&database, "ALTER DATABASE \"{d}\" SET default_transaction_read_only = on").await;
    about(&database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{d}'").await;
    eventually("the worker is not ready", PATIENCE, || told(&worker, 503, "read-only")).await;
    lifecycle.soft.cancel();
    lifecycle.hard.cancel();
}

#[tokio::test]
async fn rights_that_are_missing_are_named() {
    let database = database().await;
    let role = format!("reader_{}", uuid::Uuid::new_v4().simple());
    about(&database, &format!("CREATE ROLE {role} LOGIN PASSWORD 'first'")).await;
    let grant = format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; REVOKE INSERT ON events FROM {role}");
    sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut database.superuser().await).await.unwrap();
    let rest = database.url.rsplit_once('@').unwrap().1;
    let settings = settings(&format!("postgres://{role}:first@{rest}"), "redis://127.0.0.1:1");
    let lifecycle = Lifecycle::default();
    let worker = operations("worker", &lifecycle).await;
    let clock = clock::system();
    let starting = start::postgres(&settings.postgres, &clock, &worker, &lifecycle);
    let mending = async {
        eventually("the right is named", PATIENCE, || told(&worker, 503, "INSERT on events")).await;
        let grant = format!("GRANT INSERT ON events TO {role}");
        sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut database.superuser().await).await.unwrap();
    };
    let (started, ()) = tokio::join!(starting, mending);
    let (pool, _) = started.unwrap();
    lifecycle.soft.cancel();
    pool.close().await;
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut database.superuser().await).await.unwrap();
}

#[tokio::test]
async fn a_database_that_keeps_no_utf8_is_refused_at_start_and_by_migrate() {
    let database = database().await;
    about(&database, "CREATE DATABASE \"{d}_latin\" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0").await;
    let url = format!("{}_latin", database.url);
    let lifecycle = Lifecycle::default();
    let operations = operations("worker", &lifecycle).await;
    let settings = settings(&url, "redis://127.0.0.1:1");
    let refused = start::postgres(&settings.postgres, &clock::system(), &operations, &lifecycle).await.unwrap_err();
    assert!(matches!(&refused, StartError::Config(reason) if reason.contains("LATIN1")), "{refused}");
    for command in [&["migrate"][..], &["config"]] {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_scoreline"));
        let ended =
            program.args(command).env("DATABASE_URL", &url).env_remove("DATABASE_MIGRATE_URL").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(
            ended.status.code() == Some(1) && said.contains("LATIN1") && said.contains("UTF8"),
            "{command:?}: {said}"
        );
    }
    about(&database, "DROP DATABASE \"{d}_latin\" WITH (FORCE)").await;
}

#[tokio::test]
async fn a_setting_that_can_never_work_ends_a_start_with_its_reason() {
    let database = database().await;
    let settings = settings(&database.url, "no-redis://127.0.0.1:1");
    let lifecycle = Lifecycle::default();
    let operations = operations("worker", &lifecycle).await;
    let refused =
        start::redis(RedisUse::Queue, &settings.redis, &operations, &lifecycle).await.map(|_| ()).unwrap_err();
    assert!(matches!(&refused, StartError::Config(reason) if reason.contains("redis_queue")), "{refused}");
    // One of these is no URL, and of the other only the attempt shows it: this program speaks no TLS.
    for mode in ["bogus", "require"] {
        let settings = self::settings(&format!("{}?sslmode={mode}", database.url), "redis://127.0.0.1:1");
        let clock = clock::system();
        let starting = start::postgres(&settings.postgres, &clock, &operations, &lifecycle);
        let refused = tokio::time::timeout(PATIENCE, starting).await.expect(mode).unwrap_err();
        assert!(matches!(&refused, StartError::Config(reason) if reason.contains("DATABASE_URL")), "{refused}");
    }
}

/// It answers, and takes nothing: without enough replicas, as a replica itself, and for a user without scripts.
#[tokio::test]
async fn a_redis_that_takes_no_writes_makes_who_writes_not_ready() {
    let redis = support::redis::redis();
    let settings = settings("postgres://localhost/x", &redis.url);
    let lifecycle = Lifecycle::default();
    let ingest = operations("ingest", &lifecycle).await;
    start::redis(RedisUse::Queue, &settings.redis, &ingest, &lifecycle).await.unwrap();
    ingest.readiness.started();
    let states: [(&[&str], &[&str], &str); 3] = [
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
            "replicas",
        ),
        (&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"], "replica"),
        (&["ACL", "SETUSER", "default", "-evalsha"], &["ACL", "SETUSER", "default", "+evalsha"], "evalsha"),
    ];
    let run = |command: &[&str]| {
        let mut call = redis::cmd(command[0]);
        command[1..].iter().for_each(|argument| {
            call.arg(*argument);
        });
        call.exec(&mut redis.connection()).unwrap();
    };
    for (break_it, mend_it, reason) in states {
        assert!(told(&ingest, 200, r#""state":"ready""#).await);
        run(break_it);
        eventually("it is told", PATIENCE, || told(&ingest, 503, reason)).await;
        run(mend_it);
        eventually("and that it is over", PATIENCE, || told(&ingest, 200, r#""state":"ready""#)).await;
    }
    lifecycle.soft.cancel();
    lifecycle.hard.cancel();
}

#[derive(Parser)]
struct Cron {
    #[command(flatten)]
    cron: scoreline::process::roles::cron::CronSettings,
}

/// Postgres answers and takes writes, and folds fail all the same.
#[tokio::test]
async fn a_cron_whose_folds_fail_is_not_ready() {
    let (database, redis) = (database().await, support::redis::redis());
    let lifecycle = Lifecycle::default();
    let given = ["test", "--database-url", &database.url, "--redis-url", &redis.url, "--ops-listen", "127.0.0.1:0"];
    let running =
        scoreline::process::roles::cron::start(Cron::parse_from(given).cron, clock::system(), &lifecycle).await;
    let address = running.unwrap().operations;
    let told = |status: u16, text: &'static str| async move {
        let (found, body) = support::http::get(address, "/readyz").await;
        found == status && body.contains(text)
    };
    eventually("it is ready", PATIENCE, || told(200, r#""state":"ready""#)).await;
    let mut superuser = database.superuser().await;
    let fail = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    RAISE EXCEPTION 'not today' USING ERRCODE = 'ZZ999';
                END $$;
                CREATE TRIGGER fail BEFORE DELETE ON score_facts FOR EACH ROW EXECUTE FUNCTION fail();
                INSERT INTO score_facts (shard, fact_count, min_received_at, facts) VALUES (0, 1, now(), '');";
    sqlx::raw_sql(fail).execute(&mut superuser).await.unwrap();
    eventually("it says that folds fail", PATIENCE, || told(503, "folds have failed")).await;
    sqlx::raw_sql("DROP TRIGGER fail ON score_facts").execute(&mut superuser).await.unwrap();
    eventually("and that they do not any more", PATIENCE, || told(200, r#""state":"ready""#)).await;
    lifecycle.soft.cancel();
    lifecycle.tasks.close();
    lifecycle.tasks.wait().await;
    assert!(!lifecycle.has_failed());
}

#[derive(Parser)]
struct Api {
    #[command(flatten)]
    api: scoreline::process::roles::api::ApiRoleSettings,
}

/// What an api does without while it runs holds up no start: Postgres answers, for the directory as well.
#[tokio::test]
async fn an_api_starts_without_any_redis_and_a_cron_without_the_directorys() {
    let (database, main) = (database().await, support::redis::redis());
    let mut away = support::redis::redis();
    away.kill();
    let lifecycle = Lifecycle::default();
    let given = [
        &["test", "--database-url", &database.url, "--redis-url", &away.url, "--ops-listen", "127.0.0.1:0"][..],
        &["--api-listen", "127.0.0.1:0"],
    ]
    .concat();
    let api =
        scoreline::process::roles::api::start(Api::parse_from(given).api, clock::system(), &lifecycle).await.unwrap();
    let given = [
        &["test", "--database-url", &database.url, "--redis-url", &main.url, "--ops-listen", "127.0.0.1:0"][..],
        &["--redis-cache-url", &away.url],
    ]
    .concat();
    let cron = scoreline::process::roles::cron::start(Cron::parse_from(given).cron, clock::system(), &lifecycle).await;
    let (api_at, cron_at) = (api.operations, cron.unwrap().operations);
    let told = |at: std::net::SocketAddr, text: &'static str| async move {
        let (found, body) = support::http::get(at, "/readyz").await;
        found == 200 && body.contains(text)
    };
    assert!(told(api_at, r#""state":"degraded""#).await && told(cron_at, r#""state":"degraded""#).await);
    let (_, body) = support::http::get(api_at, "/readyz").await;
    assert!(["redis_queue: ", "redis_ranking: ", "redis_cache: "].iter().all(|reason| body.contains(reason)), "{body}");
    let asked =
        "GET /v1/leaderboards HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sl_client_none\r\nConnection: close\r\n\r\n";
    assert_eq!(support::http::request(api.address.unwrap(), asked).await.0, 401, "it serves, and knows its keys");
    away.start();
    eventually("the api is ready", PATIENCE, || told(api_at, r#""state":"ready""#)).await;
    eventually("so is cron", PATIENCE, || told(cron_at, r#""state":"ready""#)).await;
    let published = || async {
        let version: Option<String> =
            ::redis::cmd("HGET").arg("sl:directory").arg("version").query(&mut away.connection()).unwrap();
        version.is_some()
    };
    eventually("and publishes the directory", PATIENCE, published).await;
    lifecycle.soft.cancel();
    lifecycle.hard.cancel();
    lifecycle.tasks.close();
    lifecycle.tasks.wait().await;
    assert!(!lifecycle.has_failed());
}

/// Limits are disposable: a load balancer must not take every ingest out for them.
#[tokio::test]
async fn an_ingest_without_its_limits_is_degraded_and_serves() {
    let mut redis = support::redis::redis();
    let settings = settings("postgres://localhost/x", &redis.url);
    let lifecycle = Lifecycle::default();
    let ingest = operations("ingest", &lifecycle).await;
    start::redis(RedisUse::Limits, &settings.redis, &ingest, &lifecycle).await.unwrap();
    ingest.readiness.started();
    redis.kill();
    eventually("it is degraded", PATIENCE, || told(&ingest, 200, r#""state":"degraded""#)).await;
    assert!(told(&ingest, 200, r#""reasons":["redis_limits: "#).await);
    redis.start();
    eventually("and ready again", PATIENCE, || told(&ingest, 200, r#""state":"ready""#)).await;
    lifecycle.soft.cancel();
    lifecycle.hard.cancel();
}
