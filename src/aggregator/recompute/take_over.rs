//! What dropped events have left in the live generation's baseline, taken over by the one that is built.

use std::collections::BTreeSet;

use super::{BASELINE_CHUNK, Builder, Outcome};
use crate::aggregator::tenure::JobError;
use crate::domain::board::Definition;
use crate::domain::entry::EntryState;
use crate::domain::period::Period;
use crate::store::baseline::{self, EntryKey};
use crate::store::entries::{self, FreshEntry};
use crate::store::fold_periods::{self, Place};
use crate::store::recompute_steps::{self as steps, BaselineRow};
use crate::store::{final_periods, markers};

impl Builder<'_> {
    /// Step 1. Rows that an interrupted attempt took over are not taken twice. `Some`: it ended early.
    pub(super) async fn take_over_baseline(&self) -> Result<Option<Outcome>, JobError> {
        let mut transaction = self.tenure.begin().await?;
        baseline::stand_still(&mut transaction).await?;
        transaction.commit().await?;
        let Some((live, spec)) = &self.building.live else { return Ok(None) };
        if !crate::store::recompute::baseline_survives(spec, &self.building.generation.spec) {
            return Ok(None);
        }
        let id = self.building.generation.id;
        let mut after = {
            let mut connection = self.context.pool.acquire().await?;
            steps::last_of_baseline(&mut connection, id).await?
        };
        loop {
            if let Some(early) = self.ends_early() {
                return Ok(Some(early));
            }
            let _chunk = self.turn.chunk().await;
            let mut transaction = self.tenure.begin().await?;
            let rows = steps::baseline_after(&mut transaction, *live, after.as_ref(), BASELINE_CHUNK).await?;
            let Some(last) = rows.last() else { return Ok(None) };
            after = Some((last.starts_at, last.player_id.clone()));
            self.take_over(&mut transaction, rows).await?;
            transaction.commit().await?;
        }
    }

    /// Takes rows of the live generation's baseline over, but those of final periods: baseline and entries of the new
    /// one. No marker: Redis gets the whole board later.
    async fn take_over(&self, transaction: &mut sqlx::PgConnection, rows: Vec<BaselineRow>) -> Result<(), JobError> {
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
