//! What dropped events have left in the live generation's baseline, taken over by the one that is built.

use std::collections::BTreeSet;

use super::{Builder, Outcome};
use crate::aggregator::tenure::JobError;
use crate::domain::board::Definition;
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::store::baseline::{self, EntryKey};
use crate::store::entries::{self, FreshEntry};
use crate::store::event_scan::Pace;
use crate::store::fold_periods::{self, Place};
use crate::store::recompute_steps::{self as steps, BaselineRow};
use crate::store::{Connection, final_periods, markers};

/// A row of the baseline: start of its period, player.
type RowKey = (Micros, String);

impl Builder<'_> {
    /// Step 1. Rows that an interrupted attempt took over are not taken twice. `Some`: it ended early.
    pub(super) async fn take_over_baseline(&self, pace: &mut Pace) -> Result<Option<Outcome>, JobError> {
        let mut transaction = self.tenure.begin().await?;
        baseline::stand_still(&mut transaction).await?;
        transaction.commit().await?;
        let Some((live, _)) = self.building.live.as_ref().filter(|_| self.building.starts_from_baseline()) else {
            return Ok(None);
        };
        let id = self.building.generation.id;
        let mut after = {
            let mut connection = self.context.pool.acquire().await?;
            steps::last_of_baseline(&mut connection, id).await?
        };
        loop {
            if let Some(early) = self.ends_early() {
                return Ok(Some(early));
            }
            match self.take_over_chunk(*live, after.as_ref(), pace).await {
                Ok(Some(last)) => after = Some(last),
                Ok(None) => return Ok(None),
                Err(error) if error.took_too_long() && pace.took_too_long() => {
                    tracing::info!(rows = pace.limit(), "a chunk of the baseline took too long to take over; halved");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes what follows `after`; says where it ended, `None`: nothing followed.
    async fn take_over_chunk(
        &self,
        live: BoardGenerationId,
        after: Option<&RowKey>,
        pace: &mut Pace,
    ) -> Result<Option<RowKey>, JobError> {
        let _chunk = self.turn.chunk().await;
        let mut transaction = self.tenure.begin().await?;
        let rows = steps::baseline_after(&mut transaction, live, after, pace.limit()).await?;
        let brought = rows.len() as i64;
        let Some(last) = rows.last().map(|row| (row.starts_at, row.player_id.clone())) else { return Ok(None) };
        self.take_over(&mut transaction, rows).await?;
        transaction.commit().await?;
        pace.brought(brought);
        Ok(Some(last))
    }

    /// Takes rows of the live generation's baseline over, but those of final periods: baseline and entries of the new
    /// one. No marker: Redis gets the whole board later.
    async fn take_over(&self, transaction: &mut Connection, rows: Vec<BaselineRow>) -> Result<(), JobError> {
        let id = self.building.generation.id;
        let named = |row: &BaselineRow| {
            let ends_at = row.ends_at.unwrap_or_else(|| self.board.schedule.period_at(row.starts_at).ends_at);
            (id, Period { starts_at: row.starts_at, ends_at })
        };
        let places: BTreeSet<Place> = rows.iter().map(named).collect();
        let mut places: Vec<Place> = places.into_iter().collect();
        let frozen = final_periods::among(transaction, &places).await?;
        places.retain(|place| !frozen.contains(place));
        fold_periods::create(transaction, &places).await?;
        let locked = steps::lock_periods(transaction, &places).await?;
        let states: Vec<(EntryKey, EntryState)> = rows
            .into_iter()
            .map(|row| (named(&row), row))
            .filter(|(place, _)| !frozen.contains(place))
            .map(|((generation, period), row)| ((generation, period, row.player_id), row.state))
            .collect();
        baseline::write(transaction, &states).await?;
        let Definition { operator, order, .. } = self.building.generation.spec.definition;
        // As a fold does, in the order of the entries' key.
        let mut fresh: Vec<FreshEntry<'_>> = Vec::with_capacity(states.len());
        for ((generation, period, player_id), state) in &states {
            let Some(&period_id) = locked.get(&(*generation, *period)) else { continue };
            fresh.push(FreshEntry { period_id, player_id, operator, order, state });
        }
        if !fresh.is_empty() {
            let version = markers::next_version(transaction).await?;
            entries::merge(transaction, version, &fresh).await?;
        }
        Ok(())
    }
}
