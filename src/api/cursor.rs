//! Cursors: opaque to clients, self-describing to us (fine print 15).
//!
//! `generation:i32 period:i64 direction:u8 sort key`, little-endian, in URL-safe base64. There is nothing to forge: a
//! cursor names a place in an order that its holder may read anyway, and every part is checked.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::problem::Problem;
use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::ranking::{Direction, SortKey};

/// A place in one period of one generation, and which way to go from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The generation it was made on.
    pub generation: BoardGenerationId,
    /// The period's start.
    pub period_start: Micros,
    /// Which way.
    pub direction: Direction,
    /// From where, exclusive.
    pub key: SortKey,
}

const HEAD: usize = 4 + 8 + 1;

impl Cursor {
    /// As sent to clients.
    pub fn encode(&self) -> String {
        let key = self.key.as_bytes();
        let mut bytes = Vec::with_capacity(HEAD + key.len());
        bytes.extend_from_slice(&self.generation.0.to_le_bytes());
        bytes.extend_from_slice(&self.period_start.0.to_le_bytes());
        bytes.push(u8::from(self.direction == Direction::Backward));
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
        let (head, key) = bytes.split_at_checked(HEAD)?;
        let generation = BoardGenerationId(i32::from_le_bytes(head.get(..4)?.try_into().ok()?));
        let period_start = Micros::from_outside(i64::from_le_bytes(head.get(4..12)?.try_into().ok()?))?;
        let direction = match head.get(12)? {
            0 => Direction::Forward,
            1 => Direction::Backward,
            _ => return None,
        };
        let key = SortKey::parse(key)?;
        Some(Self { generation, period_start, direction, key })
    }
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

    proptest! {
        #[test]
        fn a_cursor_reads_back_and_damage_never_panics(
            generation: i32, period in -62_135_596_800_000_000i64..253_402_300_800_000_000, back: bool, score: i64, subscore: i64, reached_at: i64, player in "[a-z0-9:/-]{1,128}", cut in 0usize..200,
        ) {
            let standing = Standing { score, subscore, reached_at: Micros(reached_at) };
            let key = SortKey::new(&standing, &player, Order::Ascending);
            let direction = if back { Direction::Backward } else { Direction::Forward };
            let cursor = Cursor { generation: BoardGenerationId(generation), period_start: Micros(period), direction, key };
            let text = cursor.encode();
            prop_assert_eq!(Cursor::decode(&text), Some(cursor));
            if let Some(cut) = text.get(..cut) {
                let _ = Cursor::decode(cut);
            }
        }

        #[test]
        fn a_period_that_no_calendar_knows_is_no_cursor(period: i64) {
            let key = SortKey::parse(b"\x80\x80\x80p").unwrap();
            let period_start = Micros(period);
            let cursor = Cursor { generation: BoardGenerationId(1), period_start, direction: Direction::Forward, key };
            let known = Micros::from_outside(period).is_some();
            prop_assert_eq!(Cursor::decode(&cursor.encode()).is_some(), known);
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,100}") {
            let _ = Cursor::decode(&text);
        }
    }
}
