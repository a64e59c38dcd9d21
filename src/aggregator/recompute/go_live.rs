//! The last step of a recompute: what it has made becomes what players see.

use super::{Builder, Outcome};
use crate::aggregator::tenure::JobError;
use crate::ranking::Still;
use crate::runtime::crash_points::crash_point;
use crate::store::swap::{self, Swap};
use crate::store::{board_versions, final_periods};

/// Entries removed in one transaction where a period has become final meanwhile.
const REMOVED_AT_ONCE: i64 = 5_000;

impl Builder<'_> {
    /// What players see until the swap goes on counting, and what comes instead may have nothing of it. Its version has
    /// to follow all that was shown.
    async fn follow_what_was_shown(&self) -> Result<(), JobError> {
        let generation = self.building.generation.id;
        if board_versions::is_behind(&self.context.pool, generation).await? {
            let version = board_versions::issue(&self.context.pool, generation).await?;
            self.context.ranking.raise_version(generation, version).await?;
        }
        Ok(())
    }

    async fn let_folds_end(&self) -> Result<(), JobError> {
        if let Some((replaced, _)) = self.building.live {
            swap::let_folds_end(&self.context.pool, replaced).await?;
        }
        Ok(())
    }

    /// Step 4. Nothing has to happen after it: final periods are read from the generation that counted them.
    pub(super) async fn swap(&self) -> Result<Outcome, JobError> {
        let generation = &self.building.generation;
        loop {
            // Nearly all that there is to follow, should this process die right after the commit.
            self.follow_what_was_shown().await?;
            let mut transaction = self.tenure.begin().await?;
            match swap::swap(&mut transaction, generation, self.context.clock.now()).await? {
                Swap::Done => {
                    transaction.commit().await?;
                    crash_point("recompute::after_swap");
                    // Before anybody is told. A fold of what was live may have its version, and commit only now.
                    let folds_ended = self.let_folds_end().await;
                    if let Err(error) = self.follow_what_was_shown().await.and(folds_ended) {
                        tracing::warn!(generation = %generation.id, %error, "a board's version may have gone back");
                    }
                    (self.context.directory_changed)();
                    return Ok(Outcome::Live);
                }
                Swap::Superseded => return Ok(Outcome::Superseded),
                Swap::InTheWay if self.context.stop.is_cancelled() => return Ok(Outcome::Stopped),
                Swap::InTheWay => {
                    transaction.rollback().await?;
                    if !self.clear_the_way().await? {
                        return Ok(Outcome::Stopped);
                    }
                    let era = self.context.ranking.era().await?;
                    let mut transaction = self.tenure.begin().await?;
                    let periods = swap::make_way(&mut transaction, generation).await?;
                    transaction.commit().await?;
                    // Nobody reads them; a crash here leaves them to the next rebuild, with which another
                    // attempt begins.
                    for period in &periods {
                        self.context.ranking.remove_period(generation.id, period, Still::InEra(&era)).await?;
                    }
                }
            }
        }
    }

    /// Removes the entries of periods that became final meanwhile, chunk by chunk. `false`: the process stops.
    async fn clear_the_way(&self) -> Result<bool, JobError> {
        while !self.context.stop.is_cancelled() {
            let mut transaction = self.tenure.begin().await?;
            let removed =
                final_periods::remove_some_entries(&mut transaction, self.building.generation.id, REMOVED_AT_ONCE)
                    .await?;
            transaction.commit().await?;
            if removed == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
