//! What keeps a fold from committing, though the server takes other folds. Everything else of its shard, of all games,
//! would wait behind it.
//!
//! Postgres refuses what is in a row of facts: the row is put aside. It takes too long, or somebody holds a row of a
//! board for longer than a lock is waited for: folds leave that out for a while ([`Resting`]). A row holds facts of
//! many games, so it is cut up first, and only what is at fault is put aside or left out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::portion::Portion;
use super::resting::{Resting, Suspect};
use super::rules::Rules;
use super::shards;
use crate::domain::fact::Fact;
use crate::domain::ids::BoardGenerationId;
use crate::domain::packed_facts::PackedFacts;
use crate::store::definitions::Definitions;
use crate::store::failure::{Failure, classify, is_lock_timeout, is_of_the_rows};
use crate::store::leases::{self, Lease};
use crate::store::{Pool, StoreError, facts, write_probe};

mod parts;

use parts::{boards_of, count, cut_up};

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

/// How often it is looked, before a fold, for facts that it leaves out.
const MOST_LOOKS: usize = 20;
/// About how many facts it looks at each time, at least: a fold that is narrowed down to a row would find the next one
/// of them behind each.
const LEAST_LOOKED_AT: u32 = 5_000;

/// How a look went.
enum Looked {
    /// There was more to leave out, and it is known now.
    Found,
    /// Of so many facts none is left out. Not all: more wait than one look takes.
    Clear { facts: u32, is_all: bool },
    /// It could not be parted from others.
    Mixed,
}

/// What a fold has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    /// Postgres refuses a value.
    Refusal,
    /// A statement took longer than it may.
    TooLong,
    /// Somebody held a row for longer than it is waited for.
    Lock,
}

impl Met {
    /// `None`: nothing that says anything of the rows.
    fn of(error: &StoreError) -> Option<Self> {
        match classify(error) {
            _ if is_lock_timeout(error) => Some(Self::Lock),
            Failure::TooMuch => Some(Self::TooLong),
            _ => is_of_the_rows(error).then_some(Self::Refusal),
        }
    }

    /// How often a row must fail alone before anything is done: its shard waits each time.
    fn enough(self) -> u32 {
        match self {
            Self::Refusal => 3,
            Self::TooLong => 2,
            Self::Lock => 1,
        }
    }
}

/// What failed alone, and how often in a row; and what is left out for it. Each lane has its own.
#[derive(Debug, Default)]
pub struct Refused {
    failing: HashMap<i16, (i64, u32)>,
    /// What came of a row of a shard of which some board is held: each is folded alone.
    apart: HashMap<i16, VecDeque<i64>>,
    unfoldable: Arc<Unfoldable>,
    resting: Resting,
}

impl Refused {
    /// Nothing has failed yet; what is put aside is noted in `unfoldable`.
    pub fn new(unfoldable: Arc<Unfoldable>) -> Self {
        Self { unfoldable, ..Self::default() }
    }

    /// A fold of these leases begins: its portion leaves out what would fail. Facts of boards that are left out are
    /// parted from those that share a row with them.
    pub async fn make_way(&mut self, pool: &Pool, rules: &Rules, held: &[Lease], portion: &mut Portion) {
        self.resting.begin(Instant::now());
        if let &[shard] = shards::numbers(held).as_slice()
            && let Some(part) = self.apart.get_mut(&shard).and_then(VecDeque::pop_front)
        {
            // They stand behind all that waits, and each row before them would fail, and be cut, in its turn.
            (portion.after, portion.max_facts) = (part - 1, 1);
        }
        portion.but = self.resting.rows(portion.after);
        let boards = self.resting.boards();
        if boards.is_empty() {
            return;
        }
        let definitions = rules.current();
        // What takes the place of that which is left out may have some, too.
        for _ in 0..MOST_LOOKS {
            if !self.resting.has_room() {
                return;
            }
            match self.part(pool, &definitions, held, portion, &boards).await {
                Ok(Looked::Found) => portion.but = self.resting.rows(portion.after),
                Ok(Looked::Clear { facts, is_all }) => {
                    portion.looked_at = Some(facts);
                    if !is_all {
                        portion.max_facts = portion.max_facts.min(facts);
                    }
                    return;
                }
                Ok(Looked::Mixed) => return,
                Err(error) => {
                    tracing::debug!(%error, "facts of a leaderboard that is held were not parted from others");
                    return;
                }
            }
        }
    }

