//! A database per test, cloned from a migrated template on the server that `make test` started.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A private, migrated database; dropped with this value.
pub struct TestDatabase {
    pub url: String,
    pub pool: scoreline::store::pool::Pool,
    name: String,
    admin: PgConnectOptions,
}

fn admin_url() -> String {
    std::env::var("SCORELINE_TEST_DATABASE_URL")
        .expect("run the tests through `make test`, or set SCORELINE_TEST_DATABASE_URL to a disposable server")
}

/// The advisory lock under which the template is made.
const TEMPLATE_LOCK: i64 = 0x5c04_e11e;

/// Makes a private database.
pub async fn database() -> TestDatabase {
    let server = admin_url();
    let admin: PgConnectOptions = server.parse().unwrap();
    let migrator = sqlx::migrate!("./migrations");
    let checksum = migrator
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
        run(&mut connection, format!("CREATE DATABASE \"{making}\"")).await;
        let mut fresh = PgConnection::connect_with(&admin.clone().database(&making)).await.unwrap();
        migrator.run_direct(None, &mut fresh, false).await.unwrap();
        fresh.close().await.unwrap();
        run(&mut connection, format!("ALTER DATABASE \"{making}\" RENAME TO \"{template}\"")).await;
    }
    let name = format!("t_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    run(&mut connection, format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")).await;
    run(&mut connection, format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\"")).await;
    connection.close().await.unwrap();
    let options = admin.clone().database(&name);
    let pool = PgPoolOptions::new().max_connections(8).connect_with(options).await.unwrap().into();
    // The server's own URL with another database: it keeps the password, which the server of `make test` asks for.
    let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
    TestDatabase { url, pool, name, admin }
}

/// Makes a private database without a schema.
pub async fn empty_database() -> TestDatabase {
    let database = database().await;
    for schema in ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"] {
        sqlx::query(schema).execute(&database.pool).await.unwrap();
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
