//! Which period each fact counts in: found, created on demand, or nowhere.

use sqlx::PgConnection;

use super::{Attempt, Rule};
use crate::aggregator::rules::Rules;
use crate::domain::clock::Micros;
use crate::domain::fact::Fact;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::store::definitions::Definitions;
use crate::store::fold_periods::{self, FoldPeriod, Hold};

/// One (generation, period start) of a fold.
#[derive(Debug)]
pub(super) struct Resolved {
    generation: BoardGenerationId,
    period_start: Micros,
    rule: Option<Rule>,
    /// The latest `received_at` of its facts.
    last_received: Micros,
    /// When the schedule says that it ends.
    ends_at: Option<Micros>,
    /// The period's row, locked; `None`: its generation is retired or gone, and its facts count nowhere.
    pub(super) found: Option<FoldPeriod>,
    /// Facts that came too late.
    pub(super) late: i64,
}

impl Resolved {
    pub(super) fn place(&self) -> (BoardGenerationId, Micros) {
        (self.generation, self.period_start)
    }

    /// In which row and how its facts count; `None`: not at all.
    pub(super) fn counts(&self) -> Option<(i64, Rule)> {
        Some((self.found?.id, self.rule?))
    }

    /// Late by the pure rule (fine print 6), or frozen: nothing may change standings that were settled.
    pub(super) fn is_late(&self, received_at: Micros) -> bool {
        self.found
            .zip(self.rule)
            .is_none_or(|(found, rule)| found.closed || found.period.is_late(received_at, rule.grace_seconds))
    }
}

/// What came of looking for a fold's periods.
#[derive(Debug)]
pub(super) enum Resolving {
    /// All that there are, locked, in the order of the facts.
    Done(Vec<Resolved>),
    /// These must be created first.
    Missing(NewPeriods),
    /// Some facts are late by what the rows say (one is frozen), and late facts are counted under [`Hold::Alone`].
    Late,
}

/// Periods to be created.
#[derive(Debug, Default)]
pub(super) struct NewPeriods {
    pub(super) generations: Vec<i32>,
    pub(super) starts: Vec<Micros>,
    pub(super) ends: Vec<Option<Micros>>,
}

/// The periods of `facts` (sorted by generation and start), in the same order, each locked against being closed.
pub(super) async fn resolve(
    transaction: &mut PgConnection,
    rules: &Rules,
    facts: &[Fact<'_>],
    attempt: Attempt,
) -> Result<Resolving, sqlx::Error> {
    let mut resolved = places(rules, facts).await?;
    let hold = if resolved.iter().any(has_late) { Hold::Alone } else { attempt.hold };
    let (generations, starts): (Vec<i32>, Vec<Micros>) =
        resolved.iter().filter(|r| r.rule.is_some()).map(|r| (r.generation.0, r.period_start)).unzip();
    for found in fold_periods::lock(transaction, hold, &generations, &starts).await? {
        let place = (found.generation, found.period.starts_at);
        if let Ok(at) = resolved.binary_search_by_key(&place, Resolved::place) {
            resolved[at].found = Some(found);
        }
    }
    if attempt.may_create && resolved.iter().any(is_missing) {
        return Ok(Resolving::Missing(missing(&resolved)));
    }
    if hold == Hold::Shared && resolved.iter().any(|r| r.counts().is_some() && r.is_late(r.last_received)) {
        return Ok(Resolving::Late);
    }
    Ok(Resolving::Done(resolved))
}

/// Where the facts count, by the definitions; not looked for yet.
async fn places(rules: &Rules, facts: &[Fact<'_>]) -> Result<Vec<Resolved>, sqlx::Error> {
    let mut places: Vec<(BoardGenerationId, Micros, Micros)> = Vec::new();
    for fact in facts {
        match places.last_mut() {
            Some((generation, start, last)) if (*generation, *start) == (fact.generation, fact.period_start) => {
                *last = fact.received_at.max(*last);
            }
            _ => places.push((fact.generation, fact.period_start, fact.received_at)),
        }
    }
    let mut definitions = rules.current();
    if places.iter().any(|(generation, _, _)| !definitions.boards.contains_key(generation)) {
        rules.reload().await?;
        definitions = rules.current();
    }
    let unresolved = |(generation, period_start, last_received)| Resolved {
        generation,
        period_start,
        rule: rule(&definitions, generation),
        last_received,
        ends_at: definitions.boards.get(&generation).and_then(|b| b.schedule.period_at(period_start).ends_at),
        found: None,
        late: 0,
    };
    Ok(places.into_iter().map(unresolved).collect())
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
    let period = Period { starts_at: resolved.period_start, ends_at: resolved.ends_at };
    resolved.rule.is_some_and(|rule| period.is_late(resolved.last_received, rule.grace_seconds))
}

fn missing(resolved: &[Resolved]) -> NewPeriods {
    let mut periods = NewPeriods::default();
    for missing in resolved.iter().filter(|r| is_missing(r)) {
        periods.generations.push(missing.generation.0);
        periods.starts.push(missing.period_start);
        periods.ends.push(missing.ends_at);
    }
    periods
}
