//! Score facts: what one event means to one leaderboard.

use uuid::Uuid;

use super::board::CompiledBoard;
use super::clock::Micros;
use super::ids::BoardGenerationId;
use super::period::Period;
use super::score::Extraction;

/// How many fold shards there are. A shard is folded by one cron at a time; the number is part of the stored
/// data (`score_facts.shard`), so changing it needs a migration that re-shards waiting facts.
pub const FOLD_SHARDS: u16 = 4;

/// The longest metadata that an entry keeps, in bytes of JSON text.
pub const MAX_METADATA_BYTES: usize = 1024;

/// What one event means to one leaderboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact<'a> {
    /// The leaderboard generation it counts for.
    pub generation: BoardGenerationId,
    /// The period it falls in, by `occurred_at`: event time decides (ARCHITECTURE.md#invariants).
    pub period: Period,
    /// Who scored.
    pub player_id: &'a str,
    /// The score, as sent (an `incr` or `decr` board sums it).
    pub score: i64,
    /// The subscore, 0 when the definition has none.
    pub subscore: i64,
    /// When it happened.
    pub occurred_at: Micros,
    /// Which event said so; breaks ties of `occurred_at`.
    pub event_id: Uuid,
    /// When ingest enqueued it (Redis time).
    pub received_at: Micros,
    /// JSON text kept with the entry if this fact decides it.
    pub metadata: Option<&'a str>,
}

/// The shard of an entry: FNV-1a over generation and player, so that it is the same in every process and version.
pub fn shard_of(generation: BoardGenerationId, player_id: &str) -> u16 {
    let mut hash: u32 = 0x811c_9dc5;
    for &byte in generation.0.to_le_bytes().iter().chain(player_id.as_bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    // The low bits of FNV-1a over short inputs are weak; mix the high half in.
    ((hash ^ (hash >> 16)) % u32::from(FOLD_SHARDS)) as u16
}

/// What of an event matters to leaderboards, whether it is on its way into the table or was read from it.
#[derive(Debug, Clone, Copy)]
pub struct Occurrence<'a> {
    /// Its identity.
    pub event_id: Uuid,
    /// Its type.
    pub event_type: &'a str,
    /// Who did it.
    pub player_id: &'a str,
    /// The payload's JSON text.
    pub payload: &'a str,
    /// When it happened.
    pub occurred_at: Micros,
    /// When ingest enqueued it (Redis time).
    pub received_at: Micros,
    /// Whether a server key sent it.
    pub from_server: bool,
}

/// The fact that an event of the board's game gives; `None`: it does not count for the board.
///
/// The one place where an event becomes a fact: the worker, the recompute, the baseline and the audit all ask here.
pub fn fact_of<'a>(board: &CompiledBoard, event: &Occurrence<'a>) -> Option<Fact<'a>> {
    if event.event_type != board.generation.spec.definition.event_type.as_str() {
        return None;
    }
    let Extraction::Score { score, subscore, metadata } = board.extractor.extract(event.payload, event.from_server)
    else {
        return None;
    };
    Some(Fact {
        generation: board.generation.id,
        period: board.schedule.period_at(event.occurred_at),
        player_id: event.player_id,
        score,
        subscore,
        occurred_at: event.occurred_at,
        event_id: event.event_id,
        received_at: event.received_at,
        metadata,
    })
}

/// Likewise, without what came too late for its period.
pub fn timely_fact_of<'a>(board: &CompiledBoard, event: &Occurrence<'a>) -> Option<Fact<'a>> {
    let fact = fact_of(board, event)?;
    let grace = board.generation.spec.definition.grace_seconds;
    (!fact.period.is_late(event.received_at, grace)).then_some(fact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_spread_evenly_and_never_change() {
        let mut counts = [0u32; FOLD_SHARDS as usize];
        for i in 0..40_000 {
            counts[usize::from(shard_of(BoardGenerationId(1), &format!("p-{i}")))] += 1;
        }
        for count in counts {
            assert!((9_000..11_000).contains(&count), "{counts:?}");
        }
        // Stored data depends on these values.
        let shards = ["p-1", "p-2", "player:17"].map(|player| shard_of(BoardGenerationId(1), player));
        assert_eq!(shards, [1, 0, 2]);
    }
}
