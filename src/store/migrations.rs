//! The schema: applying migrations and telling whether a database has those that this program needs.

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Connection, PgConnection};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

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

/// Applies what is pending. Safe to run from several places at once: sqlx holds an advisory lock on this session. Does
/// nothing on a schema that is newer than this program: after a roll-back the release's step runs as before.
///
/// # Errors
/// A migration failed, or one that was applied has changed since.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut known = Migrator { migrations: MIGRATIONS.migrations.clone(), ..Migrator::DEFAULT };
    known.set_ignore_missing(true);
    known.run_direct(None, connection, false).await
}

/// Reads which migrations a database has. A newer schema than the program's is fine: migrations only expand what
/// running programs use (`migrations/README.md`).
///
/// # Errors
/// Whatever Postgres says.
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

/// Opens one connection outside any pool, without a statement timeout, as migrations need it.
///
/// # Errors
/// Postgres cannot be reached or refuses.
pub async fn connect(url: &str) -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect(url).await
}
