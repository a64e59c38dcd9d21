//! A Postgres that answers and refuses: read-only, without rights, with another password.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnectOptions;
use tokio::time::Instant;
use uuid::Uuid;

use super::{between, one_of};
use crate::bench::rig::Role;
use crate::chaos::ChaosError;
use crate::chaos::plan::Kind;
use crate::chaos::probe::DEPENDENCY_BOUND;
use crate::chaos::world::{PATIENCE, World};
use crate::stack::postgres_roles::PROCESSES;

/// Rights that processes cannot do without.
const RIGHTS: [(&str, &str); 8] = [
    ("INSERT", "events"),
    ("INSERT", "score_facts"),
    ("SELECT, DELETE", "score_facts"),
    ("INSERT, UPDATE", "leaderboard_entries"),
    ("INSERT, DELETE", "dirty_entries"),
    ("UPDATE", "leases"),
    ("SELECT, UPDATE", "games"),
    ("SELECT, INSERT, UPDATE", "leaderboard_periods"),
];
/// Within this time a process says that it cannot write: it looks every 5 s and waits 3 s for an answer.
const SAID_WITHIN: Duration = Duration::from_secs(10);

impl World {
    /// As after a demotion, or while a managed server runs out of disk.
    pub(super) async fn make_read_only(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let time = between(random, 12_000, 30_000);
        self.administer("ALTER SYSTEM SET default_transaction_read_only = on").await?;
        let seen = self.refused_for(time, true).await;
        self.administer("ALTER SYSTEM RESET default_transaction_read_only").await?;
        let since = Instant::now();
        seen?;
        self.work_goes_on(Kind::PostgresReadOnly, since).await
    }

    /// Takes some rights from the processes, or all.
    pub(super) async fn withdraw_rights(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let time = between(random, 3_000, 15_000);
        let taken = if random.random_bool(0.3) { RIGHTS.to_vec() } else { vec![one_of(random, &RIGHTS)] };
        tracing::info!(?taken, "withdrawing rights");
        for (rights, table) in &taken {
            self.administer(&format!("REVOKE {rights} ON {table} FROM {PROCESSES}")).await?;
        }
        let seen = self.refused_for(time, false).await;
        for (rights, table) in &taken {
            self.administer(&format!("GRANT {rights} ON {table} TO {PROCESSES}")).await?;
        }
        let since = Instant::now();
        seen?;
        self.work_goes_on(Kind::PostgresRights, since).await
    }

    /// Gives the processes' role another password, as when it is rotated on one side only.
    pub(super) async fn change_password(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let time = between(random, 3_000, 12_000);
        let before = self.rig.services.database_url.parse::<PgConnectOptions>()?;
        tracing::info!(role = before.get_username(), "changing its password");
        let url = &self.rig.services.database_url;
        let password = url.split('@').next().and_then(|head| head.rsplit(':').next()).unwrap_or_default().to_owned();
        self.administer(&format!("ALTER ROLE {PROCESSES} PASSWORD 'rotated'")).await?;
        self.end_backends().await?;
        let seen = self.refused_for(time, false).await;
        self.administer(&format!("ALTER ROLE {PROCESSES} PASSWORD '{password}'")).await?;
        let since = Instant::now();
        seen?;
        self.work_goes_on(Kind::PostgresPassword, since).await
    }

    /// Within the promised time jobs run again. A probe then waits behind all that came during half a minute.
    async fn work_goes_on(&mut self, kind: Kind, since: Instant) -> Result<(), ChaosError> {
        let count = "SELECT count(*) FROM events";
        let before: i64 = sqlx::query_scalar(count).fetch_one(&self.admin).await?;
        let more = async |world: &Self| {
            let now: i64 = sqlx::query_scalar(count).fetch_one(&world.admin).await?;
            Ok(now > before)
        };
        match self.holds_within(PATIENCE, more).await? {
            Some(_) => {
                self.report.recovered(kind.name(), "jobs run again", since.elapsed(), Some(DEPENDENCY_BOUND));
            }
            None => self.report.violated(format!("after {}: no job runs within {PATIENCE:?}", kind.name())),
        }
        self.follow_a_probe(kind.name(), since, None).await
    }

    /// Waits; batches are taken meanwhile. `said`: those who write must say that they are not ready.
    async fn refused_for(&mut self, time: Duration, said: bool) -> Result<(), ChaosError> {
        let began = Instant::now();
        if !self.send_probe(Uuid::new_v4(), "level_progress", "p").await? {
            self.report.violated("while Postgres refuses to write no batch is acknowledged");
        }
        if said {
            for name in self.named(Role::Worker).into_iter().chain(self.named(Role::Cron)) {
                let unready = async |world: &Self| Ok(world.says_unready(name).await);
                let left = SAID_WITHIN.saturating_sub(began.elapsed());
                if self.holds_within(left, unready).await?.is_none() {
                    self.report.violated(format!("{name} does not say on /readyz that Postgres refuses to write"));
                }
            }
        }
        self.sleep(time.saturating_sub(began.elapsed())).await
    }

    /// A statement as the server's superuser; settings are in force at once.
    ///
    /// # Errors
    /// [`ChaosError::Postgres`].
    pub(super) async fn administer(&self, statement: &str) -> Result<(), ChaosError> {
        for statement in [statement, "SELECT pg_reload_conf()"] {
            sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(self.admin.inner()).await?;
        }
        Ok(())
    }
}
