//! Entries against what the baseline and the stored events say: leaderboards equal what is computed from what was
//! stored (README.md#what-is-promised). One part of the players at a time, so that memory is bounded; the events are
//! read once per part.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::AuditError;
use crate::domain::board::CompiledBoard;
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::fact::{Fact, timely_fact_of};
use crate::domain::ids::BoardGenerationId;
use crate::domain::packed_facts;
use crate::domain::period::Period;
use crate::store::audit::{self, Place};
use crate::store::baseline::{self, Covered};
use crate::store::event_scan::{self, GameScan, ScanKey};
use crate::store::{Connection, Pool, final_periods, partitions};

/// Entries of one pass: about 50 MB.
const ENTRIES_PER_PASS: u64 = 100_000;
/// Events read at once.
const CHUNK: i64 = 5_000;
/// Rows of waiting facts read at once.
const FACT_ROWS: i64 = 200;
/// Differences that are reported one by one.
const REPORTED: usize = 100;

/// What differed.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct EntriesAudit {
    /// Entries computed from the events.
    pub computed: u64,
    /// Entries that are not what the events say.
    pub differing: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// One entry that is not what the events say.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Difference {
    /// The period's start.
    pub period_start: Micros,
    /// Its end; none: it never ends.
    pub period_end: Option<Micros>,
    /// Whose.
    pub player_id: String,
    /// Score, subscore, plays and `reached_at` as the events say.
    pub computed: Option<Values>,
    /// As stored.
    pub stored: Option<Values>,
}

/// What of an entry a reader can judge.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Values {
    /// Exact score or sum, as text: sums may exceed what JSON numbers carry.
    pub score: String,
    /// Likewise.
    pub subscore: String,
    /// Facts counted.
    pub plays: i64,
    /// When it was reached.
    pub reached_at: Micros,
}

impl From<&EntryState> for Values {
    fn from(state: &EntryState) -> Self {
        Self {
            score: state.score.to_string(),
            subscore: state.subscore.to_string(),
            plays: state.plays,
            reached_at: state.reached_at,
        }
    }
}

type States = HashMap<Place, EntryState>;

/// Compares every entry of the open periods of a live leaderboard with what the events say. Scores may come in
/// meanwhile: what differs is computed again within one snapshot of the database, in which entries and waiting facts
/// together must be exactly what the events say. `None`: another definition took its place meanwhile.
///
/// # Errors
/// [`AuditError`].
pub async fn audit_entries(pool: &Pool, board: &CompiledBoard) -> Result<Option<EntriesAudit>, AuditError> {
    let parts = {
        let mut connection = pool.acquire().await?;
        let periods = audit::open_periods(&mut connection, board.generation.id).await?;
        let ids: Vec<i64> = periods.iter().map(|p| p.id).collect();
        let entries: u64 = audit::counts(&mut connection, &ids).await?.values().sum();
        entries / ENTRIES_PER_PASS + 1
    };
    let parts = i32::try_from(parts).unwrap_or(i32::MAX);
    let mut found = EntriesAudit::default();
    for part in 0..parts {
        let mut connection = pool.acquire().await?;
        let (computed, stored) = pass(&mut connection, board, (part, parts)).await?;
        drop(connection);
        if computed == stored {
            found.computed += computed.len() as u64;
            continue;
        }
        let mut snapshot = pool.begin().await?;
        let _patience = audit::take_snapshot(&mut snapshot).await?;
        // Nobody makes facts for what is not live: its entries stand still while events go on.
        if !audit::is_live(&mut snapshot, board.generation.id).await? {
            snapshot.rollback().await?;
            return Ok(None);
        }
        let (computed, stored) = pass(&mut snapshot, board, (part, parts)).await?;
        snapshot.rollback().await?;
        report(&computed, &stored, &mut found);
    }
    Ok(Some(found))
}

fn report(computed: &States, stored: &States, found: &mut EntriesAudit) {
    found.computed += computed.len() as u64;
    let places: HashSet<&Place> = computed.keys().chain(stored.keys()).collect();
    let mut differing: Vec<&Place> =
        places.into_iter().filter(|place| computed.get(*place) != stored.get(*place)).collect();
    differing.sort_unstable();
    found.differing += differing.len() as u64;
    for place in differing.into_iter().take(REPORTED.saturating_sub(found.differences.len())) {
        found.differences.push(Difference {
            period_start: place.0.starts_at,
            period_end: place.0.ends_at,
            player_id: place.1.clone(),
            computed: computed.get(place).map(Values::from),
            stored: stored.get(place).map(Values::from),
        });
    }
}

