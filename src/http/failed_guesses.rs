//! Failed guesses at keys, counted per address: who guesses is slowed down.
//!
//! A game's key has 192 random bits and cannot be guessed, but each guess costs something; the admin token is chosen by
//! people, so an address that failed too often may not try it at all for a while, not even the right one.

use super::bounded_table::BoundedTable;
use super::client_address::ClientAddress;
use crate::domain::rate::{WINDOW_MS, WindowCount};

/// Failed guesses a minute from one address; beyond it the address is refused until the minute has passed.
pub const MAX_FAILED_GUESSES: u32 = 20;
/// How long failures are remembered.
pub const GUESS_WINDOW_SECONDS: u32 = (WINDOW_MS / 1_000) as u32;
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
    /// Whether an address has guessed at too many keys.
    pub fn too_many(&self, address: ClientAddress, now_ms: i64) -> bool {
        let mut count = self.0.get(address);
        !count.is_stale(now_ms) && !count.count(MAX_FAILED_GUESSES, now_ms)
    }

    /// Counts a key that does not exist.
    pub fn count(&self, address: ClientAddress, now_ms: i64) {
        self.0.update(address, now_ms, |count| count.count(MAX_FAILED_GUESSES, now_ms));
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
            assert!(!guesses.too_many(a, 1_000));
            guesses.count(a, 1_000);
        }
        assert!(guesses.too_many(b, 1_000), "the same /64");
        assert!(!guesses.too_many(of("192.0.2.1"), 1_000));
        assert!(!guesses.too_many(a, 1_000 + WINDOW_MS));
    }
}
