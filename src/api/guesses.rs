//! Failed keys, counted per address: who guesses is slowed down.
//!
//! A game's key has 192 random bits and cannot be guessed; the admin token is chosen by people, so an address that
//! failed too often may not try it at all for a while, not even the right one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::domain::clock::Micros;

/// Failures of one address within [`WINDOW_SECONDS`] before it is refused.
const MAX_FAILURES: u32 = 20;
/// How long failures are remembered.
pub const WINDOW_SECONDS: u32 = 60;
/// Most addresses that are remembered. When there are more, the memory begins anew.
const MAX_ADDRESSES: usize = 50_000;

/// Failed keys of each address.
#[derive(Debug, Default)]
pub struct Guesses {
    failures: Mutex<HashMap<IpAddr, (Micros, u32)>>,
}

impl Guesses {
    /// Whether this address failed too often.
    pub fn too_many(&self, address: IpAddr, now: Micros) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&network(address)).is_some_and(|(since, count)| *count >= MAX_FAILURES && within(*since, now))
    }

    /// Counts one failure.
    pub fn failed(&self, address: IpAddr, now: Micros) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MAX_ADDRESSES {
            failures.retain(|_, (since, _)| within(*since, now));
            if failures.len() >= MAX_ADDRESSES {
                failures.clear();
            }
        }
        let (since, count) = failures.entry(network(address)).or_insert((now, 0));
        if within(*since, now) {
            *count = count.saturating_add(1);
        } else {
            (*since, *count) = (now, 1);
        }
    }
}

fn within(since: Micros, now: Micros) -> bool {
    now < since.plus_seconds(i64::from(WINDOW_SECONDS))
}

/// IPv6 counts by /64: one subscriber has that many addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_guesses_is_refused_until_the_window_has_passed() {
        let guesses = Guesses::default();
        let (a, b): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let start = Micros::from_seconds(1_000);
        for _ in 0..MAX_FAILURES {
            assert!(!guesses.too_many(a, start));
            guesses.failed(a, start);
        }
        assert!(guesses.too_many(b, start), "the same /64");
        assert!(!guesses.too_many("192.0.2.1".parse().unwrap(), start));
        assert!(!guesses.too_many(a, start.plus_seconds(60)));
    }

    #[test]
    fn a_million_addresses_stay_within_the_bound() {
        let guesses = Guesses::default();
        for i in 0..(MAX_ADDRESSES as u32 + 10) {
            guesses.failed(std::net::Ipv4Addr::from(i).into(), Micros::from_seconds(1));
        }
        assert!(guesses.failures.lock().unwrap().len() <= MAX_ADDRESSES);
    }
}