    /// Looks for facts of these boards, and parts them from others.
    async fn part(
        &mut self,
        pool: &Pool,
        definitions: &Definitions,
        held: &[Lease],
        portion: &Portion,
        boards: &HashSet<BoardGenerationId>,
    ) -> Result<Looked, StoreError> {
        let numbers = shards::numbers(held);
        let most = i64::from(portion.max_facts.max(LEAST_LOOKED_AT));
        let (mut whole, mut mixed) = (Vec::new(), Vec::new());
        let (mut looked_at, mut bytes_of_all) = (0, 0);
        for (row, count, bytes) in facts::waiting(pool, &numbers, most, portion.after, &portion.but).await? {
            looked_at += count.unsigned_abs();
            bytes_of_all += bytes.len();
            match boards_of(definitions, &bytes).as_slice() {
                [board] if boards.contains(board) => whole.push((row, *board)),
                many if many.iter().any(|board| boards.contains(board)) => mixed.push(row),
                _ => {}
            }
        }
        if !mixed.is_empty() {
            let mut transaction = pool.begin().await?;
            if !leases::lock_and_check(&mut transaction, held).await? {
                return Ok(Looked::Mixed);
            }
            for row in mixed {
                for taken in facts::take(&mut transaction, &numbers, 1, row - 1, &[]).await? {
                    let board = |_, fact: &Fact<'_>| boards.get(&fact.generation).copied();
                    let parts = cut_up(definitions, &taken, board);
                    if parts.is_empty() {
                        return Ok(Looked::Mixed);
                    }
                    for (board, part) in parts {
                        let ids = facts::insert_parts(&mut transaction, &[part], taken.first_id).await?;
                        whole.extend(board.into_iter().flat_map(|board| ids.iter().map(move |id| (*id, board))));
                    }
                }
            }
            transaction.commit().await?;
        }
        if whole.is_empty() {
            return Ok(Looked::Clear { facts: looked_at, is_all: bytes_of_all < facts::WAITING_BYTES });
        }
        whole.into_iter().for_each(|(row, board)| self.resting.leave_out(row, board));
        Ok(Looked::Found)
    }

    /// A fold of all shards and this portion has committed; `last` is the highest id that it took, `full`: more may
    /// wait. Nothing follows from one that began behind the oldest: what is let in again is old.
    pub fn folded(&mut self, portion: &Portion, last: Option<i64>, full: bool) {
        if portion.after > 0 {
            return;
        }
        if !full || self.resting.is_behind(last) {
            self.resting.succeeded();
        }
        if !full {
            self.apart.clear();
        }
    }

