//! A sort key as it travels: in members of the sorted set and in cursors.

use crate::domain::board::Order;
use crate::domain::ids::check_identifier;
use crate::domain::ranking_key::{Standing, decode, encode};

/// A well-formed sort key (`domain/ranking_key.rs`). Stays a valid place in the order when its entry has moved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortKey {
    bytes: Vec<u8>,
    /// Where the player begins. It follows from the bytes, so keys compare as their bytes do.
    player_at: usize,
}

impl SortKey {
    /// The key of an entry on a board of this order.
    pub fn new(standing: &Standing, player_id: &str, order: Order) -> Self {
        Self::of(encode(standing, player_id, order), player_id.len())
    }

    /// Takes bytes from outside (a cursor). `None` when they are no sort key.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        // The order decides what the numbers mean, not whether they are numbers.
        let (_, player_id) = decode(bytes, Order::Ascending)?;
        check_identifier(player_id).ok()?;
        Some(Self::of(bytes.to_owned(), player_id.len()))
    }

    /// Takes a member that Redis holds, and what it encodes on a board of this order. `None` when it is no sort key
    /// (someone else wrote there).
    pub(super) fn from_member(member: Vec<u8>, order: Order) -> Option<(Self, Standing)> {
        let (standing, player_id) = decode(&member, order)?;
        let length = player_id.len();
        Some((Self::of(member, length), standing))
    }

    fn of(bytes: Vec<u8>, player_length: usize) -> Self {
        let player_at = bytes.len() - player_length;
        Self { bytes, player_at }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whose entry it is.
    pub fn player_id(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.player_at..]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_is_no_sort_key_is_refused() {
        for bytes in
            [&b""[..], b"x", b"\x80\x80", b"\x80\x80\x80", b"\x80\x80\x80a b", b"\x80\x80\x81\x00p", b"+", b"-"]
        {
            assert_eq!(SortKey::parse(bytes), None, "{bytes:?}");
        }
        assert_eq!(SortKey::parse(b"\x80\x80\x80p:1").unwrap().player_id(), "p:1");
    }
}
