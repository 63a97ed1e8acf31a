//! The one place that asks what time it is. Everything else takes a [`Clock`] as a value.

use std::time::{SystemTime, UNIX_EPOCH};

use coda_protocol::ids::Timestamp;
use tokio::time::Instant;

/// What the broker knows of time.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time, for the proposer.
    fn now(&self) -> Timestamp;
    /// Time that only moves forward, for windows and uptimes.
    fn instant(&self) -> Instant;
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_millis() as u64)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}
