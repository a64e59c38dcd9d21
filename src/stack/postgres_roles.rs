//! The roles of a private Postgres: one administers the server, one owns the schema, one works on it. So a process
//! meets the walls that it meets elsewhere, and the tests can withdraw its rights.

use std::net::SocketAddr;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{Home, StackError};

/// The server's superuser.
pub const ADMIN: &str = "postgres";
/// Owns the schema: migrations run as it.
pub const OWNER: &str = "scoreline_owner";
/// What processes run as.
pub const PROCESSES: &str = "scoreline";
/// The database.
const DATABASE: &str = "scoreline";
/// Renames the superuser of a home of before there were roles, and is gone when that is done.
const RENAMER: &str = "scoreline_renamer";

/// The roles' passwords. Hexadecimal digits: they may stand in statements and URLs.
#[derive(Debug)]
pub struct Passwords {
    /// Of [`ADMIN`].
    pub admin: String,
    owner: String,
    processes: String,
}

impl Passwords {
    /// As the home keeps them. The processes' is what was once the only one, so that their URL stays what it was.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn of(home: &Home) -> Result<Self, StackError> {
        Ok(Self {
            admin: home.secret("postgres.admin.password")?,
            owner: home.secret("postgres.owner.password")?,
            processes: home.secret("postgres.password")?,
        })
    }

    /// URLs as the processes, as the owner, as the superuser.
    pub fn urls(&self, address: SocketAddr) -> [String; 3] {
        [(PROCESSES, &self.processes), (OWNER, &self.owner), (ADMIN, &self.admin)]
            .map(|(role, password)| format!("postgres://{role}:{password}@{address}/{DATABASE}"))
    }
}

/// Whether a server refused a connection because it does not know the role with this password. It knows none from the
/// outside; both have one code.
pub fn is_unknown(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| matches!(e.code().as_deref(), Some("28P01" | "28000")))
}

/// Makes roles and database what they must be, also in a home that had one role for everything.
pub async fn prepare(admin: &PgConnectOptions, passwords: &Passwords) -> Result<(), sqlx::Error> {
    let mut connection = match PgConnection::connect_with(admin).await {
        Err(error) if is_unknown(&error) => {
            rename_superuser(admin, passwords).await?;
            PgConnection::connect_with(admin).await?
        }
        connected => connected?,
    };
    run(&mut connection, format!("DROP ROLE IF EXISTS {RENAMER}")).await?;
    for (role, password) in [(OWNER, &passwords.owner), (PROCESSES, &passwords.processes)] {
        if !exists(&mut connection, ROLE_EXISTS, role).await? {
            run(&mut connection, format!("CREATE ROLE {role}")).await?;
        }
        run(&mut connection, format!("ALTER ROLE {role} LOGIN NOSUPERUSER PASSWORD '{password}'")).await?;
    }
    // Whoever owns the schema hands `events` over to the processes, which takes membership.
    run(&mut connection, format!("GRANT {PROCESSES} TO {OWNER}")).await?;
    if exists(&mut connection, DATABASE_EXISTS, DATABASE).await? {
        run(&mut connection, format!("ALTER DATABASE {DATABASE} OWNER TO {OWNER}")).await?;
        hand_over(admin).await?;
    } else {
        run(&mut connection, format!("CREATE DATABASE {DATABASE} OWNER {OWNER}")).await?;
    }
    connection.close().await
}

/// The superuser that `initdb` made was once called as the processes are now. Nobody renames himself, so another does.
async fn rename_superuser(admin: &PgConnectOptions, passwords: &Passwords) -> Result<(), sqlx::Error> {
    let as_role = |role: &str, password: &str| admin.clone().username(role).password(password);
    let mut before = PgConnection::connect_with(&as_role(PROCESSES, &passwords.processes)).await?;
    if !exists(&mut before, ROLE_EXISTS, RENAMER).await? {
        run(&mut before, format!("CREATE ROLE {RENAMER}")).await?;
    }
    let login = format!("ALTER ROLE {RENAMER} LOGIN SUPERUSER PASSWORD '{}'", passwords.admin);
    run(&mut before, login).await?;
    before.close().await?;
    let mut renamer = PgConnection::connect_with(&as_role(RENAMER, &passwords.admin)).await?;
    let mut transaction = renamer.begin().await?;
    run(&mut transaction, format!("ALTER ROLE {PROCESSES} RENAME TO {ADMIN}")).await?;
    run(&mut transaction, format!("ALTER ROLE {ADMIN} PASSWORD '{}'", passwords.admin)).await?;
    transaction.commit().await?;
    renamer.close().await
}

/// Gives what the superuser made in the schema to its owner. (`REASSIGN OWNED` refuses the superuser of `initdb`.)
async fn hand_over(admin: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect_with(&admin.clone().database(DATABASE)).await?;
    sqlx::query("SELECT set_config('scoreline.owner', $1, false)").bind(OWNER).execute(&mut connection).await?;
    connection.execute(HAND_OVER).await?;
    connection.close().await
}

/// A table takes its own indexes and sequences along.
const HAND_OVER: &str = "
DO $$
DECLARE
    owner CONSTANT text := current_setting('scoreline.owner');
    one record;
BEGIN
    FOR one IN
        SELECT c.oid::regclass AS name, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
                    WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END AS kind
          FROM pg_class c
         WHERE c.relnamespace = 'public'::regnamespace AND c.relowner = current_user::regrole
           AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                              AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %I', one.kind, one.name, owner);
    END LOOP;
    FOR one IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
         WHERE p.pronamespace = 'public'::regnamespace AND p.proowner = current_user::regrole
    LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO %I', one.name, owner);
    END LOOP;
END $$";

const ROLE_EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)";
const DATABASE_EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";

async fn exists(connection: &mut PgConnection, question: &'static str, name: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(question).bind(name).fetch_one(connection).await
}

/// Names are this file's, passwords are hexadecimal digits.
async fn run(connection: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    connection.execute(AssertSqlSafe(statement)).await.map(|_| ())
}
