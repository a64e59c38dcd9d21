//! Folding a month's events into the baseline before it is dropped (docs/rules.md#counted-before-it-is-dropped).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::context::Context;
use super::tenure::{JobError, Tenure};
use crate::domain::board::{BoardGeneration, CompiledBoard, GenerationState};
use crate::domain::entry::EntryState;
use crate::domain::fact::{Fact, timely_fact_of};
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::domain::month::Month;
use crate::store::baseline::{self, Covered, EntryKey};
use crate::store::definitions::{self, Definitions};
use crate::store::event_scan::{self, Pace, ScanKey, StoredEvent};
use crate::store::final_periods;
use crate::store::fold_periods::Place;
use crate::store::{Connection, StoreError};

/// Events of one chunk, and of one transaction.
const CHUNK: i64 = 5_000;

/// What folding a chunk did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// More events follow.
    More,
    /// The month is in the baseline.
    Done,
    /// A recompute has still to read the month: it must find the baseline and the events as they are.
    Recomputing,
    /// Some of the events may count for a leaderboard that this program cannot read: they stay for one that can.
    Unreadable,
}

/// Folds a whole month, chunk by chunk. Resumes where an earlier run stopped.
///
/// # Errors
/// [`JobError`]; what was committed stays.
pub async fn fold_month(context: &Context, tenure: &Tenure, month: Month) -> Result<Step, JobError> {
    let mut pace = Pace::new(CHUNK);
    loop {
        match fold_chunk(context, tenure, month, &mut pace).await {
            Err(error) if error.took_too_long() && pace.took_too_long() => {
                tracing::info!(?month, events = pace.limit(), "a chunk of the baseline took too long; halved");
            }
            Ok(Step::More) if context.stop.is_cancelled() => return Ok(Step::More),
            Ok(Step::More) => {}
            other => return other,
        }
    }
}

/// Folds one chunk: entries of the baseline and the cursor change in one transaction.
///
/// # Errors
/// [`JobError`].
pub async fn fold_chunk(context: &Context, tenure: &Tenure, month: Month, pace: &mut Pace) -> Result<Step, JobError> {
    let mut transaction = tenure.begin().await?;
    let covered = baseline::lock_progress(&mut transaction, month).await?;
    let after = match covered {
        // Whoever has still to read it knows that all of it is in the baseline.
        Covered::Everything => return Ok(Step::Done),
        Covered::UpTo(key) => key,
        Covered::Nothing => ScanKey::before(GameId(i32::MIN)),
    };
    // After the lock: a recompute that begins later waits for it and finds what this chunk has done.
    if let Some((game, generation)) = baseline::in_the_way(&mut transaction, month, covered).await? {
        tracing::warn!(?month, %game, %generation, "not dropping a month: a recompute of this game must still read it");
        return Ok(Step::Recomputing);
    }
    let past = baseline::past(&mut transaction, month).await?;
    let range = (month.starts_at(), month.ends_at());
    let events = event_scan::next_of_all(&mut transaction, range, after, pace.limit()).await?;
    let reached = events.last().map(StoredEvent::key);
    if !events.is_empty() {
        let definitions = definitions::load(&mut transaction).await?;
        let unreadable = |event: &StoredEvent| definitions.unreadable_for(event.game_id, &event.event_type);
        if let Some(generation) = events.iter().find_map(unreadable) {
            tracing::warn!(?month, %generation, "not dropping a month: cannot read a leaderboard that it counts for");
            return Ok(Step::Unreadable);
        }
        let boards = boards_of(&definitions, &past);
        let facts = facts_of(&boards, &events);
        add(&mut transaction, facts).await?;
    }
    baseline::advance(&mut transaction, month, reached, context.clock.now()).await?;
    transaction.commit().await?;
    pace.brought(events.len() as i64);
    Ok(if reached.is_some() { Step::More } else { Step::Done })
}

/// Merges facts into the baseline of their boards. Nobody else may write it meanwhile ([`baseline::read`]).
pub(super) async fn add(connection: &mut Connection, facts: Vec<(&CompiledBoard, Fact<'_>)>) -> Result<(), StoreError> {
    // Frozen standings need no baseline.
    let places: BTreeSet<Place> = facts.iter().map(|(_, fact)| (fact.generation, fact.period)).collect();
    let places: Vec<Place> = places.into_iter().collect();
    let frozen = final_periods::among(connection, &places).await?;
    let boards: HashMap<BoardGenerationId, &CompiledBoard> = facts.iter().map(|(b, _)| (b.generation.id, *b)).collect();
    let mut states = merge(facts.into_iter().filter(|(_, f)| !frozen.contains(&(f.generation, f.period))));
    let keys: Vec<EntryKey> = states.keys().cloned().collect();
    for (key, stored) in baseline::read(connection, &keys).await? {
        if let (Some(board), Some(state)) = (boards.get(&key.0), states.get_mut(&key)) {
            let definition = &board.generation.spec.definition;
            let fresh = std::mem::replace(state, stored);
            state.merge(definition.operator, definition.order, fresh);
        }
    }
    let mut rows: Vec<(EntryKey, EntryState)> = states.into_iter().collect();
    rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    baseline::write(connection, &rows).await
}

type Feeds<'a> = HashMap<(GameId, &'a str), Vec<&'a Arc<CompiledBoard>>>;

/// Boards that count by what is live, and those being built that are `past` the month.
fn boards_of<'a>(definitions: &'a Definitions, past: &HashSet<BoardGenerationId>) -> Feeds<'a> {
    let mut feeds: Feeds<'_> = HashMap::new();
    let counts = |board: &BoardGeneration| board.state == GenerationState::Live || past.contains(&board.id);
    for board in definitions.boards.values().filter(|board| counts(&board.generation)) {
        let event_type = board.generation.spec.definition.event_type.as_str();
        feeds.entry((board.generation.game_id, event_type)).or_default().push(board);
    }
    feeds
}

/// What the events mean to the boards, without what came too late.
fn facts_of<'a>(feeds: &Feeds<'a>, events: &'a [StoredEvent]) -> Vec<(&'a CompiledBoard, Fact<'a>)> {
    let mut facts = Vec::new();
    for event in events {
        for board in feeds.get(&(event.game_id, event.event_type.as_str())).into_iter().flatten() {
            facts.extend(timely_fact_of(board, &event.occurrence()).map(|fact| (&***board, fact)));
        }
    }
    facts
}

fn merge<'a>(facts: impl Iterator<Item = (&'a CompiledBoard, Fact<'a>)>) -> HashMap<EntryKey, EntryState> {
    let mut states: HashMap<EntryKey, EntryState> = HashMap::new();
    for (board, fact) in facts {
        let definition = &board.generation.spec.definition;
        let fresh = EntryState::from_fact(definition.operator, &fact);
        match states.entry((fact.generation, fact.period, fact.player_id.to_owned())) {
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(fresh);
            }
            std::collections::hash_map::Entry::Occupied(mut slot) => {
                slot.get_mut().merge(definition.operator, definition.order, fresh);
            }
        }
    }
    states
}
