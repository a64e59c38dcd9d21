//! The schema: applying migrations and telling whether a database has those that this program needs.

use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Connection, PgConnection, SqlSafeStr as _};

use super::StoreError;
use super::grants::{self, GrantError};

/// Each file of `migrations/` as its version, what it does and its SQL; `build.rs` writes the list.
const FILES: &[(i64, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// The migrations of this program. Not `sqlx::migrate!`: its crate builds the driver a second time.
pub static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |(version, description, sql): &(i64, &'static str, &'static str)| {
        let alone = sql.starts_with("-- no-transaction");
        Migration::new(*version, (*description).into(), MigrationType::Simple, sql.into_sql_str(), alone)
    };
    Migrator::with_migrations(FILES.iter().map(migration).collect())
});

/// How a database's schema relates to what this program needs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SchemaStatus {
    /// The newest migration this program knows.
    pub needed: i64,
    /// The newest migration that was applied; `None`: an empty database.
    pub applied: Option<i64>,
    /// Migrations this program needs that were not applied, oldest first.
    pub pending: Vec<PendingMigration>,
}

/// A migration that was not applied.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PendingMigration {
    /// When it was written, as `YYYYMMDDHHMMSS`.
    pub version: i64,
    /// What it does.
    pub description: String,
}

/// Why a schema was not brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The owner of the schema cannot connect.
    #[error("{0}")]
    Connect(StoreError),
    /// The role of the processes could not be read.
    #[error("cannot connect as the processes do, with DATABASE_URL: {0}")]
    Processes(StoreError),
    /// The database cannot hold what will be put into it.
    #[error("{0}")]
    Unfit(String),
    /// Somebody would migrate one database and work on another.
    #[error("DATABASE_MIGRATE_URL leads to the database {owner}, DATABASE_URL to {processes}")]
    OtherDatabase {
        /// Where the schema's owner is.
        owner: String,
        /// Where the processes are.
        processes: String,
    },
    /// A migration failed, or one that was applied has changed since.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The processes lack rights.
    #[error(transparent)]
    Grant(#[from] GrantError),
}

/// Migrates as the role of the URL `owner` and, where the role of the URL `processes` is another one, gives it the
/// rights that processes need.
///
/// # Errors
/// [`UpdateError`].
pub async fn update(owner: &str, processes: &str) -> Result<SchemaStatus, UpdateError> {
    let mut connection = connect(owner).await.map_err(UpdateError::Connect)?;
    check_encoding(&mut connection).await.map_err(UpdateError::Connect)?.map_err(UpdateError::Unfit)?;
    let grantee = if owner == processes { None } else { other_role(&mut connection, processes).await? };
    migrate(&mut connection).await?;
    if let Some(role) = grantee {
        grants::grant(&mut connection, &role).await?;
    }
    Ok(status(&mut connection).await?)
}

/// The role of the processes, unless it is the one that `connection` has.
async fn other_role(connection: &mut PgConnection, processes: &str) -> Result<Option<String>, UpdateError> {
    let own = grants::identity(connection).await.map_err(UpdateError::Connect)?;
    let mut theirs = connect(processes).await.map_err(UpdateError::Processes)?;
    let other = grants::identity(&mut theirs).await.map_err(UpdateError::Processes)?;
    if own.database != other.database {
        return Err(UpdateError::OtherDatabase { owner: own.database, processes: other.database });
    }
    Ok((own.role != other.role).then_some(other.role))
}

/// A migration that waits for a table keeps everybody waiting who asks for it later, so it gives up and lets them pass:
/// sooner than processes do (`pool.rs`), so that none of their statements fails.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '2s'";
/// How long they may pass before it is tried again.
const PAUSE: Duration = Duration::from_secs(3);

