//! Connections that are not greeted yet, and from where: so that no address takes the place of all others with them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// All of an endpoint's.
pub struct Handshakes {
    per_address_max: usize,
    by_address: Mutex<BTreeMap<IpAddr, usize>>,
}

/// One of them, until this is dropped.
pub struct Handshake {
    all: Arc<Handshakes>,
    from: IpAddr,
}

impl Handshakes {
    #[must_use]
    pub fn new(per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { per_address_max, by_address: Mutex::default() })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_address.lock().values().sum()
    }

    /// Another one. `None` if as many come from there as may.
    pub fn begin(self: &Arc<Self>, from: IpAddr) -> Option<Handshake> {
        let mut all = self.by_address.lock();
        let count = all.entry(from).or_default();
        if *count >= self.per_address_max {
            return None;
        }
        *count += 1;
        Some(Handshake { all: self.clone(), from })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut all = self.all.by_address.lock();
        if let Some(count) = all.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.from);
            }
        }
    }
}
