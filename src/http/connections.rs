//! Counting open connections, in all and per address: overload is refused (ARCHITECTURE.md#invariants).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The listener has its most connections.
    Listener,
    /// The address has its most connections.
    Address,
}

/// The open connections of one listener.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    max_per_address: usize,
    exempt: Vec<IpNet>,
    open: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// One open connection; counted until it is dropped.
#[derive(Debug)]
pub struct Permit {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
}

impl Connections {
    /// No connection yet. Peers in `exempt` (load balancers) count towards `max` only.
    pub fn new(max: usize, max_per_address: usize, exempt: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self {
            max,
            max_per_address,
            exempt,
            open: AtomicUsize::new(0),
            by_address: Mutex::new(HashMap::new()),
        })
    }

    /// Counts a new connection of `peer`, or says why there is no room for it.
    ///
    /// # Errors
    /// [`Full`].
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Result<Permit, Full> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Listener);
        }
        let peer = peer.to_canonical();
        if self.exempt.iter().any(|network| network.contains(&peer)) {
            return Ok(Permit { connections: Arc::clone(self), address: None });
        }
        let address = counted_address(peer);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_insert(0);
        if *count >= self.max_per_address {
            drop(by_address);
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Address);
        }
        *count += 1;
        drop(by_address);
        Ok(Permit { connections: Arc::clone(self), address: Some(address) })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether three quarters of all connections are open: then idle ones have less time.
    pub fn crowded(&self) -> bool {
        self.open() >= self.max - self.max / 4
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut by_address = self.connections.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

/// IPv6 counts by /64, because one subscriber has at least that many addresses.
fn counted_address(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_cap_and_gives_back_what_it_closes() {
        let connections = Connections::new(10, 2, vec!["10.0.0.0/8".parse().unwrap()]);
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let one = connections.admit(peer).unwrap();
        let _two = connections.admit(peer).unwrap();
        assert_eq!(connections.admit(peer).unwrap_err(), Full::Address);
        assert_eq!(connections.open(), 2);
        drop(one);
        let _again = connections.admit(peer).unwrap();
        let _proxy: Vec<_> = (0..8).map(|_| connections.admit("10.1.2.3".parse().unwrap()).unwrap()).collect();
        assert_eq!(connections.admit("192.0.2.9".parse().unwrap()).unwrap_err(), Full::Listener);
        assert!(connections.crowded());
    }

    #[test]
    fn a_subscribers_ipv6_network_is_one_address() {
        let connections = Connections::new(10, 1, Vec::new());
        let _one = connections.admit("2001:db8:1:2::1".parse().unwrap()).unwrap();
        assert_eq!(connections.admit("2001:db8:1:2:ffff::9".parse().unwrap()).unwrap_err(), Full::Address);
        let _other = connections.admit("2001:db8:1:3::1".parse().unwrap()).unwrap();
    }
}
