//! Which period each fact counts in: found, created on demand, or nowhere.

use sqlx::PgConnection;

use super::Rule;
use crate::aggregator::rules::Rules;
use crate::domain::clock::Micros;
use crate::domain::fact::Fact;
use crate::domain::ids::BoardGenerationId;
use crate::store::definitions::Definitions;
use crate::store::fold_periods::{self, FoldPeriod};

/// One (generation, period start) of a fold.
#[derive(Debug)]
pub(super) struct Resolved {
    generation: BoardGenerationId,
    period_start: Micros,
    rule: Option<Rule>,
    /// The period's row, locked; `None`: its generation is retired or gone, and its facts count nowhere.
    pub(super) found: Option<FoldPeriod>,
    /// Facts that came too late.
    pub(super) late: i64,
}

impl Resolved {
    pub(super) fn place(&self) -> (BoardGenerationId, Micros) {
        (self.generation, self.period_start)
    }

    /// How its facts count; `None`: not at all.
    pub(super) fn rule(&self) -> Option<Rule> {
        self.found.and(self.rule)
    }

    /// Late by the pure rule (fine print 6), or frozen: nothing may change standings that were settled.
    pub(super) fn is_late(&self, received_at: Micros) -> bool {
        self.found
            .zip(self.rule)
            .is_none_or(|(found, rule)| found.closed || found.period.is_late(received_at, rule.grace_seconds))
    }
}

/// The periods of `facts` (sorted by generation and start), in the same order, each locked against being closed.
pub(super) async fn resolve(
    transaction: &mut PgConnection,
    rules: &Rules,
    facts: &[Fact<'_>],
) -> Result<Vec<Resolved>, sqlx::Error> {
    let mut places: Vec<(BoardGenerationId, Micros)> = facts.iter().map(|f| (f.generation, f.period_start)).collect();
    places.dedup();
    let mut definitions = rules.current();
    if places.iter().any(|(generation, _)| !definitions.boards.contains_key(generation)) {
        rules.reload().await?;
        definitions = rules.current();
    }
    let mut resolved: Vec<Resolved> = places
        .into_iter()
        .map(|(generation, period_start)| Resolved {
            generation,
            period_start,
            rule: rule(&definitions, generation),
            found: None,
            late: 0,
        })
        .collect();
    find(transaction, &mut resolved).await?;
    if resolved.iter().any(is_missing) {
        create(transaction, &definitions, &resolved).await?;
        find(transaction, &mut resolved).await?;
    }
    Ok(resolved)
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

async fn find(transaction: &mut PgConnection, resolved: &mut [Resolved]) -> Result<(), sqlx::Error> {
    let (generations, starts): (Vec<i32>, Vec<Micros>) =
        resolved.iter().filter(|r| is_missing(r)).map(|r| (r.generation.0, r.period_start)).unzip();
    if generations.is_empty() {
        return Ok(());
    }
    for found in fold_periods::lock(transaction, &generations, &starts).await? {
        let place = (found.generation, found.period.starts_at);
        if let Ok(at) = resolved.binary_search_by_key(&place, Resolved::place) {
            resolved[at].found = Some(found);
        }
    }
    Ok(())
}

async fn create(
    transaction: &mut PgConnection,
    definitions: &Definitions,
    resolved: &[Resolved],
) -> Result<(), sqlx::Error> {
    let (mut generations, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for missing in resolved.iter().filter(|r| is_missing(r)) {
        let Some(board) = definitions.boards.get(&missing.generation) else { continue };
        generations.push(missing.generation.0);
        starts.push(missing.period_start);
        ends.push(board.schedule.period_at(missing.period_start).ends_at);
    }
    fold_periods::create(transaction, &generations, &starts, &ends).await
}
