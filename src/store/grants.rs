//! What the role that processes run as may do, where another role owns the schema (docs/operations/postgres-roles.md).

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};

use super::StoreError;

/// Why rights could not be given.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// Postgres lets a table be handed over only to a role that one belongs to.
    #[error(
        "{processes} must own `events`, to make its partitions, and {owner} cannot hand it over: \
         let an administrator run GRANT \"{processes}\" TO \"{owner}\""
    )]
    NotMember {
        /// Who migrates.
        owner: String,
        /// Who the processes are.
        processes: String,
    },
    /// [`StoreError`].
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

/// Who a connection is, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The role.
    pub role: String,
    /// The database.
    pub database: String,
}

/// Asks Postgres itself: a pooler may call roles and databases by other names than its URL does.
pub async fn identity(connection: &mut PgConnection) -> Result<Identity, StoreError> {
    let row = sqlx::raw_sql("SELECT current_user::text, current_database()::text").fetch_one(connection).await?;
    Ok(Identity { role: row.try_get(0)?, database: row.try_get(1)? })
}

/// How often handing over a table is tried while others hold it, and the pause between.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// Lets `processes` read and write every table of the schema, also those of migrations to come, and own `events`, whose
/// partitions they make, detach and drop. Gives what is missing only, so that a schema in use is not touched.
///
/// # Errors
/// [`GrantError`].
pub async fn grant(connection: &mut PgConnection, processes: &str) -> Result<(), GrantError> {
    let member: bool = sqlx::query_scalar("SELECT pg_has_role(current_user, $1::name, 'MEMBER')")
        .bind(processes)
        .fetch_one(&mut *connection)
        .await?;
    if !member {
        let owner = identity(connection).await?.role;
        return Err(GrantError::NotMember { owner, processes: processes.to_owned() });
    }
    let mut attempt = 1;
    loop {
        match grant_once(connection, processes).await {
            // A long statement holds the table, or a deadlock was resolved against us.
            Err(StoreError::Database(error))
                if attempt < ATTEMPTS && matches!(error.code().as_deref(), Some("55P03" | "40P01")) =>
            {
                tracing::info!(%error, attempt, "waiting to hand over the events");
                tokio::time::sleep(PAUSE).await;
                attempt += 1;
            }
            outcome => return Ok(outcome?),
        }
    }
}

async fn grant_once(connection: &mut PgConnection, processes: &str) -> Result<(), StoreError> {
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT set_config('scoreline.processes', $1, true), set_config('lock_timeout', '1s', true)")
        .bind(processes)
        .execute(&mut *transaction)
        .await?;
    // Two who change the rights of one table at once disturb each other.
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(GRANTING).execute(&mut *transaction).await?;
    for statement in [ON_SCHEMA, ON_EVENTS, ON_THE_REST, ON_WHAT_COMES] {
        sqlx::raw_sql(statement).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// The advisory lock under which rights are given.
const GRANTING: i64 = 0x5c04_0002;

/// Partitions are tables that processes create.
const ON_SCHEMA: &str = "
DO $$
DECLARE
    processes CONSTANT text := current_setting('scoreline.processes');
    place CONSTANT text := current_schema();
BEGIN
    IF has_schema_privilege(processes, place, 'USAGE') AND has_schema_privilege(processes, place, 'CREATE') THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', place, processes);
    IF NOT has_schema_privilege(processes, place, 'CREATE') THEN
        RAISE EXCEPTION '% may not let % make partitions; let the owner of the schema run GRANT USAGE, CREATE ON SCHEMA % TO %',
            quote_ident(current_user), quote_ident(processes), quote_ident(place), quote_ident(processes);
    END IF;
END $$";

/// The parent first, as inserts lock them.
const ON_EVENTS: &str = "
DO $$
DECLARE
    processes CONSTANT text := current_setting('scoreline.processes');
    months regclass;
BEGIN
    FOR months IN
        SELECT c.oid::regclass FROM pg_class c
         WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema()))
           AND c.relowner <> to_regrole(quote_ident(processes))
           AND (c.relkind = 'p' AND c.relname = 'events'
                OR c.relkind = 'r' AND c.relname ~ '^events_[0-9]{4}_[0-9]{2}$')
         ORDER BY c.relkind, c.relname
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', months, processes);
    END LOOP;
END $$";

/// Which migrations were applied is written by those who migrate and read by all.
const ON_THE_REST: &str = "
DO $$
DECLARE
    processes CONSTANT text := current_setting('scoreline.processes');
    one record;
BEGIN
    FOR one IN
        SELECT c.oid, c.oid::regclass AS name, c.relkind = 'S' AS counts, c.relname = '_sqlx_migrations' AS read_only
          FROM pg_class c
         WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema()))
           AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
           AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        IF one.counts THEN
            IF NOT (has_sequence_privilege(processes, one.oid, 'USAGE')
                    AND has_sequence_privilege(processes, one.oid, 'SELECT')
                    AND has_sequence_privilege(processes, one.oid, 'UPDATE')) THEN
                EXECUTE format('GRANT USAGE, SELECT, UPDATE ON SEQUENCE %s TO %I', one.name, processes);
            END IF;
        ELSIF one.read_only THEN
            IF NOT has_table_privilege(processes, one.oid, 'SELECT') THEN
                EXECUTE format('GRANT SELECT ON %s TO %I', one.name, processes);
            END IF;
        ELSIF NOT (has_table_privilege(processes, one.oid, 'SELECT')
                   AND has_table_privilege(processes, one.oid, 'INSERT')
                   AND has_table_privilege(processes, one.oid, 'UPDATE')
                   AND has_table_privilege(processes, one.oid, 'DELETE')) THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', one.name, processes);
        END IF;
    END LOOP;
END $$";

/// Whoever migrates by other means, or is ended half way, leaves no table that processes cannot use.
const ON_WHAT_COMES: &str = "
DO $$
DECLARE
    processes CONSTANT text := current_setting('scoreline.processes');
    place CONSTANT text := current_schema();
BEGIN
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I',
                   place, processes);
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO %I',
                   place, processes);
END $$";
