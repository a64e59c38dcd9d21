//! Who may do what in Postgres: the role that owns the schema, and the one that processes run as.

use std::path::PathBuf;
use std::process::{Command, Output};

use scoreline::domain::clock::Micros;
use scoreline::domain::month::Month;
use scoreline::runtime::clock;
use scoreline::stack::{Stack, StackOptions};
use scoreline::store::migrations;
use scoreline::store::partitions;
use scoreline::store::pool::Pool;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::support;
use crate::support::postgres::TestDatabase;

const NOW: Micros = Micros(1_794_787_200_000_000);

fn user(url: &str) -> String {
    url.parse::<PgConnectOptions>().unwrap().get_username().to_owned()
}

/// Tables by owner, `events` and its partitions apart.
async fn owners(connection: &mut PgConnection) -> (Vec<String>, Vec<String>) {
    let of = "SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class
               WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S') AND (relname ~ '^events') = $1";
    let rest = sqlx::query_scalar(of).bind(false).fetch_all(&mut *connection).await.unwrap();
    (sqlx::query_scalar(of).bind(true).fetch_all(&mut *connection).await.unwrap(), rest)
}

async fn refusal(pool: &Pool, statement: &'static str) -> String {
    let refused = sqlx::query(statement).execute(pool).await.unwrap_err();
    refused.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned()
}

fn migrate(environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scoreline"));
    command.arg("migrate").env_remove("DATABASE_URL").env_remove("DATABASE_MIGRATE_URL");
    command.envs(environment.iter().copied()).output().unwrap()
}

fn migrate_as_both(database: &TestDatabase) -> Output {
    migrate(&[("DATABASE_URL", &database.url), ("DATABASE_MIGRATE_URL", &database.owner_url)])
}

/// Whether somebody waits for the lock of a table. Databases of one template have tables of the same numbers.
async fn is_waited_for(pool: &Pool, table: &str) -> bool {
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = to_regclass($1) AND NOT granted
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    sqlx::query_scalar(waiting).bind(table).fetch_one(pool).await.unwrap()
}

const PERMISSION_DENIED: &str = "42501";

#[tokio::test]
async fn processes_own_the_events_and_write_the_rest_without_owning_it() {
    let database = support::postgres::database().await;
    let (owner, processes) = (user(&database.owner_url), user(&database.url));
    assert_ne!(owner, processes, "the tests run as the role that processes have");
    let powerful: bool =
        sqlx::query_scalar("SELECT bool_or(rolsuper OR rolcreaterole) FROM pg_roles WHERE rolname = ANY($1)")
            .bind([&owner, &processes].map(String::from))
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert!(!powerful);
    partitions::ensure_for(&database.pool, NOW).await.unwrap();
    let mut as_owner = database.owner().await;
    assert_eq!(owners(&mut as_owner).await, (vec![processes], vec![owner]));
    for statement in ["DROP TABLE games", "ALTER TABLE leases ADD COLUMN mine text", "TRUNCATE games"] {
        assert_eq!(refusal(&database.pool, statement).await, PERMISSION_DENIED, "{statement}");
    }
    assert_eq!(refusal(&database.pool, "DELETE FROM _sqlx_migrations").await, PERMISSION_DENIED);
    // Who owns the schema may still change `events`, and so the partitions that processes made.
    as_owner.execute("ALTER TABLE events ADD COLUMN of_later text").await.unwrap();
    let month = Month::of(NOW);
    partitions::detach(&database.pool, month).await.unwrap();
    let name = AssertSqlSafe(format!("DROP TABLE {}", month.partition_name()));
    database.pool.acquire().await.unwrap().execute(name).await.unwrap();
}

#[tokio::test]
async fn tables_of_migrations_to_come_are_open_to_processes() {
    let database = support::postgres::database().await;
    let mut owner = database.owner().await;
    owner.execute("CREATE TABLE of_later (id bigint GENERATED ALWAYS AS IDENTITY, at bigint)").await.unwrap();
    owner.execute("CREATE SEQUENCE counts_later").await.unwrap();
    for statement in [
        "INSERT INTO of_later (at) SELECT nextval('counts_later')",
        "UPDATE of_later SET at = 2",
        "SELECT setval('counts_later', 7)",
        "DELETE FROM of_later",
    ] {
        sqlx::query(statement).execute(&database.pool).await.unwrap();
    }
}

