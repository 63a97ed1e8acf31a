//! What happened, as one number: two runs of one seed that differ in anything differ in it. And as text, for who looks.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

/// Clones are the same trace.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    hash: Xxh3,
    events: u64,
    prints: bool,
}

impl Trace {
    #[must_use]
    pub fn new(prints: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner { hash: Xxh3::new(), events: 0, prints })))
    }

    /// A datagram has arrived. Not printed: there are too many.
    pub fn datagram(&self, at: Duration, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let mut inner = self.0.lock();
        inner.events += 1;
        inner.hash.update(&(at.as_micros() as u64).to_le_bytes());
        for address in [from, to] {
            if let SocketAddr::V4(address) = address {
                inner.hash.update(&address.ip().octets());
            }
            inner.hash.update(&address.port().to_le_bytes());
        }
        inner.hash.update(&(bytes.len() as u64).to_le_bytes());
        inner.hash.update(bytes);
    }

    /// A copy's state was seen. Not printed.
    pub fn state(&self, node: u8, group: u32, applied: u64, digest: u64) {
        let mut inner = self.0.lock();
        inner.events += 1;
        for word in [u64::from(node), u64::from(group), applied, digest] {
            inner.hash.update(&word.to_le_bytes());
        }
    }

    /// Anything else that happened.
    pub fn event(&self, at: Duration, what: impl Display) {
        let mut inner = self.0.lock();
        let line = format!("{:>10.3} {what}", at.as_secs_f64());
        inner.events += 1;
        inner.hash.update(line.as_bytes());
        if inner.prints {
            println!("{line}");
        }
    }

    /// So far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0.lock().hash.digest()
    }

    #[must_use]
    pub fn events(&self) -> u64 {
        self.0.lock().events
    }
}
