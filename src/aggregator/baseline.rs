//! Folding a month's events into the baseline before it is dropped (fine print 4).

use std::collections::HashMap;
use std::sync::Arc;

use super::schedule::Context;
use super::tenure::{JobError, Tenure};
use crate::domain::board::{CompiledBoard, GenerationState};
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::fact::timely_fact_of;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::domain::month::Month;
use crate::store::baseline::{self, Covered, EntryKey};
use crate::store::definitions::{self, Definitions};
use crate::store::event_scan::{self, ScanKey, StoredEvent};

/// Events of one chunk, and of one transaction.
const CHUNK: i64 = 5_000;

/// What folding a chunk did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// More events follow.
    More,
    /// The month is in the baseline.
    Done,
    /// A recompute is under way: it must find the baseline and the events as they are.
    Recomputing,
}

/// Folds a whole month, chunk by chunk. Resumes where an earlier run stopped.
///
/// # Errors
/// [`JobError`]; what was committed stays.
pub async fn fold_month(context: &Context, tenure: &Tenure, month: Month) -> Result<Step, JobError> {
    loop {
        match fold_chunk(context, tenure, month).await? {
            Step::More if context.stop.is_cancelled() => return Ok(Step::More),
            Step::More => {}
            other => return Ok(other),
        }
    }
}

/// Folds one chunk: entries of the baseline and the cursor change in one transaction.
///
/// # Errors
/// [`JobError`].
pub async fn fold_chunk(context: &Context, tenure: &Tenure, month: Month) -> Result<Step, JobError> {
    let mut transaction = tenure.begin().await?;
    let covered = baseline::lock_progress(&mut transaction, month).await?;
    // After the lock: a recompute that begins later waits for it and finds what this chunk has done.
    if baseline::is_recomputing(&mut transaction).await? {
        return Ok(Step::Recomputing);
    }
    let after = match covered {
        Covered::Everything => return Ok(Step::Done),
        Covered::UpTo(key) => key,
        Covered::Nothing => ScanKey::before(GameId(i32::MIN)),
    };
    let range = (month.starts_at(), month.ends_at());
    let events = event_scan::next_of_all(&mut transaction, range, after, CHUNK).await?;
    let reached = events.last().map(StoredEvent::key);
    if !events.is_empty() {
        let definitions = definitions::load(&mut transaction).await?;
        let closed = baseline::closed_periods(&mut transaction).await?;
        let boards = live_boards(&definitions);
        let mut states = merge(&boards, &events, |key| closed.contains(key));
        let keys: Vec<EntryKey> = states.keys().cloned().collect();
        for (key, stored) in baseline::read(&mut transaction, &keys).await? {
            if let (Some(board), Some(state)) = (definitions.boards.get(&key.0), states.get_mut(&key)) {
                let definition = &board.generation.spec.definition;
                let fresh = std::mem::replace(state, stored);
                state.merge(definition.operator, definition.order, fresh);
            }
        }
        let mut rows: Vec<(EntryKey, EntryState)> = states.into_iter().collect();
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        baseline::write(&mut transaction, &rows).await?;
    }
    baseline::advance(&mut transaction, month, reached, context.clock.now()).await?;
    transaction.commit().await?;
    Ok(if reached.is_some() { Step::More } else { Step::Done })
}

type Feeds<'a> = HashMap<(GameId, &'a str), Vec<&'a Arc<CompiledBoard>>>;

fn live_boards(definitions: &Definitions) -> Feeds<'_> {
    let mut feeds: Feeds<'_> = HashMap::new();
    for board in definitions.boards.values().filter(|b| b.generation.state == GenerationState::Live) {
        let event_type = board.generation.spec.definition.event_type.as_str();
        feeds.entry((board.generation.game_id, event_type)).or_default().push(board);
    }
    feeds
}

fn merge(
    feeds: &Feeds<'_>,
    events: &[StoredEvent],
    is_frozen: impl Fn(&(BoardGenerationId, Micros)) -> bool,
) -> HashMap<EntryKey, EntryState> {
    let mut states: HashMap<EntryKey, EntryState> = HashMap::new();
    for event in events {
        for board in feeds.get(&(event.game_id, event.event_type.as_str())).into_iter().flatten() {
            let Some(fact) = timely_fact_of(board, &event.occurrence()) else { continue };
            if is_frozen(&(fact.generation, fact.period_start)) {
                continue;
            }
            let definition = &board.generation.spec.definition;
            let fresh = EntryState::from_fact(definition.operator, &fact);
            match states.entry((fact.generation, fact.period_start, fact.player_id.to_owned())) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(fresh);
                }
                std::collections::hash_map::Entry::Occupied(mut slot) => {
                    slot.get_mut().merge(definition.operator, definition.order, fresh);
                }
            }
        }
    }
    states
}
