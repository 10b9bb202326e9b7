//! The number of connections of each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections by address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    all: Addresses,
    address: IpAddr,
}

impl Addresses {
    /// Counts a connection; `None` if there are `limit` from its address.
    pub(crate) fn enter(&self, address: IpAddr, limit: usize) -> Option<Seat> {
        let address = network(address);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(address).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Seat { all: self.clone(), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.address);
            }
        }
    }
}

/// The first half of an IPv6 address: the rest is the client's own choice.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::Addresses;

    #[test]
    fn addresses_of_one_network_count_together() {
        let all = Addresses::default();
        let enter = |text: &str| text.parse().ok().and_then(|address| all.enter(address, 2));
        let held = [enter("2001:db8::1"), enter("2001:db8::2"), enter("::ffff:10.0.0.1")];
        assert!(held.iter().all(Option::is_some));
        assert!(enter("2001:db8::ffff:3").is_none());
        let other = [enter("2001:db8:0:1::1"), enter("10.0.0.1")];
        assert!(other.iter().all(Option::is_some));
        assert!(enter("10.0.0.1").is_none());
        drop(held);
        assert!(enter("10.0.0.1").is_some());
        drop(other);
        assert!(all.0.lock().is_ok_and(|all| all.is_empty()));
    }
}
