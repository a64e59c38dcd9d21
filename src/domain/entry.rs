//! An entry: one player's standing in one period, and how facts and entries merge
//! (docs/rules.md#score-operators-are-exact).
//!
//! Merging is associative and commutative for every operator, so the order and grouping in which facts are folded
//! never shows, and a recompute equals what folding as they came would have given.

use std::cmp::Ordering;

use uuid::Uuid;

use super::board::{Operator, Order};
use super::clock::Micros;
use super::fact::Fact;
use super::ranking_key::Standing;

/// The state of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryState {
    /// `best`, `set`: the score. `incr`, `decr`: the exact sum, already negated for `decr`.
    pub score: i128,
    /// Likewise for the subscore.
    pub subscore: i128,
    /// `occurred_at` of the fact that decided the standing (`incr`, `decr`: the latest that moved it; the first of all
    /// when none did).
    pub reached_at: Micros,
    /// Its event.
    pub event_id: Uuid,
    /// How many facts were merged.
    pub plays: i64,
    /// The deciding fact's metadata.
    pub metadata: Option<Box<str>>,
    /// Whether one of its facts moved it. Not so for an `incr` or `decr` of nothing but zeros: the first of them makes
    /// the entry, and a later one must not lose a tie.
    pub moved: bool,
}

impl EntryState {
    /// The state after one fact alone.
    pub fn from_fact(operator: Operator, fact: &Fact<'_>) -> Self {
        let sign = if operator == Operator::Decr { -1 } else { 1 };
        let adds = matches!(operator, Operator::Incr | Operator::Decr);
        Self {
            moved: !adds || (fact.score, fact.subscore) != (0, 0),
            score: sign * i128::from(fact.score),
            subscore: sign * i128::from(fact.subscore),
            reached_at: fact.occurred_at,
            event_id: fact.event_id,
            plays: 1,
            metadata: fact.metadata.map(Into::into),
        }
    }

    /// Merges `other` into this state; says whether the standing (anything but `plays` and `metadata`) changed.
    pub fn merge(&mut self, operator: Operator, order: Order, other: Self) -> bool {
        let plays = self.plays.saturating_add(other.plays);
        let moment = (other.reached_at, other.event_id).cmp(&(self.reached_at, self.event_id));
        let changed = match operator {
            Operator::Best => {
                let better = (other.score, other.subscore).cmp(&(self.score, self.subscore));
                let better = if order == Order::Ascending { better.reverse() } else { better };
                let wins = better.then(moment.reverse()) == Ordering::Greater;
                if wins {
                    *self = other;
                }
                wins
            }
            Operator::Set => {
                let wins = moment == Ordering::Greater;
                if wins {
                    *self = other;
                }
                wins
            }
            Operator::Incr | Operator::Decr => {
                self.score = self.score.saturating_add(other.score);
                self.subscore = self.subscore.saturating_add(other.subscore);
                let wins = match (self.moved, other.moved) {
                    (true, true) => moment == Ordering::Greater,
                    (false, false) => moment == Ordering::Less,
                    (_, moved) => moved,
                };
                if wins {
                    self.reached_at = other.reached_at;
                    self.event_id = other.event_id;
                    self.metadata = other.metadata;
                }
                self.moved |= other.moved;
                wins || (other.score, other.subscore) != (0, 0)
            }
        };
        self.plays = plays;
        changed
    }

    /// The standing as published.
    pub fn published(&self) -> Standing {
        Standing { score: self.published_score(), subscore: self.published_subscore(), reached_at: self.reached_at }
    }

    /// The score as published: clamped to `i64` (sums may leave it).
    pub fn published_score(&self) -> i64 {
        clamp(self.score)
    }

    /// The subscore as published.
    pub fn published_subscore(&self) -> i64 {
        clamp(self.subscore)
    }
}

fn clamp(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}