#[tokio::test]
async fn one_role_for_everything_migrates_and_makes_its_partitions() {
    let database = support::postgres::empty_database().await;
    for environment in [("DATABASE_URL", database.owner_url.as_str()), ("DATABASE_MIGRATE_URL", &database.owner_url)] {
        let done = migrate(&[environment]);
        assert!(done.status.success(), "{environment:?}: {done:?}");
    }
    let pool = Pool::new(sqlx::PgPool::connect(&database.owner_url).await.unwrap());
    partitions::ensure_for(&pool, NOW).await.unwrap();
    let owner = vec![user(&database.owner_url)];
    assert_eq!(owners(&mut database.owner().await).await, (owner.clone(), owner));
}

#[tokio::test]
async fn an_installation_of_one_role_becomes_one_of_two() {
    let database = support::postgres::empty_database().await;
    assert!(migrate(&[("DATABASE_URL", &database.owner_url)]).status.success());
    let before = Pool::new(sqlx::PgPool::connect(&database.owner_url).await.unwrap());
    partitions::ensure_for(&before, NOW).await.unwrap();
    assert_eq!(refusal(&database.pool, "SELECT FROM public.games").await, PERMISSION_DENIED);
    // Whoever works meanwhile holds it up and is not ended.
    let mut working = before.begin().await.unwrap();
    sqlx::query("LOCK TABLE events IN ROW EXCLUSIVE MODE").execute(&mut *working).await.unwrap();
    let (url, owner_url) = (database.url.clone(), database.owner_url.clone());
    let migrating = tokio::spawn(async move { migrations::update(&owner_url, &url).await });
    for waits in [true, false, true] {
        let what = if waits { "it waits for the table" } else { "it lets others pass" };
        let limit = std::time::Duration::from_secs(20);
        support::eventually(what, limit, async || is_waited_for(&before, "events").await == waits).await;
    }
    working.commit().await.unwrap();
    migrating.await.unwrap().unwrap();
    assert_eq!(owners(&mut database.owner().await).await, (vec![user(&database.url)], vec![user(&database.owner_url)]));
    sqlx::query("INSERT INTO games (slug, name) VALUES ('demo', 'Demo')").execute(&database.pool).await.unwrap();
    partitions::ensure_for(&database.pool, Month::of(NOW).next().starts_at()).await.unwrap();
    let again = migrate_as_both(&database);
    assert!(again.status.success(), "{again:?}");
}

#[tokio::test]
async fn a_migration_that_waits_for_a_reader_keeps_nobody_else_waiting() {
    let database = support::postgres::database().await;
    let mut owner = database.owner().await;
    // As before the migration that adds this column.
    owner.execute("ALTER TABLE games DROP COLUMN changes_paid_until").await.unwrap();
    owner.execute("DELETE FROM _sqlx_migrations WHERE version = 20261127080000").await.unwrap();
    // A dump, say: it reads the table, and goes on.
    let mut reading = database.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM games").execute(&mut *reading).await.unwrap();
    let (url, owner_url) = (database.url.clone(), database.owner_url.clone());
    let migrating = tokio::spawn(async move { migrations::update(&owner_url, &url).await });
    let limit = std::time::Duration::from_secs(20);
    let waits = async || is_waited_for(&database.pool, "games").await;
    support::eventually("it waits for the table", limit, waits).await;
    // Behind it, and before the reader has ended.
    let mut storing = PgConnection::connect(&database.url).await.unwrap();
    storing.execute("SET lock_timeout = '20s'").await.unwrap();
    storing.execute("INSERT INTO games (slug, name) VALUES ('demo', 'Demo')").await.unwrap();
    support::eventually("it tries again", limit, waits).await;
    reading.rollback().await.unwrap();
    let status = migrating.await.unwrap().unwrap();
    assert_eq!(status.pending, []);
    sqlx::query("SELECT changes_paid_until FROM games").fetch_one(&database.pool).await.unwrap();
}

