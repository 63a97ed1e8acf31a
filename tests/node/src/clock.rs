//! A clock that tests set forward, set right again, or break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use coda_broker::clock::{Clock, SystemClock};
use coda_protocol::ids::Timestamp;
use tokio::time::Instant;

/// The machine's clock, some time ahead of it, and broken once where a test wants an actor to panic.
#[derive(Default)]
pub struct TestClock {
    ahead_ms: AtomicU64,
    broken: AtomicBool,
}

impl TestClock {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn advance_ms(&self, ms: u64) {
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// What was ahead is set right.
    pub fn set_right(&self) {
        self.ahead_ms.store(0, Ordering::SeqCst);
    }

    /// The next to ask panics.
    pub fn break_once(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        assert!(!self.broken.swap(false, Ordering::SeqCst), "the test breaks the clock");
        Timestamp(SystemClock.now().0 + self.ahead_ms.load(Ordering::SeqCst))
    }

    fn instant(&self) -> Instant {
        SystemClock.instant()
    }
}