/// Applies what is pending, and waits without holding others up where somebody else has the tables. Safe to run from
/// several places at once: sqlx holds an advisory lock on this session. Does nothing on a schema that is newer than
/// this program: after a roll-back the release's step runs as before.
///
/// # Errors
/// A migration failed, or one that was applied has changed since.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut known = Migrator { migrations: MIGRATIONS.migrations.clone(), ..Migrator::DEFAULT };
    known.set_ignore_missing(true);
    sqlx::query(LOCK_TIMEOUT).execute(&mut *connection).await?;
    loop {
        match known.run_direct(None, connection, false).await {
            Err(error) if is_held_up(&error) => {
                // Others may migrate meanwhile.
                connection.unlock().await?;
                let others = others(connection).await?;
                tracing::warn!(%error, others, "migrations wait for a lock; transactions that hold one, oldest first");
                tokio::time::sleep(PAUSE).await;
            }
            outcome => {
                outcome?;
                break;
            }
        }
    }
    sqlx::query("RESET lock_timeout").execute(connection).await?;
    Ok(())
}

/// Whether somebody else held what a migration needs, or a deadlock was resolved against it. Nothing of it is done.
fn is_held_up(error: &MigrateError) -> bool {
    let (MigrateError::Execute(StoreError::Database(error))
    | MigrateError::ExecuteMigration(StoreError::Database(error), _)) = error
    else {
        return false;
    };
    matches!(error.code().as_deref(), Some("55P03" | "40P01"))
}

/// Who has locked tables of this schema, the longest-running transactions first. When they began only some roles may
/// see.
async fn others(connection: &mut PgConnection) -> Result<String, StoreError> {
    let others: Option<String> = sqlx::query_scalar(
        "SELECT string_agg(who, '; ')
           FROM (SELECT format('pid %s (%s %s) since %s: %s', l.pid, a.usename, a.application_name,
                               coalesce(a.xact_start::text, 'unknown'),
                               string_agg(DISTINCT c.relname::text, ', ')) AS who
                   FROM pg_locks l
                   JOIN pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p')
                                  AND c.relnamespace = current_schema()::regnamespace
                   LEFT JOIN pg_stat_activity a ON a.pid = l.pid
                  WHERE l.granted AND l.pid <> pg_backend_pid()
                    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  GROUP BY l.pid, a.usename, a.application_name, a.xact_start
                  ORDER BY a.xact_start NULLS LAST, l.pid LIMIT 5) AS oldest",
    )
    .fetch_one(connection)
    .await?;
    Ok(others.unwrap_or_else(|| "none any more".to_owned()))
}

/// Reads which migrations a database has. A newer schema than the program's is fine: migrations only expand what
/// running programs use (`migrations/README.md`).
pub async fn status(connection: &mut PgConnection) -> Result<SchemaStatus, MigrateError> {
    let known: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(MigrateError::Execute)?;
    let applied = if known { connection.list_applied_migrations("_sqlx_migrations").await? } else { Vec::new() };
    let pending = MIGRATIONS
        .iter()
        .filter(|m| !applied.iter().any(|a| a.version == m.version))
        .map(|m| PendingMigration { version: m.version, description: m.description.to_string() })
        .collect();
    Ok(SchemaStatus {
        needed: MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0),
        applied: applied.iter().map(|a| a.version).max(),
        pending,
    })
}

/// What must be true of a database before anything is put into it: events and names are UTF-8, and in any other
/// encoding some of them could never be stored. `Err`: what is wrong and what to do.
pub async fn check_encoding(connection: &mut PgConnection) -> Result<Result<(), String>, StoreError> {
    let (database, encoding): (String, String) =
        sqlx::query_as("SELECT current_database()::text, current_setting('server_encoding')")
            .fetch_one(connection)
            .await?;
    if encoding == "UTF8" {
        return Ok(Ok(()));
    }
    Ok(Err(format!(
        "the database '{database}' keeps text as {encoding}: it must be UTF8 (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
    )))
}

/// Opens one connection outside any pool, without a statement timeout, as migrations need it.
///
/// # Errors
/// Postgres cannot be reached or refuses.
pub async fn connect(url: &str) -> Result<PgConnection, StoreError> {
    PgConnection::connect(url).await
}
