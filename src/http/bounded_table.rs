//! A table that forgets what is stale and never grows beyond its bound, whoever fills it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

use crate::domain::rate::{HeldCount, WindowCount};

const SHARDS: usize = 16;
/// A full shard is swept for stale entries at most this often, so that a flood pays for one sweep and not for many.
const SWEEP_INTERVAL_MS: i64 = 1_000;

/// Values that tell when they mean nothing any more.
pub trait Expires {
    /// Whether it may be forgotten.
    fn is_stale(&self, now_ms: i64) -> bool;
}

#[derive(Debug)]
struct Shard<K, V> {
    entries: HashMap<K, V>,
    swept_at: i64,
}

impl Expires for WindowCount {
    fn is_stale(&self, now_ms: i64) -> bool {
        Self::is_stale(self, now_ms)
    }
}

impl Expires for HeldCount {
    fn is_stale(&self, now_ms: i64) -> bool {
        Self::is_stale(self, now_ms)
    }
}

/// A sharded map of at most `capacity` entries.
#[derive(Debug)]
pub struct BoundedTable<K, V> {
    shards: Vec<Mutex<Shard<K, V>>>,
    hasher: RandomState,
    shard_capacity: usize,
}

impl<K: Hash + Eq + Copy, V: Expires + Default + Copy> BoundedTable<K, V> {
    /// A table for about `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        let shard = || Mutex::new(Shard { entries: HashMap::new(), swept_at: i64::MIN });
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            shard_capacity: capacity.div_ceil(SHARDS),
        }
    }

    /// The value of `key`; the default when there is none.
    pub fn get(&self, key: K) -> V {
        let shard = self.shard(&key).lock().unwrap_or_else(PoisonError::into_inner);
        shard.entries.get(&key).copied().unwrap_or_default()
    }

    /// Whether there is a value of `key`, stale or not.
    pub fn has(&self, key: &K) -> bool {
        self.shard(key).lock().unwrap_or_else(PoisonError::into_inner).entries.contains_key(key)
    }

    /// Changes the value of `key`, beginning with the default. `None`: the table is full of live entries, and nothing
    /// was changed.
    pub fn update<T>(&self, key: K, now_ms: i64, change: impl FnOnce(&mut V) -> T) -> Option<T> {
        let mut guard = self.shard(&key).lock().unwrap_or_else(PoisonError::into_inner);
        let shard = &mut *guard;
        if shard.entries.len() >= self.shard_capacity && !shard.entries.contains_key(&key) {
            if now_ms.saturating_sub(shard.swept_at) >= SWEEP_INTERVAL_MS {
                shard.swept_at = now_ms;
                shard.entries.retain(|_, value| !value.is_stale(now_ms));
            }
            if shard.entries.len() >= self.shard_capacity {
                return None;
            }
        }
        Some(change(shard.entries.entry(key).or_default()))
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).entries.len()).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        // The map hashes anew with its own seed; the low bits here only choose among shards.
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rate::WINDOW_MS;

    impl Expires for i64 {
        fn is_stale(&self, now_ms: i64) -> bool {
            now_ms >= *self
        }
    }

    #[test]
    fn a_million_addresses_take_bounded_memory() {
        let table = BoundedTable::<u64, WindowCount>::new(10_000);
        for address in 0..1_000_000 {
            table.update(address, 0, |count| count.count(5, 0));
        }
        assert!(table.len() <= 10_016, "{}", table.len());
        assert_eq!(table.update(u64::MAX, 5, |c| c.count(5, 5)), None, "full of live entries");
        assert_eq!(table.update(u64::MAX, WINDOW_MS, |c| c.count(5, WINDOW_MS)), Some(true), "stale ones make room");
    }

    #[test]
    fn values_are_kept_by_key() {
        let table = BoundedTable::<u32, i64>::new(100);
        table.update(1, 0, |value| *value = 7);
        table.update(1, 0, |value| *value += 1);
        assert_eq!((table.get(1), table.get(2)), (8, 0));
    }
}
