//! Rows of facts whose fold Postgres refuses for what is in them, though each is folded alone and the server takes other
//! folds: they are put aside, because everything else of their shard waits behind them.

use std::collections::HashMap;

use super::portion::Portion;
use super::shards;
use crate::store::failure::is_of_the_rows;
use crate::store::leases::{self, Lease};
use crate::store::pool::Pool;
use crate::store::{facts, write_probe};

/// How often a row must fail alone.
const TIMES: u32 = 3;

/// What failed alone, and how often in a row.
#[derive(Debug, Default)]
pub struct Refused {
    failing: HashMap<i16, (i64, u32)>,
}

impl Refused {
    /// A fold of these leases and this portion failed. Puts the row aside that is at fault, if one is known to be; says
    /// whether it did.
    ///
    /// # Errors
    /// Whatever Postgres says: then the server may be at fault.
    pub async fn met(
        &mut self,
        pool: &Pool,
        held: &[Lease],
        portion: Portion,
        error: &sqlx::Error,
    ) -> Result<bool, sqlx::Error> {
        let &[shard] = shards::numbers(held).as_slice() else { return Ok(false) };
        if portion.max_facts > 1 || !is_of_the_rows(error) {
            self.failing.remove(&shard);
            return Ok(false);
        }
        let Some(row) = facts::oldest(pool, shard).await? else { return Ok(false) };
        if !self.is_at_fault(shard, row) || !write_probe::fold_and_undo(pool).await? {
            return Ok(false);
        }
        let mut transaction = pool.begin().await?;
        if !leases::lock_and_check(&mut transaction, held).await? {
            return Ok(false);
        }
        for taken in facts::take(&mut transaction, &[shard], 1, row - 1).await? {
            facts::set_aside(&mut transaction, &taken).await?;
            tracing::error!(shard, facts = taken.count, %error, "a row of facts cannot be folded; put aside");
        }
        transaction.commit().await?;
        metrics::counter!(crate::telemetry::metrics::FACTS_SET_ASIDE, "role" => "cron").increment(1);
        self.failing.remove(&shard);
        Ok(true)
    }

    /// The oldest row of a shard failed alone; whether that has been so often enough.
    fn is_at_fault(&mut self, shard: i16, row: i64) -> bool {
        let (failing, times) = self.failing.entry(shard).or_insert((row, 0));
        if *failing != row {
            (*failing, *times) = (row, 0);
        }
        *times += 1;
        *times >= TIMES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_at_fault_when_it_has_failed_alone_often_enough_in_a_row() {
        let mut refused = Refused::default();
        assert_eq!([1, 2, 2, 2].map(|row| refused.is_at_fault(0, row)), [false, false, false, true]);
        assert!(!refused.is_at_fault(1, 2), "each shard has its own");
    }
}
