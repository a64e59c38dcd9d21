//! No byte is left on the disk of Redis and Postgres.

use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{Took, between};
use crate::chaos::ChaosError;
use crate::chaos::plan::Kind;
use crate::chaos::probe::DEPENDENCY_BOUND;
use crate::chaos::world::World;

impl World {
    /// Fills the disk under load. Postgres may give up meanwhile; whoever ended is started again when there is room.
    pub(super) async fn fill_disk(&mut self, random: &mut StdRng) -> Result<Took, ChaosError> {
        let Some(disk) = &self.disk else { return Ok(Took::No(Kind::DiskFull.name())) };
        disk.fill()?;
        let slept = self.sleep(between(random, 4_000, 15_000)).await;
        if let Some(disk) = &self.disk {
            disk.free()?;
        }
        slept?;
        if !self.stack.redis_runs() {
            self.report.restarts += 1;
            self.stack.start_redis_again().await?;
        }
        if !self.stack.postgres_runs() {
            self.report.restarts += 1;
            self.stack.start_postgres_again().await?;
        }
        let answers = async |world: &Self| {
            let one: Result<i32, sqlx::Error> = sqlx::query_scalar("SELECT 1").fetch_one(&world.admin).await;
            Ok(one.is_ok())
        };
        self.until("Postgres answers", crate::chaos::world::PATIENCE, answers).await?;
        self.follow_a_probe(Kind::DiskFull.name(), Instant::now(), Some(DEPENDENCY_BOUND)).await?;
        Ok(Took::Place)
    }
}
