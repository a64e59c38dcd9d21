//! How much a fold takes, from where, and of which shards.
//!
//! Usually all shards of a lane at once, as much as is allowed, from where the last folds stopped. After a failure
//! each shard is folded alone and takes half as much as before; where that fails too, a row at a time, and twice as
//! much after each success. So what makes a fold too long is soon narrowed down to a row, and nothing but its own
//! shard waits for it. Halves of halves would take the same row again and again, each time for as long as a statement
//! may take.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::shards;
use crate::store::leases::Lease;

/// A look at the whole outbox: rows that were committed after younger ones are found by it.
const WHOLE_LOOK: Duration = Duration::from_secs(1);

/// What one fold takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portion {
    /// About how many facts at most; at least one row.
    pub max_facts: u32,
    /// Only rows with a higher id than this.
    pub after: i64,
    /// None of these rows.
    pub but: Vec<i64>,
    /// No more than so many facts: those behind them were not looked at for what is left out.
    pub looked_at: Option<u32>,
}

impl From<u32> for Portion {
    fn from(max_facts: u32) -> Self {
        Self { max_facts, after: 0, but: Vec::new(), looked_at: None }
    }
}

/// From where to look for rows. What was folded leaves dead rows that a look from the beginning walks over again and
/// again, for as long as somebody's long snapshot keeps them.
#[derive(Debug, Default)]
pub struct Floor {
    looked: Option<Instant>,
    /// The fold that began last looks at the whole.
    whole: bool,
    /// The highest id that was folded; and what that was at the last whole look, and at the one before.
    folded: i64,
    at_last: i64,
    floor: i64,
}

impl Floor {
    /// From which id the fold that begins now looks; 0 once a second.
    pub fn after(&mut self, now: Instant) -> i64 {
        self.whole = self.looked.is_none_or(|looked| now.duration_since(looked) >= WHOLE_LOOK);
        if !self.whole {
            return self.floor;
        }
        self.looked = Some(now);
        // A second and more ago: who had a lower id by then has mostly committed.
        self.floor = std::mem::replace(&mut self.at_last, self.folded);
        0
    }

    /// A fold has taken rows up to this id.
    pub fn folded(&mut self, last: Option<i64>) {
        let Some(last) = last else { return };
        if self.whole && last < self.folded {
            // Ids go back with the database: what follows would only be seen by looks at the whole.
            *self = Self { looked: self.looked, ..Self::default() };
        }
        self.folded = self.folded.max(last);
    }
}

/// How a lane's next fold is cut.
#[derive(Debug)]
pub struct Appetite {
    most: u32,
    /// Shards that failed, with what they take next.
    reduced: HashMap<i16, u32>,
    /// The shard that was folded alone last.
    last: i16,
    floor: Floor,
    held: Vec<i16>,
}

impl Appetite {
    /// As much as is allowed.
    pub fn new(most: u32) -> Self {
        Self { most, reduced: HashMap::new(), last: -1, floor: Floor::default(), held: Vec::new() }
    }

    /// Which of the leases the next fold is for, and how much it takes.
    pub fn next(&mut self, held: &[Lease], now: Instant) -> (Vec<Lease>, Portion) {
        let numbers = shards::numbers(held);
        if numbers != self.held {
            // Another's rows may be older than all that was folded here.
            self.floor = Floor::default();
            self.held.clone_from(&numbers);
        }
        self.reduced.retain(|shard, _| numbers.contains(shard));
        if self.reduced.is_empty() {
            return (held.to_vec(), Portion { after: self.floor.after(now), ..self.most.into() });
        }
        // The one after the last, in order of their numbers, round and round.
        let following = numbers.iter().filter(|shard| **shard > self.last).min().or(numbers.iter().min());
        self.last = following.copied().unwrap_or_default();
        let max_facts = self.reduced.get(&self.last).copied().unwrap_or(self.most);
        let alone = held.iter().filter(|lease| shards::numbers(std::slice::from_ref(lease)) == [self.last]);
        (alone.cloned().collect(), max_facts.into())
    }

    /// A fold of these leases failed.
    pub fn failed(&mut self, leases: &[Lease]) {
        let size = if leases.len() > 1 { (self.most / 2).max(1) } else { 1 };
        self.reduced.extend(shards::numbers(leases).into_iter().map(|shard| (shard, size)));
        self.floor = Floor::default();
    }

