//! What a stored event means to a leaderboard: the same rules that the worker applies to new ones.

use crate::domain::board::CompiledBoard;
use crate::domain::fact::Fact;
use crate::domain::period::Period;
use crate::domain::score::Extraction;
use crate::store::event_scan::StoredEvent;

/// The fact that a stored event of the right game gives, and its period; `None`: it does not count for the board.
pub fn fact_of<'a>(board: &CompiledBoard, event: &'a StoredEvent) -> Option<(Fact<'a>, Period)> {
    if event.event_type != board.generation.spec.definition.event_type.as_str() {
        return None;
    }
    let Extraction::Score { score, subscore, metadata } = board.extractor.extract(&event.payload, event.from_server)
    else {
        return None;
    };
    let period = board.schedule.period_at(event.occurred_at);
    let fact = Fact {
        generation: board.generation.id,
        period_start: period.starts_at,
        player_id: &event.player_id,
        score,
        subscore,
        occurred_at: event.occurred_at,
        event_id: event.event_id,
        received_at: event.received_at,
        metadata,
    };
    Some((fact, period))
}

/// Likewise, without what came too late for its period.
pub fn timely_fact_of<'a>(board: &CompiledBoard, event: &'a StoredEvent) -> Option<Fact<'a>> {
    let (fact, period) = fact_of(board, event)?;
    let grace = board.generation.spec.definition.grace_seconds;
    (!period.is_late(event.received_at, grace)).then_some(fact)
}
