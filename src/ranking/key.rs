//! A sort key as it travels: in members of the sorted set and in cursors.

use crate::domain::board::Order;
use crate::domain::ids::check_identifier;
use crate::domain::ranking_key::{Standing, decode, encode};

/// A well-formed sort key (`domain/ranking_key.rs`). Stays a valid place in the order when its entry has moved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortKey(Vec<u8>);

impl SortKey {
    /// The key of an entry on a board of this order.
    pub fn new(standing: &Standing, player_id: &str, order: Order) -> Self {
        Self(encode(standing, player_id, order))
    }

    /// Takes bytes from outside (a cursor). `None` when they are no sort key.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        // The order decides what the numbers mean, not whether they are numbers.
        let (_, player_id) = decode(bytes, Order::Ascending)?;
        check_identifier(player_id).ok()?;
        Some(Self(bytes.to_owned()))
    }

    /// Takes a member that Redis holds, and what it encodes on a board of this order. `None` when it is no sort key
    /// (someone else wrote there).
    pub(super) fn from_member(member: Vec<u8>, order: Order) -> Option<(Self, Standing)> {
        let (standing, _) = decode(&member, order)?;
        Some((Self(member), standing))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whose entry it is.
    pub fn player_id(&self) -> &str {
        decode(&self.0, Order::Ascending).map_or("", |(_, player_id)| player_id)
    }

    /// The standing that it encodes on a board of this order.
    pub fn standing(&self, order: Order) -> Standing {
        let none = Standing { score: 0, subscore: 0, reached_at: crate::domain::clock::Micros::EPOCH };
        decode(&self.0, order).map_or(none, |(standing, _)| standing)
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
