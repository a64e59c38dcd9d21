//! A database per test, cloned from a migrated template on the server that `make test` started. The schema is one
//! role's, tests and processes work as another, as they do elsewhere.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A private, migrated database; dropped with this value.
pub struct TestDatabase {
    /// As the role of the processes.
    pub url: String,
    /// As the role that owns the schema.
    pub owner_url: String,
    /// As the role of the processes.
    pub pool: scoreline::store::pool::Pool,
    name: String,
    admin: PgConnectOptions,
}

fn admin_url() -> String {
    std::env::var("SCORELINE_TEST_DATABASE_URL")
        .expect("run the tests through `make test`, or set SCORELINE_TEST_DATABASE_URL to a disposable server")
}

/// A role of the same server, or, where there is none, the one that may do everything.
fn role_url(name: &str, server: &str) -> String {
    let place = |url: &str| url.rsplit_once('@').map(|(_, place)| place.to_owned());
    std::env::var(name).ok().filter(|url| place(url) == place(server)).unwrap_or_else(|| server.to_owned())
}

/// The same server and role with another database.
fn with_database(url: &str, name: &str) -> String {
    format!("{}/{name}", url.rsplit_once('/').unwrap().0)
}

/// The advisory lock under which the template is made.
const TEMPLATE_LOCK: i64 = 0x5c04_e11e;

/// Makes a private database.
pub async fn database() -> TestDatabase {
    let server = admin_url();
    let (owner, processes) = (role_url("DATABASE_MIGRATE_URL", &server), role_url("DATABASE_URL", &server));
    let owner_name = owner.parse::<PgConnectOptions>().unwrap().get_username().to_owned();
    let admin: PgConnectOptions = server.parse().unwrap();
    let checksum = scoreline::store::migrations::MIGRATIONS
        .iter()
        .fold(0u64, |sum, m| m.checksum.iter().fold(sum, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(*b))));
    let template = format!("scoreline_template_{checksum:x}");
    let mut connection = PgConnection::connect_with(&admin).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut connection).await.unwrap();
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(&template)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    if !exists {
        let making = format!("{template}_making");
        run(&mut connection, format!("DROP DATABASE IF EXISTS \"{making}\"")).await;
        run(&mut connection, format!("CREATE DATABASE \"{making}\" OWNER \"{owner_name}\"")).await;
        let [owner, processes] = [&owner, &processes].map(|url| with_database(url, &making));
        scoreline::store::migrations::update(&owner, &processes).await.unwrap();
        run(&mut connection, format!("ALTER DATABASE \"{making}\" RENAME TO \"{template}\"")).await;
    }
    let name = format!("t_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    run(&mut connection, format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")).await;
    run(&mut connection, format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\" OWNER \"{owner_name}\"")).await;
    connection.close().await.unwrap();
    let [owner_url, url] = [&owner, &processes].map(|url| with_database(url, &name));
    let pool = PgPoolOptions::new().max_connections(8).connect(&url).await.unwrap().into();
    TestDatabase { url, owner_url, pool, name, admin }
}

impl TestDatabase {
    /// A connection as the role that owns the schema: for what no process may do.
    pub async fn owner(&self) -> PgConnection {
        PgConnection::connect(&self.owner_url).await.unwrap()
    }

    /// A connection as the server's superuser.
    pub async fn superuser(&self) -> PgConnection {
        PgConnection::connect_with(&self.as_superuser()).await.unwrap()
    }

    /// How the server's superuser connects.
    pub fn as_superuser(&self) -> PgConnectOptions {
        self.admin.clone().database(&self.name)
    }
}

/// Makes a private database without a schema.
pub async fn empty_database() -> TestDatabase {
    let database = database().await;
    let mut owner = database.owner().await;
    for schema in ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"] {
        sqlx::query(schema).execute(&mut owner).await.unwrap();
    }
    database
}

async fn run(connection: &mut PgConnection, statement: String) {
    connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                if let Ok(mut connection) = PgConnection::connect_with(&admin).await {
                    run(&mut connection, format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")).await;
                }
            });
        });
        let _ = dropping.join();
    }
}