/// What the events say of one part of the players, and what entries and waiting facts say.
async fn pass(
    connection: &mut Connection,
    board: &CompiledBoard,
    players: (i32, i32),
) -> Result<(States, States), AuditError> {
    let generation = board.generation.id;
    let mut stored = audit::entries(connection, generation, players).await?;
    add_waiting(connection, board, players, &mut stored).await?;
    let mut computed = audit::baseline(connection, generation, players).await?;
    let coverage: BTreeMap<_, _> = baseline::coverage(connection).await?.into_iter().collect();
    for partition in partitions::list(connection).await? {
        let mut after = ScanKey::before(board.generation.game_id);
        match coverage.get(&partition.month()) {
            Some(Covered::Everything) => continue,
            Some(Covered::UpTo(key)) if key.game_id > after.game_id => continue,
            Some(Covered::UpTo(key)) if key.game_id == after.game_id => after = *key,
            _ => {}
        }
        let scan = GameScan {
            range: (partition.range_start, partition.range_end),
            event_type: board.generation.spec.definition.event_type.as_str(),
            stamped_before: i32::MAX,
            players,
            limit: CHUNK,
        };
        loop {
            let chunk = event_scan::next_of_game(connection, &scan, after).await?;
            let facts = chunk.events.iter().filter_map(|event| timely_fact_of(board, &event.occurrence())).collect();
            add_open(connection, board, facts, &mut computed).await?;
            match chunk.reached {
                Some(key) => after = key,
                None => break,
            }
        }
    }
    Ok((computed, stored))
}

/// Merges facts that wait into what is stored.
async fn add_waiting(
    connection: &mut Connection,
    board: &CompiledBoard,
    players: (i32, i32),
    stored: &mut States,
) -> Result<(), AuditError> {
    let mut after = 0;
    loop {
        let rows = audit::waiting_facts(connection, after, FACT_ROWS).await?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        after = *last;
        let ends = |_, start| board.schedule.period_at(start).ends_at;
        let facts = rows.iter().flat_map(|(_, packed)| packed_facts::unpack(packed, ends).unwrap_or_default());
        let grace = board.generation.spec.definition.grace_seconds;
        let mut mine: Vec<Fact<'_>> = facts
            .filter(|fact| fact.generation == board.generation.id && !fact.period.is_late(fact.received_at, grace))
            .collect();
        let names: Vec<&str> = mine.iter().map(|fact| fact.player_id).collect();
        let of_part: HashSet<String> = audit::of_part(connection, &names, players).await?;
        mine.retain(|fact| of_part.contains(fact.player_id));
        add_open(connection, board, mine, stored).await?;
    }
}

/// Merges facts but those of final periods: these stay as they are. A period is final by its start and its end; one
/// that shares only its start with a closed one is counted.
async fn add_open(
    connection: &mut Connection,
    board: &CompiledBoard,
    facts: Vec<Fact<'_>>,
    states: &mut States,
) -> Result<(), AuditError> {
    let places: HashSet<(BoardGenerationId, Period)> = facts.iter().map(|f| (f.generation, f.period)).collect();
    let places: Vec<_> = places.into_iter().collect();
    let frozen = final_periods::among(connection, &places).await?;
    for fact in facts.iter().filter(|fact| !frozen.contains(&(fact.generation, fact.period))) {
        add(board, fact, states);
    }
    Ok(())
}

fn add(board: &CompiledBoard, fact: &Fact<'_>, states: &mut States) {
    let definition = &board.generation.spec.definition;
    let fresh = EntryState::from_fact(definition.operator, fact);
    match states.entry((fact.period, fact.player_id.to_owned())) {
        std::collections::hash_map::Entry::Vacant(slot) => {
            slot.insert(fresh);
        }
        std::collections::hash_map::Entry::Occupied(mut slot) => {
            slot.get_mut().merge(definition.operator, definition.order, fresh);
        }
    }
}
