//! Stored events, read a partition after the other, in chunks: facts and cursor move in one transaction.
//!
//! A month may be half in the baseline of others. A build that starts from their baseline leaves out what is there; one
//! that does not reads it as well, and writes it to its own baseline, as retention goes on behind it only.

use std::collections::BTreeSet;

use super::{Builder, Memory, Outcome};
use crate::aggregator::baseline::add;
use crate::aggregator::tenure::JobError;
use crate::domain::fact::{Fact, fact_of, timely_fact_of};
use crate::domain::month::Month;
use crate::domain::packed_facts::{FactPacker, PackedFacts};
use crate::runtime::crash_points::crash_point;
use crate::store::baseline::{self, Covered};
use crate::store::event_scan::{self, GameScan, ScanKey, StoredEvent};
use crate::store::fold_periods::Place;
use crate::store::recompute_steps as steps;
use crate::store::{Connection, facts, final_periods, partitions};

/// What of one month is read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    month: Month,
    /// Events up to this key are in the baseline of others, and belong into that of the generation that is built.
    covered: Option<ScanKey>,
    /// The planner's estimate of how many events there are in all months.
    total: i64,
}

enum Scanned {
    More(ScanKey),
    MonthDone,
    Superseded,
}

impl Builder<'_> {
    /// Step 2. `Some`: it ended early.
    pub(super) async fn scan(&self, memory: &mut Memory) -> Result<Option<Outcome>, JobError> {
        let (months, total, coverage) = {
            let mut connection = self.context.pool.acquire().await?;
            let listed = partitions::list(&mut connection).await?;
            let total: i64 = listed.iter().map(|p| p.estimated_rows.max(0)).sum();
            let months: Vec<Month> = listed.iter().map(partitions::Partition::month).collect();
            (months, total, baseline::coverage(&mut connection).await?)
        };
        let begun = self.building.cursor;
        let leaves_out = self.building.starts_from_baseline();
        for month in months {
            let mut after = match begun {
                Some((reached, _)) if month < reached => continue,
                Some((reached, key)) if month == reached => key,
                _ => None,
            }
            .unwrap_or(ScanKey::before(self.building.generation.game_id));
            let mut reading = Reading { month, covered: None, total };
            match coverage.get(&month) {
                // As good as dropped: its table goes at any moment.
                Some(Covered::Everything) => continue,
                // In the baseline already: all of this game up to there, or all of it, or nothing.
                Some(Covered::UpTo(key)) if leaves_out && key.game_id > after.game_id => continue,
                Some(Covered::UpTo(key)) if leaves_out && key.game_id == after.game_id => after = after.max(*key),
                Some(Covered::UpTo(key)) if !leaves_out => reading.covered = Some(*key),
                _ => {}
            }
            loop {
                if let Some(early) = self.yield_to_workers(memory).await? {
                    return Ok(Some(early));
                }
                match self.scan_chunk(reading, after, memory).await {
                    Ok(Scanned::More(key)) => after = key,
                    Ok(Scanned::MonthDone) => {
                        memory.pace.begin_anew();
                        break;
                    }
                    Ok(Scanned::Superseded) => return Ok(Some(Outcome::Superseded)),
                    Err(error) if error.took_too_long() && memory.pace.took_too_long() => {
                        tracing::info!(events = memory.pace.limit(), "a chunk of a recompute took too long; halved");
                    }
                    Err(error) => return Err(error),
                }
                crash_point("recompute::after_chunk");
            }
        }
        let mut transaction = self.tenure.begin().await?;
        steps::finish_scan(&mut transaction, self.building.generation.id, self.context.clock.now()).await?;
        transaction.commit().await?;
        Ok(None)
    }

    async fn scan_chunk(&self, reading: Reading, after: ScanKey, memory: &mut Memory) -> Result<Scanned, JobError> {
        let _chunk = self.turn.chunk().await;
        let Reading { month, covered, total } = reading;
        let generation = &self.building.generation;
        let scan = GameScan {
            range: (month.starts_at(), month.ends_at()),
            event_type: generation.spec.definition.event_type.as_str(),
            stamped_before: generation.since_generation,
            players: (0, 1),
            limit: memory.pace.limit(),
        };
        let mut transaction = self.tenure.begin().await?;
        let covered = covered.filter(|covered| after < *covered);
        if covered.is_some() {
            // Retention may be writing the baseline of this generation for a month before.
            baseline::stand_still(&mut transaction).await?;
        }
        let chunk = event_scan::next_of_game(&mut transaction, &scan, after).await?;
        let Some(reached) = chunk.reached else { return Ok(Scanned::MonthDone) };
        if let Some(covered) = covered {
            let events = chunk.events.iter().filter(|event| event.key() <= covered);
            let facts = events.filter_map(|event| timely_fact_of(&self.board, &event.occurrence()));
            add(&mut transaction, facts.map(|fact| (&self.board, fact)).collect()).await?;
        }
        let packed = self.pack(&mut transaction, &chunk.events).await?;
        let rows = facts::insert_known(&mut transaction, &packed).await?;
        let saved =
            steps::save_cursor(&mut transaction, generation.id, month, Some(reached), chunk.looked_at, total).await?;
        if !saved {
            return Ok(Scanned::Superseded);
        }
        transaction.commit().await?;
        memory.pace.brought(chunk.looked_at);
        memory.cursor = Some((month, Some(reached)));
        memory.makes_facts = !rows.is_empty();
        if let Some(known) = &mut memory.rows {
            known.extend(rows);
        }
        (self.context.announce_facts)();
        Ok(Scanned::More(reached))
    }

    /// What the events mean to the board, but to final periods, which stay as they are. No period waits for these
    /// facts: what players see is the live generation, which has counted their events.
    async fn pack(&self, connection: &mut Connection, events: &[StoredEvent]) -> Result<Vec<PackedFacts>, JobError> {
        let facts: Vec<Fact<'_>> =
            events.iter().filter_map(|event| fact_of(&self.board, &event.occurrence())).collect();
        let places: BTreeSet<Place> = facts.iter().map(|fact| (fact.generation, fact.period)).collect();
        let places: Vec<Place> = places.into_iter().collect();
        let frozen = final_periods::among(connection, &places).await?;
        let mut packer = FactPacker::default();
        for fact in facts.iter().filter(|fact| !frozen.contains(&(fact.generation, fact.period))) {
            packer.push(fact, None);
        }
        Ok(packer.finish())
    }
}
