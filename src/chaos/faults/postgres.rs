//! Postgres stopped, its connections ended or used up, its table locked.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::between;
use crate::chaos::ChaosError;
use crate::chaos::plan::Kind;
use crate::chaos::probe::DEPENDENCY_BOUND;
use crate::chaos::world::World;

/// Ends every connection of ours but those of the run itself.
const TERMINATE: &str =
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'scoreline %'";
/// An outage that lasts this long must show that ingest goes on without Postgres.
const DOOR_OPEN_AFTER: Duration = Duration::from_secs(1);

impl World {
    pub(super) async fn stop_postgres(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let down = between(random, 200, 5_000);
        self.stack.stop_postgres_immediately().await;
        let mut taken = true;
        let seen = async {
            if down >= DOOR_OPEN_AFTER {
                taken = self.send_probe(uuid::Uuid::new_v4(), "level_progress", "p").await?;
            }
            self.sleep(down).await
        }
        .await;
        self.report.restarts += 1;
        self.stack.start_postgres_again().await?;
        seen?;
        if !taken {
            self.report.violated("while Postgres is down no batch is acknowledged");
        }
        self.follow_a_probe(Kind::PostgresStop.name(), Instant::now(), Some(DEPENDENCY_BOUND)).await
    }

    pub(super) async fn terminate_backends(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        for _ in 0..random.random_range(1..=6) {
            self.end_backends().await?;
            self.sleep(between(random, 20, 400)).await?;
        }
        self.follow_a_probe(Kind::PostgresTerminate.name(), Instant::now(), Some(DEPENDENCY_BOUND)).await
    }

    /// Ends every connection of ours but those of the run itself.
    pub(super) async fn end_backends(&mut self) -> Result<(), ChaosError> {
        let ended: i64 = sqlx::query_scalar(TERMINATE).fetch_one(&self.admin).await?;
        *self.report.cuts.entry("terminated backends").or_default() += ended.unsigned_abs();
        Ok(())
    }

    /// Takes every connection that the server allows.
    pub(super) async fn exhaust_postgres(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let time = between(random, 1_000, 5_000);
        let began = Instant::now();
        let mut taken: Vec<PgConnection> = Vec::new();
        // The run's own connection stays; whoever loses one finds none.
        self.end_backends().await?;
        let mut outcome = Ok(());
        while outcome.is_ok() && began.elapsed() < time {
            match PgConnection::connect(&self.rig.services.database_url).await {
                Ok(connection) => taken.push(connection),
                Err(_) => outcome = self.sleep(Duration::from_millis(50)).await,
            }
            if taken.len() % 20 == 19 {
                outcome = outcome.and(self.end_backends().await);
            }
        }
        *self.report.cuts.entry("connections used up").or_default() += taken.len() as u64;
        for connection in taken {
            let _ = connection.close().await;
        }
        outcome?;
        self.follow_a_probe(Kind::PostgresExhausted.name(), Instant::now(), Some(DEPENDENCY_BOUND)).await
    }

    /// Holds a lock that every write waits for.
    pub(super) async fn lock_events(&mut self, random: &mut StdRng) -> Result<(), ChaosError> {
        let mut holding = self.pool.begin().await?;
        sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").execute(&mut *holding).await?;
        let slept = self.sleep(between(random, 1_000, 6_000)).await;
        holding.rollback().await?;
        slept?;
        self.follow_a_probe(Kind::PostgresLocked.name(), Instant::now(), Some(DEPENDENCY_BOUND)).await
    }
}
