//! Keys that this worker stored lately. A group with a key seen before would fail its COPY, so its job goes the
//! careful way at once. Only an optimisation: the primary key decides.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use uuid::Uuid;

use crate::domain::clock::Micros;
use crate::domain::ids::GameId;

/// Keys per generation; two generations of 8-byte hashes are about 3 MB.
const GENERATION: usize = 100_000;

/// Hashes of the last 100,000 to 200,000 keys. A collision sends a new event the careful way, which is harmless.
#[derive(Debug, Default)]
pub struct Seen {
    hasher: RandomState,
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl Seen {
    /// Whether the key was noted lately.
    pub fn contains(&self, key: &(GameId, Uuid, Micros)) -> bool {
        let hash = self.hasher.hash_one(key);
        self.young.contains(&hash) || self.old.contains(&hash)
    }

    /// Notes a stored key, forgetting the oldest generation when the young one is full.
    pub fn note(&mut self, key: &(GameId, Uuid, Micros)) {
        if self.young.len() >= GENERATION {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(self.hasher.hash_one(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_keys_are_known_and_memory_is_bounded() {
        let mut seen = Seen::default();
        let key = |i: u128| (GameId(1), Uuid::from_u128(i), Micros(0));
        for i in 0..250_000 {
            seen.note(&key(i));
        }
        assert!(seen.contains(&key(249_999)) && seen.contains(&key(150_001)));
        assert!(!seen.contains(&key(1)));
        assert!(seen.young.len() + seen.old.len() <= 2 * GENERATION);
    }
}
