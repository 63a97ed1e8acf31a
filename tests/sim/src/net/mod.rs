//! The network: datagrams on their way, and what happens to them there.
//!
//! It decides by addresses, sizes, order and its own chance, never by what a datagram says: that is encrypted, and would
//! be somebody else's randomness.

mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::trace::Trace;
use socket::Inbox;
pub use socket::Nic;

/// The largest datagram that arrives: an Ethernet frame's, less the headers of IP and UDP.
const DATAGRAM_BYTES_MAX: usize = 1_472;
/// Datagrams that may wait at a socket, as in a kernel's buffer.
const INBOX_DATAGRAMS_MAX: usize = 2_048;

/// How good a way between two hosts is. Chances are per thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    pub delay_min: Duration,
    pub delay_max: Duration,
    pub loss: u32,
    pub twice: u32,
    /// Those that are late, by up to [`Quality::late_max`].
    pub late: u32,
    pub late_max: Duration,
}

impl Quality {
    /// A good switch.
    pub const GOOD: Self = Self {
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(1),
        loss: 0,
        twice: 0,
        late: 0,
        late_max: Duration::ZERO,
    };
}

/// A handle to the network. Clones are the same.
#[derive(Clone)]
pub struct Net(Arc<Mutex<State>>);

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Net")
    }
}

struct State {
    now: Duration,
    chance: StdRng,
    trace: Trace,
    sockets: BTreeMap<SocketAddr, Arc<Inbox>>,
    /// By when they arrive, then as they were sent.
    flying: BTreeMap<(Duration, u64), Datagram>,
    sent: u64,
    quality: Quality,
    /// What is worse than the rest, one way.
    ways: BTreeMap<(IpAddr, IpAddr), Quality>,
    /// Nothing goes this way.
    cut: BTreeSet<(IpAddr, IpAddr)>,
    counts: Counts,
}

/// What became of all datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub sent: u64,
    pub delivered: u64,
    pub cut: u64,
    pub lost: u64,
    pub twice: u64,
    pub late: u64,
}

struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Arc<[u8]>,
}

impl Net {
    #[must_use]
    pub fn new(seed: u64, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: Duration::ZERO,
            chance: StdRng::seed_from_u64(seed),
            trace,
            sockets: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            quality: Quality::GOOD,
            ways: BTreeMap::new(),
            cut: BTreeSet::new(),
            counts: Counts::default(),
        })))
    }

    /// From now on all ways are like this, but those that were made worse.
    pub fn set_quality(&self, quality: Quality) {
        self.0.lock().quality = quality;
    }

    /// From now on this way is like this.
    pub fn set_way(&self, from: IpAddr, to: IpAddr, quality: Quality) {
        self.0.lock().ways.insert((from, to), quality);
    }

    pub fn restore_way(&self, from: IpAddr, to: IpAddr) {
        self.0.lock().ways.remove(&(from, to));
    }

    /// Nothing goes this way from now on; what is on its way arrives.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        self.0.lock().cut.insert((from, to));
    }

    pub fn mend(&self, from: IpAddr, to: IpAddr) {
        self.0.lock().cut.remove(&(from, to));
    }

    /// All is good again.
    pub fn heal(&self) {
        let mut state = self.0.lock();
        state.cut.clear();
        state.ways.clear();
        state.quality = Quality::GOOD;
    }

    /// The host is gone: its sockets hear and say nothing more.
    pub fn unplug(&self, host: IpAddr) {
        let mut state = self.0.lock();
        let gone: Vec<SocketAddr> = state.sockets.keys().filter(|address| address.ip() == host).copied().collect();
        for address in gone {
            if let Some(inbox) = state.sockets.remove(&address) {
                inbox.close();
            }
        }
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    /// Lets time pass, and delivers what has arrived by then.
    pub fn advance(&self, now: Duration) {
        let mut arrived = Vec::new();
        {
            let mut state = self.0.lock();
            state.now = now;
            while let Some(first) = state.flying.first_entry() {
                if first.key().0 > now {
                    break;
                }
                let datagram = first.remove();
                // What the cut caught on its way is as lost as what was sent after it.
                if let Some(inbox) = state.sockets.get(&datagram.to).cloned() {
                    state.counts.delivered += 1;
                    let (from, to) = (datagram.from, datagram.to);
                    state.trace.datagram(now, from, to, &datagram.bytes);
                    arrived.push((inbox, from, datagram.bytes));
                }
            }
        }
        for (inbox, from, bytes) in arrived {
            inbox.push(from, bytes);
        }
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.0.lock().send(from, to, bytes);
    }
}

impl State {
    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.counts.sent += 1;
        let way = (from.ip(), to.ip());
        if self.cut.contains(&way) {
            self.counts.cut += 1;
            return;
        }
        let quality = self.ways.get(&way).copied().unwrap_or(self.quality);
        if bytes.len() > DATAGRAM_BYTES_MAX || self.happens(quality.loss) {
            self.counts.lost += 1;
            return;
        }
        let copies = if self.happens(quality.twice) { 2 } else { 1 };
        self.counts.twice += copies - 1;
        let bytes: Arc<[u8]> = bytes.into();
        for _ in 0..copies {
            let mut delay = self.between(quality.delay_min, quality.delay_max);
            if self.happens(quality.late) {
                self.counts.late += 1;
                delay += self.between(Duration::ZERO, quality.late_max);
            }
            self.sent += 1;
            let bytes = bytes.clone();
            self.flying.insert((self.now + delay, self.sent), Datagram { from, to, bytes });
        }
    }

    fn happens(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.chance.random_range(0..1_000) < per_thousand
    }

    fn between(&mut self, min: Duration, max: Duration) -> Duration {
        if min >= max {
            return min;
        }
        Duration::from_micros(self.chance.random_range(min.as_micros() as u64..=max.as_micros() as u64))
    }
}
