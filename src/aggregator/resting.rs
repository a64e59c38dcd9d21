//! What folds leave out for a while: boards of which somebody holds a row, and single facts that take too long. They
//! stay where they are, and whoever waits for them goes on waiting. Every other board would wait with them, because a
//! fold that takes them waits as long as a lock or a statement may, and then does nothing.
//!
//! One at a time is let in again, so that at most every so often a fold fails for one, however many they are.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::BoardGenerationId;

/// For how long all of them are left out after a fold has failed: a few times what that fold was waiting for.
const REST: Duration = Duration::from_secs(10);
/// Most rows that are left out: beyond it folds fail for those that follow.
const MOST_ROWS: usize = 10_000;

/// For what a fold would fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspect {
    /// Every fact of this board.
    Board(BoardGenerationId),
    /// This row of facts.
    Row(i64),
}

/// What the folds of a lane leave out.
#[derive(Debug, Default)]
pub struct Resting {
    suspects: VecDeque<Suspect>,
    /// The one that is let in again, until folds have taken what was left out of it, or one has failed.
    on_trial: Option<Suspect>,
    not_before: Option<Instant>,
    /// Rows that hold facts of one of the boards and of no other.
    rows: BTreeMap<i64, BoardGenerationId>,
}

impl Resting {
    /// A fold failed, and this is why.
    pub fn add(&mut self, suspect: Suspect, now: Instant) {
        if !self.suspects.contains(&suspect) {
            self.suspects.push_back(suspect);
        }
        self.not_before = Some(now + REST);
    }

    /// A fold begins: lets one in again, if it is time.
    pub fn begin(&mut self, now: Instant) {
        if self.on_trial.is_none() && self.not_before.is_none_or(|then| now >= then) {
            self.on_trial = self.suspects.pop_front();
        }
    }

    /// A fold failed: whoever was let in may be at fault. Says whether somebody was.
    pub fn failed(&mut self, now: Instant) -> bool {
        let Some(suspect) = self.on_trial.take() else { return false };
        self.add(suspect, now);
        true
    }

    /// Whether all that was left out of whoever was let in is behind a fold that took the oldest rows, up to `last`.
    pub fn is_behind(&self, last: Option<i64>) -> bool {
        let newest = self.on_trial.and_then(|suspect| match suspect {
            Suspect::Row(row) => Some(row),
            Suspect::Board(board) => self.rows.iter().rev().find(|(_, of)| **of == board).map(|(row, _)| *row),
        });
        newest.is_none_or(|newest| last.is_some_and(|last| newest <= last))
    }

    /// Folds have taken all that was left out of whoever was let in, who is as good as others.
    pub fn succeeded(&mut self) {
        if let Some(Suspect::Board(board)) = self.on_trial.take() {
            self.rows.retain(|_, of| *of != board);
        }
    }

    /// The boards that are left out.
    pub fn boards(&self) -> HashSet<BoardGenerationId> {
        let board = |suspect: &Suspect| match suspect {
            Suspect::Board(board) => Some(*board),
            Suspect::Row(_) => None,
        };
        self.suspects.iter().filter_map(board).collect()
    }

    /// Whether there is room for more rows.
    pub fn has_room(&self) -> bool {
        self.rows.len() < MOST_ROWS
    }

    /// This row holds facts of this board, which is left out, and of no other.
    pub fn leave_out(&mut self, row: i64, board: BoardGenerationId) {
        self.rows.insert(row, board);
    }

    /// The rows behind this one that are left out.
    pub fn rows(&self, after: i64) -> Vec<i64> {
        let boards = self.boards();
        let of_boards = self.rows.range(after.saturating_add(1)..).filter(|(_, board)| boards.contains(board));
        let single = self.suspects.iter().filter_map(|suspect| match suspect {
            Suspect::Row(row) => (*row > after).then_some(*row),
            Suspect::Board(_) => None,
        });
        of_boards.map(|(row, _)| *row).chain(single).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: BoardGenerationId = BoardGenerationId(1);
    const TWO: BoardGenerationId = BoardGenerationId(2);

    #[test]
    fn one_at_a_time_is_let_in_again() {
        let (mut resting, now) = (Resting::default(), Instant::now());
        resting.add(Suspect::Board(ONE), now);
        resting.add(Suspect::Board(TWO), now);
        resting.add(Suspect::Row(7), now);
        for (row, board) in [(3, ONE), (4, TWO), (5, ONE)] {
            resting.leave_out(row, board);
        }
        resting.begin(now + REST / 2);
        assert_eq!(resting.rows(0), [3, 4, 5, 7]);
        assert_eq!(resting.rows(4), [5, 7]);
        assert!(!resting.failed(now), "nobody was let in");
        resting.begin(now + REST);
        assert_eq!((resting.rows(0), resting.boards()), (vec![4, 7], HashSet::from([TWO])));
        assert!(resting.failed(now + REST));
        resting.begin(now + REST);
        assert_eq!(resting.rows(0), [3, 4, 5, 7]);
        // The next one is no trouble any more, and then the others at once.
        let then = now + 2 * REST;
        resting.begin(then);
        assert_eq!(resting.rows(0), [3, 5, 7]);
        resting.begin(then);
        assert_eq!(resting.rows(0), [3, 5, 7], "until a fold has taken all");
        resting.succeeded();
        resting.begin(then);
        assert_eq!(resting.rows(0), [3, 5]);
        resting.succeeded();
        resting.begin(then);
        assert!(resting.rows(0).is_empty());
        resting.succeeded();
        resting.begin(then);
        assert!(!resting.failed(then), "there is nobody left");
    }
}