    /// A fold of these leases and this portion failed. Cuts the row up, puts it aside or has it left out that is at
    /// fault, if one is known to be; says whether it did.
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
        let met = Met::of(error);
        if matches!(met, Some(Met::TooLong | Met::Lock)) && self.resting.failed(Instant::now()) {
            return Ok(true);
        }
        let &[shard] = shards::numbers(held).as_slice() else { return Ok(false) };
        let Some(met) = met.filter(|_| portion.max_facts <= 1) else {
            self.failing.remove(&shard);
            return Ok(false);
        };
        let definitions = rules.current();
        let Some((row, _, bytes)) = facts::waiting(pool, &[shard], 1, portion.after, &portion.but).await?.pop() else {
            return Ok(false);
        };
        if self.failed_alone(shard, row) < met.enough() {
            return Ok(false);
        }
        let boards = boards_of(&definitions, &bytes);
        let suspect = match (met, boards.as_slice()) {
            (Met::Lock, []) => return Ok(false),
            (Met::Lock, &[board]) => Some(Suspect::Board(board)),
            (Met::TooLong, _) if count(&definitions, &bytes) <= 1 => Some(Suspect::Row(row)),
            _ => None,
        };
        // Which of its boards is held shows when they are apart, and nothing is left out before.
        let is_cut_only = met == Met::Lock && suspect.is_none();
        let but = boards.first().copied().filter(|_| met == Met::Lock);
        if !is_cut_only && !write_probe::fold_and_undo(pool, but).await? {
            return Ok(false);
        }
        if let Some(suspect) = suspect {
            tracing::warn!(shard, ?suspect, %error, "scores wait, and folds leave them out for a while");
            self.resting.add(suspect, Instant::now());
            // It is known who is held: the other parts can wait for their turn.
            self.apart.clear();
        } else {
            let parts = self.cut_or_put_aside(pool, &definitions, held, (shard, row), (met, error)).await?;
            let Some(parts) = parts else { return Ok(false) };
            if met == Met::Lock {
                self.apart.insert(shard, parts);
            }
        }
        self.failing.remove(&shard);
        Ok(true)
    }

    /// Returns the ids of the parts, none where it was put aside; `None`: neither was done.
    async fn cut_or_put_aside(
        &self,
        pool: &Pool,
        definitions: &Definitions,
        held: &[Lease],
        (shard, row): (i16, i64),
        (met, error): (Met, &StoreError),
    ) -> Result<Option<VecDeque<i64>>, StoreError> {
        let mut transaction = pool.begin().await?;
        if !leases::lock_and_check(&mut transaction, held).await? {
            return Ok(None);
        }
        let mut ids = VecDeque::new();
        for taken in facts::take(&mut transaction, &[shard], 1, row - 1, &[]).await? {
            let parts: Vec<PackedFacts> = if met == Met::Lock {
                cut_up(definitions, &taken, |_, fact| fact.generation).into_iter().map(|(_, part)| part).collect()
            } else {
                cut_up(definitions, &taken, |nth, _| nth).into_iter().map(|(_, part)| part).collect()
            };
            if !parts.is_empty() {
                tracing::warn!(shard, facts = taken.count, %error, "a row of facts cannot be folded; cut up");
                ids.extend(facts::insert_parts(&mut transaction, &parts, taken.first_id).await?);
            } else if met == Met::Refusal {
                self.unfoldable.note(&taken.facts);
                facts::set_aside(&mut transaction, &taken).await?;
                tracing::error!(shard, facts = taken.count, %error, "a row of facts cannot be folded; put aside");
                metrics::counter!(crate::telemetry::metrics::FACTS_SET_ASIDE, "role" => "cron").increment(1);
            } else {
                return Ok(None);
            }
        }
        transaction.commit().await?;
        Ok(Some(ids))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_is_let_in_again_stays_so_before_a_backlog_has_ended() {
        let (mut refused, now) = (Refused::default(), Instant::now());
        let [one, two] = [1, 2].map(BoardGenerationId);
        for (row, board) in [(3, one), (4, two), (6, one)] {
            refused.resting.add(Suspect::Board(board), now);
            refused.resting.leave_out(row, board);
        }
        let then = now + Duration::from_secs(60);
        refused.resting.begin(then);
        assert_eq!(refused.resting.rows(0), [4], "one of them is let in");
        refused.folded(&Portion { after: 6, ..20.into() }, Some(9), true);
        refused.folded(&20.into(), Some(5), true);
        refused.resting.begin(then);
        assert_eq!(refused.resting.rows(0), [4], "not all of it was folded");
        refused.folded(&20.into(), Some(6), true);
        refused.resting.begin(then);
        assert!(refused.resting.rows(0).is_empty(), "and then the other");
    }

    #[test]
    fn failures_of_a_row_alone_are_counted() {
        let mut refused = Refused::default();
        assert_eq!([1, 2, 2, 2, 1].map(|row| refused.failed_alone(0, row)), [1, 1, 2, 3, 1]);
        assert_eq!(refused.failed_alone(1, 2), 1, "each shard has its own");
    }
}