    /// A fold of these leases and this portion committed; `last` is the highest id that it took, `None`: nothing
    /// waited. Says whether another should follow at once, however little it took: shards are being folded one by one.
    pub fn succeeded(&mut self, leases: &[Lease], portion: &Portion, last: Option<i64>) -> bool {
        let narrowed = !self.reduced.is_empty();
        if narrowed && portion.after > 0 {
            // A part of a row, before its turn: what failed is still to come.
            return true;
        }
        for shard in shards::numbers(leases) {
            if let Some(size) = self.reduced.get_mut(&shard) {
                *size = size.saturating_mul(2);
                if *size >= self.most || last.is_none() {
                    self.reduced.remove(&shard);
                }
            }
        }
        if !narrowed {
            self.floor.folded(last);
        }
        narrowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(shard: u16) -> Lease {
        Lease { name: format!("fold-{shard}"), token: 1 }
    }

    #[test]
    fn a_failed_fold_is_narrowed_down_shard_by_shard() {
        let now = Instant::now();
        let held = [lease(0), lease(2)];
        let mut appetite = Appetite::new(100);
        assert_eq!(appetite.next(&held, now), (held.to_vec(), Portion::from(100)));
        appetite.failed(&held);
        // Shard 2 goes on failing, shard 0 does not.
        for (turn, size) in [50, 1, 1].into_iter().enumerate() {
            let (alone, portion) = appetite.next(&held, now);
            assert_eq!((alone.as_slice(), portion.after), (&held[..1], 0), "turn {turn}");
            assert!(appetite.succeeded(&alone, &portion, Some(1)), "the other shard is waiting for its turn");
            let (alone, portion) = appetite.next(&held, now);
            assert_eq!((alone.as_slice(), portion.max_facts), (&held[1..], size), "turn {turn}");
            appetite.failed(&alone);
        }
        // It recovers: 1, 2, 4, … and then all together again. What is folded before its turn says nothing of the rest.
        let before_its_turn = Portion { after: 9, ..1.into() };
        let mut turns = 0;
        while appetite.next(&held, now).0.len() == 1 {
            assert!(appetite.succeeded(&held[1..], &before_its_turn, None));
            appetite.succeeded(&held[1..], &1.into(), Some(1));
            turns += 1;
        }
        assert_eq!(turns, 7);
        assert!(!appetite.succeeded(&held, &100.into(), Some(1)));
    }

    #[test]
    fn a_shard_with_nothing_to_fold_is_folded_with_the_others_again() {
        let held = [lease(1)];
        let mut appetite = Appetite::new(100);
        appetite.failed(&held);
        assert!(appetite.succeeded(&held, &50.into(), None));
        assert_eq!(appetite.next(&held, Instant::now()).1.max_facts, 100);
    }

    #[test]
    fn a_look_begins_where_folds_stopped_and_at_the_beginning_once_a_second() {
        let (began, second) = (Instant::now(), WHOLE_LOOK);
        let mut floor = Floor::default();
        assert_eq!(floor.after(began), 0);
        floor.folded(Some(10));
        assert_eq!(floor.after(began + second / 2), 0, "what was folded just now may have been overtaken");
        assert_eq!(floor.after(began + second), 0, "the whole");
        floor.folded(Some(20));
        floor.folded(None);
        assert_eq!(floor.after(began + second), 0);
        assert_eq!(floor.after(began + 2 * second), 0, "the whole");
        assert_eq!(floor.after(began + 2 * second), 10);
        assert_eq!(floor.after(began + 3 * second), 0, "the whole");
        assert_eq!(floor.after(began + 3 * second), 20);
    }

    #[test]
    fn ids_that_went_back_are_looked_at_again() {
        let (began, second) = (Instant::now(), WHOLE_LOOK);
        let mut floor = Floor::default();
        for at in 0..3 {
            floor.after(began + at * second);
            floor.folded(Some(1_000));
        }
        assert_eq!(floor.after(began + 2 * second), 1_000);
        // It was restored; what was given again so far is found by the next look at the whole.
        assert_eq!(floor.after(began + 3 * second), 0, "the whole");
        floor.folded(Some(10));
        assert_eq!(floor.after(began + 3 * second), 0);
        floor.folded(Some(11));
        for at in 4..6 {
            assert_eq!(floor.after(began + at * second), 0, "the whole");
            floor.folded(Some(i64::from(at) * 10));
        }
        assert_eq!(floor.after(began + 5 * second), 11, "as at the look before the last");
    }

    #[test]
    fn whoever_takes_a_shard_over_looks_at_all_of_it() {
        let now = Instant::now();
        let mut appetite = Appetite::new(100);
        for at in 0..3 {
            let (held, portion) = appetite.next(&[lease(0)], now + at * WHOLE_LOOK);
            appetite.succeeded(&held, &portion, Some(10));
        }
        assert_eq!(appetite.next(&[lease(0)], now + 2 * WHOLE_LOOK).1.after, 10);
        assert_eq!(appetite.next(&[lease(0), lease(2)], now + 2 * WHOLE_LOOK).1.after, 0);
    }
}
