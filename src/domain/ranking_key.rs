//! The sort key of an entry in a Redis leaderboard: bytes whose lexicographic order is the exact order of the
//! tuple (score, subscore, `reached_at`, player), for every `i64` (docs/rules.md#sort-keys-order-standings).
//!
//! Three numbers, then the player id. The numbers alone are the entry's *place*. Each is as short as it can be, because
//! Redis spends its time on cache misses on the way through a sorted set: one byte that says its sign and length, then
//! its bytes, the highest first, without those that say nothing. Where the highest ranks first, score and subscore are
//! complemented, so that the smallest key is rank 1. `src/ranking/scripts/reading.lua` reads the lengths too.

use super::board::Order;
use super::clock::Micros;

/// The leading byte of 0: those of larger numbers are larger by as many bytes as they have, those of negative ones
/// smaller by one and as many bytes as their complement has.
const ZERO: u8 = 0x80;

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

impl Standing {
    /// Whether they share a competition rank: score and subscore are equal.
    pub fn ties(&self, other: &Self) -> bool {
        (self.score, self.subscore) == (other.score, other.subscore)
    }
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

/// What is stored of a score: its complement, where the highest ranks first.
const fn adjust(value: i64, order: Order) -> i64 {
    match order {
        Order::Ascending => value,
        Order::Descending => !value,
    }
}

/// How many bytes of `value` say something beside its sign.
const fn significant(value: i64) -> u8 {
    let magnitude = if value < 0 { !value } else { value };
    (64 - magnitude.leading_zeros()).div_ceil(8) as u8
}

fn write_number(out: &mut Vec<u8>, value: i64) {
    let length = significant(value);
    out.push(if value < 0 { ZERO - 1 - length } else { ZERO + length });
    out.extend_from_slice(&value.to_be_bytes()[8 - usize::from(length)..]);
}

/// The number at the beginning, and what follows it. Only the shortest form is one.
fn read_number(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (&lead, rest) = bytes.split_first()?;
    let (length, sign) = if lead < ZERO { (ZERO - 1 - lead, 0xff) } else { (lead - ZERO, 0) };
    let (written, rest) = rest.split_at_checked(usize::from(length))?;
    let mut whole = [sign; 8];
    whole.get_mut(8usize.checked_sub(written.len())?..)?.copy_from_slice(written);
    let value = i64::from_be_bytes(whole);
    (significant(value) == length && (value < 0) == (lead < ZERO)).then_some((value, rest))
}

/// Appends an entry's place: its key without the player.
pub fn write_place(out: &mut Vec<u8>, standing: &Standing, order: Order) {
    write_number(out, adjust(standing.score, order));
    write_number(out, adjust(standing.subscore, order));
    write_number(out, standing.reached_at.0);
}

/// The whole key: place and player.
pub fn encode(standing: &Standing, player_id: &str, order: Order) -> Vec<u8> {
    // A score and a time of our century take some fifteen bytes.
    let mut key = Vec::with_capacity(24 + player_id.len());
    write_place(&mut key, standing, order);
    key.extend_from_slice(player_id.as_bytes());
    key
}

/// Reads a key back. `None` when it is no sort key.
pub fn decode(key: &[u8], order: Order) -> Option<(Standing, &str)> {
    let (score, rest) = read_number(key)?;
    let (subscore, rest) = read_number(rest)?;
    let (reached_at, player_id) = read_number(rest)?;
    let standing =
        Standing { score: adjust(score, order), subscore: adjust(subscore, order), reached_at: Micros(reached_at) };
    Some((standing, std::str::from_utf8(player_id).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order() -> impl Strategy<Value = Order> {
        prop_oneof![Just(Order::Ascending), Just(Order::Descending)]
    }

    /// Of every length.
    fn number() -> impl Strategy<Value = i64> + Clone {
        (any::<i64>(), 0u32..64).prop_map(|(value, bits)| value >> bits)
    }

    fn tuple() -> impl Strategy<Value = (i64, i64, i64, String)> {
        let edge = prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0), Just(-1), Just(1 << 53), number(), -3i64..3];
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
            let key = encode(&standing, &t.3, order);
            prop_assert_eq!(decode(&key, order), Some((standing, t.3.as_str())));
        }

        #[test]
        fn there_is_one_key_for_a_standing(order in order(), t in tuple(), at in 0usize..30, byte in prop_oneof![Just(0), Just(0xff), any::<u8>()], change in 0..3) {
            let standing = Standing { score: t.0, subscore: t.1, reached_at: Micros(t.2) };
            let mut bytes = encode(&standing, &t.3, order);
            let at = at % bytes.len();
            match change {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if let Some((standing, player)) = decode(&bytes, order) {
                prop_assert_eq!(encode(&standing, player, order), bytes);
            }
        }
    }

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        let written = |value| {
            let mut out = Vec::new();
            write_number(&mut out, value);
            out
        };
        assert_eq!(written(0), [0x80]);
        assert_eq!(written(-1), [0x7f]);
        assert_eq!(written(1), [0x81, 1]);
        assert_eq!(written(255), [0x81, 255]);
        assert_eq!(written(256), [0x82, 1, 0]);
        assert_eq!(written(-2), [0x7e, 0xfe]);
        assert_eq!(written(-257), [0x7d, 0xfe, 0xff]);
        assert_eq!(written(i64::MAX), [0x88, 0x7f, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(written(i64::MIN), [0x77, 0x80, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (bytes, why) in [
            (&b""[..], "empty"),
            (b"\x80\x80", "two numbers"),
            (b"\x80\x80\x82\x01", "a number that is cut off"),
            (b"\x80\x80\x81\x00p", "a zero that nobody writes"),
            (b"\x80\x80\x7e\xffp", "a sign that nobody writes"),
            (b"\x80\x80\x88\xff\xff\xff\xff\xff\xff\xff\xffp", "beyond an i64"),
            (b"\x80\x80\x89\x01\x01\x01\x01\x01\x01\x01\x01\x01p", "nine bytes"),
            (b"\x80\x80\x80\xff", "no text"),
            (b"zzzzzzzzzzzz", "text"),
        ] {
            assert_eq!(decode(bytes, Order::Ascending), None, "{why}");
        }
        assert!(decode(b"\x80\x80\x80p", Order::Ascending).is_some());
    }
}