#[tokio::test]
async fn migrate_says_which_right_is_missing_and_which_database_is_wrong() {
    let (database, other) = (support::postgres::empty_database().await, support::postgres::database().await);
    let (stranger, mut superuser) = (format!("stranger_{}", std::process::id()), database.superuser().await);
    superuser.execute(AssertSqlSafe(format!("CREATE ROLE {stranger} LOGIN PASSWORD 'x'"))).await.unwrap();
    let (_, place) = database.url.rsplit_once('@').unwrap();
    let url = format!("postgres://{stranger}:x@{place}");
    let refused = migrate(&[("DATABASE_URL", &url), ("DATABASE_MIGRATE_URL", &database.owner_url)]);
    superuser.execute(AssertSqlSafe(format!("DROP ROLE {stranger}"))).await.unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    let command = format!("GRANT \"{stranger}\" TO \"{}\"", user(&database.owner_url));
    assert!(!refused.status.success() && said.contains(&command), "{said}");
    let refused = migrate(&[("DATABASE_URL", &other.url), ("DATABASE_MIGRATE_URL", &database.owner_url)]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("DATABASE_MIGRATE_URL leads to the database"), "{said}");
}

/// A private installation's folder.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes of a new home one as it was when the superuser was called `scoreline` and did everything.
async fn undo_roles(stack: &Stack, home: &Folder) {
    let postgres = stack.postgres().unwrap();
    let server: PgConnectOptions = postgres.admin_url.parse().unwrap();
    let password = std::fs::read_to_string(home.0.join("postgres.password")).unwrap();
    let mut admin = PgConnection::connect_with(&server.clone().database("postgres")).await.unwrap();
    for statement in [
        "DROP DATABASE scoreline",
        "DROP ROLE scoreline",
        "DROP ROLE scoreline_owner",
        "CREATE ROLE other SUPERUSER LOGIN PASSWORD 'x'",
    ] {
        admin.execute(statement).await.unwrap();
    }
    admin.close().await.unwrap();
    let other = server.clone().username("other").password("x").database("postgres");
    let mut other = PgConnection::connect_with(&other).await.unwrap();
    other.execute("ALTER ROLE postgres RENAME TO scoreline").await.unwrap();
    let statement = format!("ALTER ROLE scoreline PASSWORD '{password}'");
    other.execute(AssertSqlSafe(statement)).await.unwrap();
    other.execute("CREATE DATABASE scoreline OWNER scoreline").await.unwrap();
    let mut everything = PgConnection::connect(&postgres.url).await.unwrap();
    other.close().await.unwrap();
    everything.execute("DROP ROLE other").await.unwrap();
    migrations::migrate(&mut everything).await.unwrap();
    everything.execute("INSERT INTO games (slug, name) VALUES ('kept', 'Kept')").await.unwrap();
    let pool = Pool::new(sqlx::PgPool::connect(&postgres.url).await.unwrap());
    partitions::ensure_for(&pool, NOW).await.unwrap();
    for file in ["postgres.admin.password", "postgres.owner.password"] {
        std::fs::remove_file(home.0.join(file)).unwrap();
    }
}

#[tokio::test]
async fn a_private_home_of_before_there_were_roles_goes_on() {
    let home = Folder(std::env::temp_dir().join(format!("scoreline-roles-{}", std::process::id())));
    let options = StackOptions {
        home: home.0.clone(),
        postgres: true,
        redis: false,
        durable: false,
        max_connections: 20,
        replicas: false,
    };
    let stack = Stack::start(&options).await.unwrap();
    undo_roles(&stack, &home).await;
    let url = stack.database_url().unwrap().to_owned();
    stack.stop().await;

    for _ in 0..2 {
        let stack = Stack::start(&options).await.unwrap();
        let postgres = stack.postgres().unwrap();
        migrations::update(&postgres.owner_url, &postgres.url).await.unwrap();
        let role = |url: &str| url.split_once("://").unwrap().1.rsplit_once('@').unwrap().0.to_owned();
        assert_eq!(role(&postgres.url), role(&url), "whoever kept the URL's role and password can use them");
        let pool = Pool::new(sqlx::PgPool::connect(&postgres.url).await.unwrap());
        let kept: String = sqlx::query_scalar("SELECT slug FROM games").fetch_one(&pool).await.unwrap();
        assert_eq!(kept, "kept");
        partitions::ensure(&pool, NOW, clock::system().now()).await.unwrap();
        let mut admin = PgConnection::connect(&postgres.admin_url).await.unwrap();
        assert_eq!(owners(&mut admin).await, (vec!["scoreline".to_owned()], vec!["scoreline_owner".to_owned()]));
        let supers: Vec<String> = sqlx::query_scalar("SELECT rolname::text FROM pg_roles WHERE rolsuper")
            .fetch_all(&mut admin)
            .await
            .unwrap();
        assert_eq!(supers, ["postgres"]);
        pool.inner().close().await;
        stack.stop().await;
    }
}
