//! From new rows to packed score facts, by fold shard.

use std::collections::HashMap;

use crate::domain::board::CompiledBoard;
use crate::domain::clock::Micros;
use crate::domain::fact::{FOLD_SHARDS, Fact, FactPacker, shard_of};
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::domain::score::Extraction;
use crate::store::definitions::Definitions;
use crate::store::events::{EventRow, PackedFacts};

/// Makes facts; keeps the last period of each board, because neighbouring events mostly share it.
#[derive(Debug, Default)]
pub struct FactMaker {
    periods: HashMap<BoardGenerationId, Period>,
}

impl FactMaker {
    /// What `rows`, all newly stored, mean to the leaderboards they feed.
    pub fn make<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a EventRow<'a>>,
        definitions: &Definitions,
    ) -> Vec<PackedFacts> {
        let mut packers: [FactPacker; FOLD_SHARDS as usize] = Default::default();
        for row in rows {
            let Some(boards) = definitions.feeds.get(&row.game_id).and_then(|f| f.get(row.event.event_type)) else {
                continue;
            };
            for board in boards {
                if let Some(fact) = self.fact(row, board) {
                    packers[usize::from(shard_of(fact.generation, fact.player_id))].push(&fact);
                }
            }
        }
        let packed = packers.into_iter().zip(0i16..).filter_map(|(packer, shard)| {
            let (bytes, count, min_received_at) = packer.finish()?;
            Some(PackedFacts { shard, count: i32::try_from(count).unwrap_or(i32::MAX), min_received_at, bytes })
        });
        packed.collect()
    }

    fn fact<'a>(&mut self, row: &EventRow<'a>, board: &CompiledBoard) -> Option<Fact<'a>> {
        let Extraction::Score { score, subscore, metadata } =
            board.extractor.extract(row.event.payload, row.from_server)
        else {
            return None;
        };
        Some(Fact {
            generation: board.generation.id,
            period_start: self.period_start(board, row.event.occurred_at),
            player_id: row.event.player_id,
            score,
            subscore,
            occurred_at: row.event.occurred_at,
            event_id: row.event.event_id,
            received_at: row.received_at,
            metadata,
        })
    }

    fn period_start(&mut self, board: &CompiledBoard, at: Micros) -> Micros {
        let period = self.periods.entry(board.generation.id).or_insert_with(|| board.schedule.period_at(at));
        if !period.contains(at) {
            *period = board.schedule.period_at(at);
        }
        period.starts_at
    }
}
