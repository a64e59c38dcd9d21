//! Which period each fact counts in: found, made beforehand, or nowhere.

use std::collections::HashSet;

use crate::domain::board::{GenerationState, Operator, Order};
use crate::domain::clock::Micros;
use crate::domain::fact::Fact;
use crate::domain::ids::BoardGenerationId;
use crate::store::definitions::Definitions;
use crate::store::fold_periods::{self, FoldPeriod, Hold, Of, Place};
use crate::store::{Connection, StoreError};

/// How a fold goes about it.
#[derive(Debug)]
pub(super) struct Attempt {
    /// How firmly it locks its periods, unless facts are late: then alone.
    pub(super) hold: Hold,
    /// Periods that were missing and that somebody was asked to create. Those that are missing still are final by an
    /// earlier definition, or their generation is retired.
    pub(super) created: HashSet<Place>,
}

/// How a generation counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) operator: Operator,
    pub(super) order: Order,
    pub(super) grace_seconds: u32,
    pub(super) state: GenerationState,
}

/// One generation and period of a fold.
#[derive(Debug)]
pub(super) struct Resolved {
    place: Place,
    rule: Option<Rule>,
    /// The latest `received_at` of its facts.
    last_received: Micros,
    /// The period's row, locked; `None`: its generation is retired or gone, and its facts count nowhere.
    pub(super) found: Option<FoldPeriod>,
    /// Facts that came too late.
    pub(super) late: i64,
}

impl Resolved {
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// As [`Resolved::place`], by the name of the row that it is written to.
    pub(super) fn written(&self) -> Place {
        (self.place.0, self.found.map_or(self.place.1, |found| found.period))
    }

    /// Whether it is counted in a period that ends at another moment.
    pub(super) fn is_instead(&self) -> bool {
        self.written() != self.place
    }

    /// In which row and how its facts count; `None`: not at all.
    pub(super) fn counts(&self) -> Option<(i64, Rule)> {
        Some((self.found?.id, self.rule?))
    }

    /// Late by its columns (docs/rules.md#stored-columns-decide-lateness), or frozen: nothing may change standings that
    /// were settled.
    pub(super) fn is_late(&self, received_at: Micros) -> bool {
        self.found
            .zip(self.rule)
            .is_none_or(|(found, rule)| found.closed || found.period.is_late(received_at, rule.grace_seconds))
    }

    /// Notes a row that may be the one. One of this start and another end stands in only where there is no better one:
    /// a program with another calendar made it, and a generation has one of a start.
    fn note_found(&mut self, found: FoldPeriod) {
        if self.found.is_none_or(|other| other.period != self.place.1) {
            self.found = Some(found);
        }
    }

    /// Notes a fact that came too late. What an earlier definition closed has heard of it through the live generation.
    pub(super) fn note_late(&mut self) {
        let live = self.rule.is_some_and(|rule| rule.state == GenerationState::Live);
        if live || self.found.is_some_and(|found| found.own) {
            self.late += 1;
        }
    }
}

/// What came of looking for a fold's periods.
#[derive(Debug)]
pub(super) enum Resolving {
    /// All that there are, locked, in the order of the facts.
    Done(Vec<Resolved>),
    /// These must be created first.
    Missing(Vec<Place>),
    /// Some facts are late by what the rows say (one is frozen), and late facts are counted under [`Hold::Alone`].
    Late,
}

/// The periods of `facts` (sorted by generation and period), in the same order, each locked against being closed.
pub(super) async fn resolve(
    transaction: &mut Connection,
    definitions: &Definitions,
    facts: &[Fact<'_>],
    attempt: &Attempt,
) -> Result<Resolving, StoreError> {
    let mut resolved = places(definitions, facts);
    let hold = if resolved.iter().any(has_late) { Hold::Alone } else { attempt.hold };
    let at: Vec<usize> = (0..resolved.len()).filter(|at| resolved[*at].rule.is_some()).collect();
    let wanted: Vec<Place> = at.iter().map(|at| resolved[*at].place).collect();
    // Where one could not be created, an earlier definition may have closed it.
    let of = if attempt.created.is_empty() { Of::Generation } else { Of::Leaderboard };
    for (index, found) in fold_periods::lock(transaction, hold, of, &wanted).await? {
        if let Some(resolved) = at.get(index).and_then(|at| resolved.get_mut(*at)) {
            resolved.note_found(found);
        }
    }
    let is_to_be_created = |r: &&Resolved| is_missing(r) && !attempt.created.contains(&r.place);
    let missing: Vec<Place> = resolved.iter().filter(is_to_be_created).map(|r| r.place).collect();
    if !missing.is_empty() {
        return Ok(Resolving::Missing(missing));
    }
    if hold == Hold::Shared && resolved.iter().any(|r| r.counts().is_some() && r.is_late(r.last_received)) {
        return Ok(Resolving::Late);
    }
    Ok(Resolving::Done(resolved))
}

/// Where the facts count, by the definitions; not looked for yet.
fn places(definitions: &Definitions, facts: &[Fact<'_>]) -> Vec<Resolved> {
    let mut places: Vec<(Place, Micros)> = Vec::new();
    for fact in facts {
        let of_fact = (fact.generation, fact.period);
        match places.last_mut() {
            Some((place, last)) if *place == of_fact => *last = fact.received_at.max(*last),
            _ => places.push((of_fact, fact.received_at)),
        }
    }
    let unresolved = |(place, last_received): (Place, Micros)| {
        let rule = rule(definitions, place.0);
        Resolved { place, rule, last_received, found: None, late: 0 }
    };
    places.into_iter().map(unresolved).collect()
}

fn rule(definitions: &Definitions, generation: BoardGenerationId) -> Option<Rule> {
    let board = &definitions.boards.get(&generation)?.generation;
    let definition = &board.spec.definition;
    Some(Rule {
        operator: definition.operator,
        order: definition.order,
        grace_seconds: definition.grace_seconds,
        state: board.state,
    })
}

fn is_missing(resolved: &Resolved) -> bool {
    resolved.rule.is_some() && resolved.found.is_none()
}

/// Whether some of its facts are late by the pure rule.
fn has_late(resolved: &Resolved) -> bool {
    let Resolved { place: (_, period), last_received, rule, .. } = resolved;
    rule.is_some_and(|rule| period.is_late(*last_received, rule.grace_seconds))
}
