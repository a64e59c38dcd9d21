//! A sort key as it travels: in members of the sorted set and in cursors.

use crate::domain::board::Order;
use crate::domain::ids::check_identifier;
use crate::domain::ranking_key::{PREFIX_LEN, SCORE_PREFIX_LEN, Standing, decode};

/// A well-formed sort key: 48 hexadecimal digits, `:`, a player id. Stays a valid place in the order when its entry
/// has moved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortKey(String);

impl SortKey {
    /// Parses outside text (a cursor). `None` when it is no sort key.
    pub fn parse(text: &str) -> Option<Self> {
        // The order decides what the digits mean, not whether they are digits.
        let (_, player_id) = decode(text.as_bytes(), Order::Ascending)?;
        check_identifier(player_id).ok()?;
        Some(Self(text.to_owned()))
    }

    /// Takes a member that Redis holds, and what it encodes on a board of this order. `None` when it is no sort key
    /// (someone else wrote there).
    pub(super) fn from_member(member: String, order: Order) -> Option<(Self, Standing)> {
        let (standing, _) = decode(member.as_bytes(), order)?;
        Some((Self(member), standing))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whose entry it is.
    pub fn player_id(&self) -> &str {
        self.0.get(PREFIX_LEN + 1..).unwrap_or_default()
    }

    /// The standing that it encodes on a board of this order.
    pub fn standing(&self, order: Order) -> Standing {
        let none = Standing { score: 0, subscore: 0, reached_at: crate::domain::clock::Micros::EPOCH };
        decode(self.0.as_bytes(), order).map_or(none, |(standing, _)| standing)
    }

    /// Score and subscore: equal here is equal for a competition rank.
    pub(super) fn score_prefix(&self) -> &str {
        self.0.get(..SCORE_PREFIX_LEN).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_is_no_sort_key_is_refused() {
        let digits = "0".repeat(48);
        for text in
            ["", "x", &digits, &format!("{digits}:"), &format!("{digits}:a b"), &format!("{digits}-p"), "+", "-"]
        {
            assert_eq!(SortKey::parse(text), None, "{text}");
        }
        assert_eq!(SortKey::parse(&format!("{digits}:p:1")).unwrap().player_id(), "p:1");
        assert_eq!(SortKey::parse(&format!("{}:p", "A".repeat(48))), None, "upper case is another text");
    }
}
