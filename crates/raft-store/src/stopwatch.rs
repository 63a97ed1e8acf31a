//! How long ago something happened: what an operator is told, never what is written.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Started anew whenever the thing happens.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch(Mutex<Option<Instant>>);

impl Stopwatch {
    pub fn restart(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// None before it has happened.
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.lock().map(|since| since.elapsed())
    }
}
