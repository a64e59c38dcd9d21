//! Pieces of a group, each written in a transaction of its own, and how a fault is narrowed down.

use std::collections::HashMap;
use std::time::Duration;

use super::group::Rows;
use super::transaction::Way;
use crate::domain::ids::GameId;
use crate::domain::retry::Backoff;

/// First and longest pause between repeats: a returning database is used within 5 s.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Attempts at a piece that are repeated without a question while the error says that it is the server's; then a
/// write of our own tells.
pub const PATIENCE: u32 = 3;
/// So many events of one game that fail one by one, and none that succeeds in between, speak for the rest of it.
const STRIKES: u32 = 8;

/// Some rows of a group.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Indices into the group's rows, in their order.
    pub rows: Vec<usize>,
    /// How they are written.
    pub way: Way,
    /// Attempts that failed.
    pub failures: u32,
    /// Attempts that found the definitions changed.
    pub stale: u32,
    /// The row of its game, its only one, was locked by another transaction.
    pub held: bool,
    /// It failed, alone, while the server was well: once more and it is set aside.
    pub accused: bool,
    /// Pauses between attempts.
    pub pause: Backoff,
}

impl Piece {
    /// These rows, not tried yet.
    pub fn new(rows: Vec<usize>, way: Way) -> Self {
        let pause = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { rows, way, failures: 0, stale: 0, held: false, accused: false, pause }
    }

    /// Two smaller pieces, written the careful way: at the border between games nearest to the middle, else in halves.
    /// The first part comes last, as on a stack. A piece of one row stays as it is.
    pub fn split(mut self, rows: &Rows<'_>) -> Vec<Self> {
        let (len, middle) = (self.rows.len(), self.rows.len() / 2);
        if len < 2 {
            return vec![self];
        }
        let border = |at: &usize| rows.rows[self.rows[at - 1]].game_id != rows.rows[self.rows[*at]].game_id;
        let at = (1..len).filter(border).min_by_key(|at| at.abs_diff(middle)).unwrap_or(middle);
        let rest = self.rows.split_off(at);
        self.way = Way::Careful;
        let rest = Self { rows: rest, ..self.clone() };
        vec![rest, self]
    }

    /// The wanted rows, and the others.
    pub fn part(self, wanted: impl Fn(usize) -> bool) -> (Self, Self) {
        let (theirs, others) = self.rows.iter().copied().partition(|row| wanted(*row));
        (Self { rows: theirs, ..self.clone() }, Self { rows: others, ..self })
    }
}

/// A group's rows in pieces of at most `most`; the first comes last, as on a stack.
pub fn pieces(rows: usize, most: usize, way: Way) -> Vec<Piece> {
    let all: Vec<usize> = (0..rows).collect();
    let mut pieces: Vec<Piece> = all.chunks(most.max(1)).map(|rows| Piece::new(rows.to_vec(), way)).collect();
    pieces.reverse();
    pieces
}

/// How often in a row events of a game failed one by one.
#[derive(Debug, Default)]
pub struct Strikes(HashMap<GameId, (u32, String)>);

impl Strikes {
    /// An event of `game` failed alone.
    pub fn strike(&mut self, game: GameId, error: &str) {
        let (count, last) = self.0.entry(game).or_default();
        *count += 1;
        error.clone_into(last);
    }

    /// Rows of these games were written.
    pub fn clear(&mut self, games: impl IntoIterator<Item = GameId>) {
        if !self.0.is_empty() {
            for game in games {
                self.0.remove(&game);
            }
        }
    }

    /// The error for which the rest of a game's rows need not be tried one by one.
    pub fn out(&self, piece: &Piece, rows: &Rows<'_>) -> Option<&str> {
        let game = rows.rows[*piece.rows.first()?].game_id;
        let (count, error) = self.0.get(&game)?;
        let alone = || piece.rows.iter().all(|row| rows.rows[*row].game_id == game);
        (*count >= STRIKES && alone()).then_some(error.as_str())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::group::Origin;
    use super::*;
    use crate::domain::clock::Micros;
    use crate::domain::event::Event;
    use crate::store::events::EventRow;

    fn rows(games: &[i32]) -> Rows<'static> {
        let row = |game: &i32| EventRow {
            game_id: GameId(*game),
            event: Event {
                event_id: Uuid::nil(),
                event_type: "t",
                player_id: "p",
                session_id: None,
                schema_version: None,
                occurred_at: Micros(0),
                payload: "{}",
            },
            received_at: Micros(0),
            definitions_generation: 0,
            from_server: false,
        };
        let origins = games.iter().map(|_| Origin { job: 0 }).collect();
        Rows { rows: games.iter().map(row).collect(), origins, repeats: 0 }
    }

    fn split(games: &[i32]) -> Vec<Vec<usize>> {
        let piece = Piece::new((0..games.len()).collect(), Way::Copy);
        piece.split(&rows(games)).into_iter().rev().map(|piece| piece.rows).collect()
    }

    #[test]
    fn a_piece_is_split_between_games_first_and_then_in_halves() {
        assert_eq!(split(&[1, 2, 2, 2, 2]), [vec![0], vec![1, 2, 3, 4]]);
        assert_eq!(split(&[1, 1, 2, 2, 3, 3]), [vec![0, 1], vec![2, 3, 4, 5]]);
        assert_eq!(split(&[1, 1, 1]), [vec![0], vec![1, 2]]);
        assert_eq!(split(&[1]), [vec![0]]);
    }

    #[test]
    fn a_group_is_cut_into_pieces_of_a_size() {
        let lengths = |most| {
            let pieces = pieces(2_600, most, Way::Copy);
            pieces.iter().rev().map(|piece| piece.rows.len()).collect::<Vec<_>>()
        };
        assert_eq!((lengths(usize::MAX), lengths(1_250)), (vec![2_600], vec![1_250, 1_250, 100]));
        assert!(pieces(0, 7, Way::Copy).is_empty());
    }

    #[test]
    fn eight_failures_in_a_row_speak_for_the_rest_of_a_game() {
        let rows = rows(&[1, 1, 2, 1]);
        let (mut strikes, of_one, of_both) =
            (Strikes::default(), Piece::new(vec![0, 1], Way::Careful), Piece::new(vec![1, 2], Way::Careful));
        for _ in 0..STRIKES - 1 {
            strikes.strike(GameId(1), "no");
        }
        assert_eq!(strikes.out(&of_one, &rows), None);
        strikes.strike(GameId(1), "no");
        assert_eq!(strikes.out(&of_one, &rows), Some("no"));
        assert_eq!(strikes.out(&of_both, &rows), None, "others are tried");
        let around = Piece::new(vec![0, 2, 3], Way::Careful);
        assert_eq!(strikes.out(&around, &rows), None, "also those of another month between");
        strikes.clear([GameId(1)]);
        assert_eq!(strikes.out(&of_one, &rows), None);
    }
}
