//! Rows of facts whose fold Postgres refuses for what is in them, though each is folded alone and the server takes
//! other folds: they are put aside, because everything else of their shard waits behind them. A row holds facts of many
//! games, so it is cut into its facts first, and what is put aside is the one at fault.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::portion::Portion;
use super::rules::Rules;
use super::shards;
use crate::domain::ids::GameId;
use crate::domain::packed_facts::{self, FactPacker, PackedFacts};
use crate::store::definitions::Definitions;
use crate::store::facts::TakenFacts;
use crate::store::failure::{Failure, classify, is_of_the_rows};
use crate::store::leases::{self, Lease};
use crate::store::{Pool, StoreError, facts, write_probe};

/// How often a row must fail alone; and one that takes too long, for which its shard waits each time.
const TIMES: u32 = 3;
const TIMES_TOO_LONG: u32 = 2;
/// Most rows that are remembered: eight bytes each.
const MOST_KNOWN: usize = 100_000;

/// What this process could not fold. Another one may, of another program; this one need not try again, and would for
/// ever. Named by what is in it: ids come again in a database that went back in time.
#[derive(Debug, Default)]
pub struct Unfoldable(Mutex<HashSet<u64>>);

impl Unfoldable {
    /// Whether this row was put aside.
    pub fn has(&self, row: &[u8]) -> bool {
        self.known().contains(&name(row))
    }

    fn note(&self, row: &[u8]) {
        let mut known = self.known();
        if known.len() < MOST_KNOWN {
            known.insert(name(row));
        }
    }

    fn known(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(row: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    row.hash(&mut hasher);
    hasher.finish()
}

/// What failed alone, and how often in a row.
#[derive(Debug, Default)]
pub struct Refused {
    failing: HashMap<i16, (i64, u32)>,
    unfoldable: Arc<Unfoldable>,
}

impl Refused {
    /// Nothing has failed yet; what is put aside is noted in `unfoldable`.
    pub fn new(unfoldable: Arc<Unfoldable>) -> Self {
        Self { failing: HashMap::new(), unfoldable }
    }

    /// A fold of these leases and this portion failed. Cuts the row up or puts it aside that is at fault, if one is
    /// known to be; says whether it did.
    ///
    /// # Errors
    /// [`StoreError`]: then the server may be at fault.
    pub async fn met(
        &mut self,
        pool: &Pool,
        rules: &Rules,
        held: &[Lease],
        portion: Portion,
        error: &StoreError,
    ) -> Result<bool, StoreError> {
        let &[shard] = shards::numbers(held).as_slice() else { return Ok(false) };
        let takes_too_long = classify(error) == Failure::TooMuch;
        if portion.max_facts > 1 || !(takes_too_long || is_of_the_rows(error)) {
            self.failing.remove(&shard);
            return Ok(false);
        }
        let Some(row) = facts::oldest(pool, shard).await? else { return Ok(false) };
        let enough = if takes_too_long { TIMES_TOO_LONG } else { TIMES };
        if self.failed_alone(shard, row) < enough || !write_probe::fold_and_undo(pool).await? {
            return Ok(false);
        }
        let definitions = rules.current();
        let mut transaction = pool.begin().await?;
        if !leases::lock_and_check(&mut transaction, held).await? {
            return Ok(false);
        }
        for taken in facts::take(&mut transaction, &[shard], 1, row - 1).await? {
            let single = cut_up(&definitions, &taken);
            if single.is_empty() && takes_too_long {
                // There is no less of it, and it is not at fault: the next attempt may be quicker.
                return Ok(false);
            }
            if single.is_empty() {
                self.unfoldable.note(&taken.facts);
                facts::set_aside(&mut transaction, &taken).await?;
                tracing::error!(shard, facts = taken.count, %error, "a row of facts cannot be folded; put aside");
                metrics::counter!(crate::telemetry::metrics::FACTS_SET_ASIDE, "role" => "cron").increment(1);
            } else {
                tracing::warn!(shard, facts = taken.count, %error, "a row of facts cannot be folded; cut into its facts");
                facts::insert_parts(&mut transaction, &single, taken.first_id).await?;
            }
        }
        transaction.commit().await?;
        self.failing.remove(&shard);
        Ok(true)
    }

    /// The oldest row of a shard failed alone; how often it has, without another in between.
    fn failed_alone(&mut self, shard: i16, row: i64) -> u32 {
        let (failing, times) = self.failing.entry(shard).or_insert((row, 0));
        if *failing != row {
            (*failing, *times) = (row, 0);
        }
        *times += 1;
        *times
    }
}

/// The facts of a row, a row each; none when it has but one, or is not to be read.
fn cut_up(definitions: &Definitions, row: &TakenFacts) -> Vec<PackedFacts> {
    let facts = packed_facts::unpack(&row.facts, |generation, start| definitions.period_end(generation, start));
    let facts = facts.ok().filter(|facts| facts.len() > 1).unwrap_or_default();
    let held: Option<Vec<GameId>> = row.games.as_ref().map(|games| games.iter().map(|game| GameId(*game)).collect());
    let mut rows = Vec::with_capacity(facts.len());
    for fact in &facts {
        let board = definitions.boards.get(&fact.generation).map(|board| board.generation.game_id);
        let game = board.or_else(|| definitions.unreadable.get(&fact.generation).map(|board| board.game));
        let mut packer = FactPacker::default();
        packer.push(fact, game);
        rows.extend(packer.finish().into_iter().map(|mut single| {
            match &held {
                // Whose periods did not wait, or those of all of them where it is not known whose this is.
                Some(held) if held.is_empty() || single.games.is_empty() => single.games.clone_from(held),
                _ => {}
            }
            single
        }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_row_alone_are_counted() {
        let mut refused = Refused::default();
        assert_eq!([1, 2, 2, 2, 1].map(|row| refused.failed_alone(0, row)), [1, 1, 2, 3, 1]);
        assert_eq!(refused.failed_alone(1, 2), 1, "each shard has its own");
    }
}
