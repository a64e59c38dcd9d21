//! The sort key of an entry in a Redis leaderboard: text whose lexicographic order is the exact order of the
//! tuple (score, subscore, `reached_at`, player), for every `i64` (fine print 15).
//!
//! `hex16(score) hex16(subscore) hex16(reached_at µs)`, lower case, then `:` and the player id. Scores are
//! order-adjusted: sign-flipped, and complemented where the highest ranks first, so that the smallest text is rank 1.

use super::board::Order;
use super::clock::Micros;

/// Length of the part before `:`.
pub const PREFIX_LEN: usize = 48;
/// Length of the part that decides a competition rank: score and subscore.
pub const SCORE_PREFIX_LEN: usize = 32;

/// A published standing without its rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Published score.
    pub score: i64,
    /// Published subscore.
    pub subscore: i64,
    /// When it was reached.
    pub reached_at: Micros,
}

/// An entry as a rebuild reads it from Postgres and writes it to Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedStanding {
    /// Whose.
    pub player_id: String,
    /// Published values.
    pub standing: Standing,
    /// The entry's version.
    pub version: i64,
}

const fn flip(value: i64) -> u64 {
    (value as u64) ^ (1 << 63)
}

const fn adjust(value: i64, order: Order) -> u64 {
    match order {
        Order::Ascending => flip(value),
        Order::Descending => !flip(value),
    }
}

const fn restore(key: u64, order: Order) -> i64 {
    match order {
        Order::Ascending => (key ^ (1 << 63)) as i64,
        Order::Descending => (!key ^ (1 << 63)) as i64,
    }
}

fn write_hex(out: &mut [u8], value: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (i, slot) in out.iter_mut().enumerate() {
        *slot = DIGITS[((value >> (60 - 4 * i)) & 15) as usize];
    }
}

fn read_hex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0u64, |value, &b| {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

/// The 48 characters before `:`.
pub fn encode_prefix(standing: &Standing, order: Order) -> [u8; PREFIX_LEN] {
    let mut out = [0u8; PREFIX_LEN];
    write_hex(&mut out[..16], adjust(standing.score, order));
    write_hex(&mut out[16..32], adjust(standing.subscore, order));
    write_hex(&mut out[32..], flip(standing.reached_at.0));
    out
}

/// The whole member: prefix, `:`, player.
pub fn encode(standing: &Standing, player_id: &str, order: Order) -> String {
    let mut member = Vec::with_capacity(PREFIX_LEN + 1 + player_id.len());
    member.extend_from_slice(&encode_prefix(standing, order));
    member.push(b':');
    member.extend_from_slice(player_id.as_bytes());
    String::from_utf8(member).unwrap_or_default()
}

/// Reads a member back. `None` when it is no sort key.
pub fn decode(member: &[u8], order: Order) -> Option<(Standing, &str)> {
    if member.get(PREFIX_LEN) != Some(&b':') {
        return None;
    }
    let standing = Standing {
        score: restore(read_hex(&member[..16])?, order),
        subscore: restore(read_hex(&member[16..32])?, order),
        reached_at: Micros((read_hex(&member[32..PREFIX_LEN])? ^ (1 << 63)) as i64),
    };
    Some((standing, std::str::from_utf8(&member[PREFIX_LEN + 1..]).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order() -> impl Strategy<Value = Order> {
        prop_oneof![Just(Order::Ascending), Just(Order::Descending)]
    }

    fn tuple() -> impl Strategy<Value = (i64, i64, i64, String)> {
        let edge =
            prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0), Just(-1), Just(1 << 53), any::<i64>(), -3i64..3];
        (edge.clone(), edge.clone(), edge, "[a-z0-9:-]{1,8}")
    }

    proptest! {
        #[test]
        fn the_key_sorts_as_the_tuple_does(order in order(), a in tuple(), b in tuple()) {
            let key = |t: &(i64, i64, i64, String)| {
                encode(&Standing { score: t.0, subscore: t.1, reached_at: Micros(t.2) }, &t.3, order)
            };
            let score = |x: &(i64, i64, i64, String)| (x.0, x.1);
            let mut expected = score(&a).cmp(&score(&b));
            if order == Order::Descending {
                expected = expected.reverse();
            }
            let expected = expected.then(a.2.cmp(&b.2)).then(a.3.cmp(&b.3));
            prop_assert_eq!(key(&a).cmp(&key(&b)), expected);
        }

        #[test]
        fn the_key_reads_back(order in order(), t in tuple()) {
            let standing = Standing { score: t.0, subscore: t.1, reached_at: Micros(t.2) };
            let member = encode(&standing, &t.3, order);
            prop_assert_eq!(decode(member.as_bytes(), order), Some((standing, t.3.as_str())));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(decode(b"", Order::Ascending), None);
        assert_eq!(decode(&[b'z'; 60], Order::Ascending), None);
        assert_eq!(decode("0".repeat(48).as_bytes(), Order::Ascending), None);
    }
}
