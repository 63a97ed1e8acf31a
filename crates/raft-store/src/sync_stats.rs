//! How long the disk takes: a histogram of the log's syncs of about the last minute, and the one that is under way.
//!
//! Written by whoever holds the committer, around each sync; nothing is held while the disk works, so that readers hear of
//! a sync that hangs while it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// A window is shown until the one after it is over: between one and two of them are seen at any time.
const WINDOW: Duration = Duration::from_secs(30);
/// Longer syncs count as this long.
const SYNC_MAX_US: u64 = 600_000_000;
/// Two digits: what is read is at most one percent too large.
const DIGITS: u8 = 2;

/// The log's syncs of the last 30 to 60 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncSummary {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// Times the disk.
pub(crate) struct SyncStats {
    created: Instant,
    /// When the sync that is under way began: microseconds since `created`, plus one; 0 when there is none.
    begun: AtomicU64,
    windows: Mutex<Windows>,
}

impl SyncStats {
    pub fn new() -> Self {
        let created = Instant::now();
        Self { created, begun: AtomicU64::new(0), windows: Mutex::new(Windows::new(created)) }
    }

    /// The disk is asked for something. One thread at a time.
    pub fn begin(&self, at: Instant) {
        let since = at.saturating_duration_since(self.created);
        self.begun.store(since.as_micros() as u64 + 1, Ordering::Relaxed);
    }

    /// The disk has answered, at this moment, and its sync took this long.
    pub fn end(&self, at: Instant, took: Duration) {
        self.begun.store(0, Ordering::Relaxed);
        self.windows.lock().record(at, took);
    }

    /// Since when the disk has been busy with what it was asked for last; none if it has answered. Never blocks.
    pub fn under_way(&self) -> Option<Instant> {
        let begun = self.begun.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.created + Duration::from_micros(begun))
    }

    pub fn summary(&self) -> SyncSummary {
        self.windows.lock().summary(Instant::now())
    }
}

struct Windows {
    since: Instant,
    current: Histogram<u32>,
    previous: Histogram<u32>,
}

impl Windows {
    fn new(since: Instant) -> Self {
        let empty = Histogram::new_with_bounds(1, SYNC_MAX_US, DIGITS).expect("the bounds are in order");
        Self { since, current: empty.clone(), previous: empty }
    }

    fn rotate(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < WINDOW {
            return;
        }
        std::mem::swap(&mut self.current, &mut self.previous);
        self.current.reset();
        if age >= 2 * WINDOW {
            self.previous.reset();
        }
        self.since = now;
    }

    fn record(&mut self, now: Instant, took: Duration) {
        self.rotate(now);
        self.current.saturating_record(took.as_micros() as u64);
    }

    fn summary(&mut self, now: Instant) -> SyncSummary {
        self.rotate(now);
        let mut both = self.current.clone();
        both.add(&self.previous).expect("of the same bounds");
        SyncSummary {
            count: both.len(),
            p50_us: both.value_at_quantile(0.5),
            p99_us: both.value_at_quantile(0.99),
            max_us: both.max(),
        }
    }
}

/// An extra delay per sync, to see what a disk with real sync cost would do, or one that hangs. Clones are the same one,
/// and it can be changed at any time: a shorter one ends a longer wait. Zero in production.
#[derive(Clone, Debug, Default)]
pub struct SyncDelay(Arc<AtomicU64>);

/// Between two looks at whether the delay was made shorter meanwhile.
const DELAY_STEP: Duration = Duration::from_millis(5);

impl SyncDelay {
    pub fn set(&self, delay: Duration) {
        self.0.store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    #[expect(clippy::disallowed_methods, reason = "pretends to wait for a disk, where that would be waited for")]
    pub(crate) fn wait(&self) {
        if self.get().is_zero() {
            return;
        }
        let began = Instant::now();
        while let Some(left) = self.get().checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
            std::thread::sleep(left.min(DELAY_STEP));
        }
    }
}

impl From<Duration> for SyncDelay {
    fn from(delay: Duration) -> Self {
        let new = Self::default();
        new.set(delay);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn numbers_are_of_the_last_minute_and_within_a_percent() {
        let stats = SyncStats::new();
        let at = |seconds| stats.created + Duration::from_secs(seconds);
        (1..=1_000).for_each(|took| stats.end(at(1), us(took)));
        let seen = stats.windows.lock().summary(at(2));
        assert_eq!(seen.count, 1_000);
        assert!((500..=505).contains(&seen.p50_us), "{seen:?}");
        assert!((990..=1_000).contains(&seen.p99_us), "{seen:?}");
        assert!((1_000..=1_010).contains(&seen.max_us), "{seen:?}");

        stats.end(at(31), us(20_000));
        let seen = stats.windows.lock().summary(at(31));
        assert!(seen.count == 1_001 && seen.max_us >= 20_000 && seen.p50_us <= 506, "{seen:?}");
        stats.end(at(62), us(7));
        let seen = stats.windows.lock().summary(at(62));
        assert_eq!((seen.count, seen.p50_us), (2, 7), "the first thousand are forgotten");
        assert_eq!(stats.windows.lock().summary(at(500)), SyncSummary::default());
        stats.end(at(501), Duration::from_secs(3_600));
        assert!(stats.windows.lock().summary(at(501)).max_us >= SYNC_MAX_US, "bounded, and not lost");
    }

    #[test]
    fn a_sync_under_way_is_seen_until_it_ends() {
        let stats = SyncStats::new();
        assert_eq!(stats.under_way(), None);
        stats.begin(stats.created);
        assert_eq!(stats.under_way(), Some(stats.created));
        stats.end(stats.created + us(80), us(80));
        assert_eq!(stats.under_way(), None);
    }

    #[test]
    fn a_delay_that_is_made_shorter_ends() {
        let delay = SyncDelay::from(Duration::from_secs(3_600));
        let waits = std::thread::spawn({
            let delay = delay.clone();
            move || delay.wait()
        });
        delay.set(Duration::ZERO);
        waits.join().unwrap();
    }

    /// Not a test: what a sync pays for being watched. `cargo test --release -- --ignored --nocapture watched`
    #[test]
    #[ignore = "a measurement"]
    fn what_a_sync_pays_for_being_watched() {
        const SYNCS: u32 = 1_000_000;
        let stats = SyncStats::new();
        let began = Instant::now();
        for number in 0..SYNCS {
            let at = Instant::now();
            stats.begin(at);
            let end = Instant::now();
            stats.end(end, us(u64::from(number % 4_096)));
        }
        eprintln!("{:?} per sync, two looks at the clock included", began.elapsed() / SYNCS);
    }
}
