//! Failed guesses at keys, counted per address: who guesses is slowed down.
//!
//! A game's key has 192 random bits and cannot be guessed, but each guess costs something. Keys that exist pass from
//! any address, at both doors: many players share one, and whoever guesses must not be able to lock them out. The
//! admin token is chosen by people, so an address that failed too often may not try it at all for a while, not even
//! the right one.

use super::bounded_table::BoundedTable;
use super::client_address::ClientAddress;
use super::problem::Problem;
use crate::domain::rate::{WINDOW_MS, WindowCount};

/// Failed guesses a minute from one address; beyond it the address is refused until the minute has passed.
pub const MAX_FAILED_GUESSES: u32 = 20;
/// How long failures are remembered.
const GUESS_WINDOW_SECONDS: u32 = (WINDOW_MS / 1_000) as u32;
/// Addresses that are remembered.
const MAX_ADDRESSES: usize = 100_000;

/// Failed guesses of each address. A table full of live entries refuses nobody new.
#[derive(Debug)]
pub struct FailedGuesses(BoundedTable<ClientAddress, WindowCount>);

impl Default for FailedGuesses {
    fn default() -> Self {
        Self(BoundedTable::new(MAX_ADDRESSES))
    }
}

impl FailedGuesses {
    /// The answer to a key that does not exist: `401`, and once the address has failed too often `429`.
    pub fn refuse(&self, address: ClientAddress, now_ms: i64) -> Problem {
        self.too_many(address, now_ms).unwrap_or_else(|| {
            self.0.update(address, now_ms, |count| count.count(MAX_FAILED_GUESSES, now_ms));
            Problem::key_unknown()
        })
    }

    /// `429` when the address has failed too often to try anything that people choose.
    pub fn too_many(&self, address: ClientAddress, now_ms: i64) -> Option<Problem> {
        let mut count = self.0.get(address);
        let over = !count.is_stale(now_ms) && !count.count(MAX_FAILED_GUESSES, now_ms);
        over.then(|| Problem::too_many_unknown_keys(GUESS_WINDOW_SECONDS))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn an_address_that_guesses_is_refused_until_the_window_has_passed() {
        let guesses = FailedGuesses::default();
        let of = |text: &str| ClientAddress::from(text.parse::<IpAddr>().unwrap());
        let (a, b) = (of("2001:db8::1"), of("2001:db8::2"));
        for _ in 0..MAX_FAILED_GUESSES {
            assert_eq!(guesses.too_many(a, 1_000), None);
            assert_eq!(guesses.refuse(a, 1_000), Problem::key_unknown());
        }
        let refused = Some(Problem::too_many_unknown_keys(GUESS_WINDOW_SECONDS));
        assert_eq!(guesses.too_many(b, 1_000), refused, "the same /64");
        assert_eq!(Some(guesses.refuse(b, 1_000)), refused);
        assert_eq!(guesses.too_many(of("192.0.2.1"), 1_000), None);
        assert_eq!(guesses.too_many(a, 1_000 + WINDOW_MS), None);
    }
}
