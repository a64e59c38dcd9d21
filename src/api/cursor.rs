//! Cursors: opaque to clients, self-describing to us (docs/rules.md#cursors-outlive-their-entries).
//!
//! `generation:i32 start:i64 direction:u8 end:i64 sort key`, little-endian, in URL-safe base64; with direction 0 or 1,
//! as earlier programs wrote it, without the end. There is nothing to forge: a cursor names a place in an order that
//! its holder may read anyway, and every part is checked.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::problem::Problem;
use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::ranking::{Direction, SortKey};
use crate::store::periods::StoredPeriod;

/// Which period of a generation a cursor is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorPeriod {
    /// This one.
    Named(Period),
    /// The one that starts then: an earlier program wrote it.
    Starting(Micros),
}

impl CursorPeriod {
    /// When it starts.
    pub fn starts_at(self) -> Micros {
        match self {
            Self::Named(Period { starts_at, .. }) | Self::Starting(starts_at) => starts_at,
        }
    }
}

/// A place in one period of one generation, and which way to go from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The generation it was made on.
    pub generation: BoardGenerationId,
    /// The period.
    pub period: CursorPeriod,
    /// Which way.
    pub direction: Direction,
    /// From where, exclusive.
    pub key: SortKey,
}

const HEAD: usize = 4 + 8 + 1;
/// Added to the direction when the period's end follows.
const WITH_END: u8 = 2;
/// An end that never comes.
const NEVER: i64 = i64::MAX;

impl Cursor {
    /// Whether it is a place in this period.
    pub fn is_of(&self, stored: &StoredPeriod) -> bool {
        let named = match self.period {
            CursorPeriod::Named(period) => stored.period == period,
            CursorPeriod::Starting(starts_at) => stored.period.starts_at == starts_at,
        };
        named && stored.generation == self.generation
    }

    /// As sent to clients.
    pub fn encode(&self) -> String {
        let key = self.key.as_bytes();
        let mut bytes = Vec::with_capacity(HEAD + 8 + key.len());
        bytes.extend_from_slice(&self.generation.0.to_le_bytes());
        let back = u8::from(self.direction == Direction::Backward);
        match self.period {
            CursorPeriod::Named(period) => {
                bytes.extend_from_slice(&period.starts_at.0.to_le_bytes());
                bytes.push(WITH_END + back);
                bytes.extend_from_slice(&period.ends_at.map_or(NEVER, |end| end.0).to_le_bytes());
            }
            CursorPeriod::Starting(starts_at) => {
                bytes.extend_from_slice(&starts_at.0.to_le_bytes());
                bytes.push(back);
            }
        }
        bytes.extend_from_slice(key);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what a client sent.
    pub fn decode(text: &str) -> Option<Self> {
        // The longest cursor there is has fewer than 300 characters.
        if text.len() > 512 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let generation = BoardGenerationId(i32::from_le_bytes(head.get(..4)?.try_into().ok()?));
        let starts_at = moment(head.get(4..12)?)?;
        let code = *head.get(12)?;
        let (period, key) = if code < WITH_END {
            (CursorPeriod::Starting(starts_at), rest)
        } else {
            let (end, key) = rest.split_at_checked(8)?;
            let ends_at = if end == NEVER.to_le_bytes() { None } else { Some(moment(end)?) };
            (CursorPeriod::Named(Period { starts_at, ends_at }), key)
        };
        let direction = match code % WITH_END {
            0 => Direction::Forward,
            _ => Direction::Backward,
        };
        if code >= 2 * WITH_END {
            return None;
        }
        let key = SortKey::parse(key)?;
        Some(Self { generation, period, direction, key })
    }
}

/// A moment that calendars know.
fn moment(bytes: &[u8]) -> Option<Micros> {
    Micros::from_outside(i64::from_le_bytes(bytes.try_into().ok()?))
}

/// `400 cursor_invalid`.
pub fn invalid() -> Problem {
    Problem::bad_request("cursor_invalid", "This cursor is damaged, or of another leaderboard or definition of it.")
        .at("cursor")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::board::Order;
    use crate::domain::ranking_key::Standing;

    #[test]
    fn a_golden_cursor_is_read() {
        let cursor = Cursor::decode(include_str!("../../tests/golden/cursor.txt").trim()).unwrap();
        assert_eq!((cursor.generation, cursor.period.starts_at()), (BoardGenerationId(7), Micros::EPOCH));
        assert_eq!((cursor.direction, cursor.key.player_id()), (Direction::Forward, "p"));
    }

    proptest! {
        #[test]
        fn a_cursor_reads_back_and_damage_never_panics(
            generation: i32, start in -62_135_596_800_000_000i64..253_402_300_800_000_000, ends: Option<Option<i32>>, back: bool,
            score: i64, subscore: i64, reached_at: i64, player in "[a-z0-9:/-]{1,128}", cut in 0usize..200,
        ) {
            let standing = Standing { score, subscore, reached_at: Micros(reached_at) };
            let key = SortKey::new(&standing, &player, Order::Ascending);
            let direction = if back { Direction::Backward } else { Direction::Forward };
            let starts_at = Micros(start);
            let period = match ends {
                None => CursorPeriod::Starting(starts_at),
                Some(end) => CursorPeriod::Named(Period { starts_at, ends_at: end.map(|end| Micros(i64::from(end))) }),
            };
            let cursor = Cursor { generation: BoardGenerationId(generation), period, direction, key };
            let text = cursor.encode();
            prop_assert_eq!(Cursor::decode(&text), Some(cursor));
            if let Some(cut) = text.get(..cut) {
                let _ = Cursor::decode(cut);
            }
        }

        #[test]
        fn a_period_that_no_calendar_knows_is_no_cursor(period: i64) {
            let key = SortKey::parse(b"\x80\x80\x80p").unwrap();
            let known = Micros::from_outside(period).is_some();
            let at = Micros(period);
            for (period, known) in [
                (CursorPeriod::Starting(at), known),
                (CursorPeriod::Named(Period { starts_at: at, ends_at: None }), known),
                (CursorPeriod::Named(Period { starts_at: Micros(0), ends_at: Some(at) }), known || at.0 == NEVER),
            ] {
                let (direction, key) = (Direction::Forward, key.clone());
                let cursor = Cursor { generation: BoardGenerationId(1), period, direction, key };
                prop_assert_eq!(Cursor::decode(&cursor.encode()).is_some(), known);
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,100}") {
            let _ = Cursor::decode(&text);
        }
    }
}
