//! The one place that asks what time it is. Everything else takes a [`Clock`] as a value.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use coda_protocol::ids::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

/// While a leader's time is ahead of the machine's clock, it goes so much slower, until that has caught up. A delay takes
/// so much longer then, and no more.
const SLEW_PERCENT: u64 = 10;
const _: () = assert!(SLEW_PERCENT > 0 && SLEW_PERCENT < 100);

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

/// Time as the leader of a group tells it: it never goes back, and never stands still.
///
/// A group's time is the latest that any of its leaders has told. Where a clock was ahead and has been set right, on this
/// machine or on that of an earlier leader, the clock alone would tell times that are long over: whatever is delayed would
/// wait for as long as that clock was ahead.
pub struct LeaderClock {
    below: Arc<dyn Clock>,
    /// The latest that is known to have been told, and since when.
    told: Mutex<(Timestamp, Instant)>,
}

impl LeaderClock {
    #[must_use]
    pub fn new(below: Arc<dyn Clock>) -> Self {
        let told = Mutex::new((Timestamp(0), below.instant()));
        Self { below, told }
    }

    /// An earlier leader has told this time.
    pub fn at_least(&self, time: Timestamp) {
        let now = self.now();
        if time > now {
            *self.told.lock() = (time, self.below.instant());
        }
    }
}

impl Clock for LeaderClock {
    fn now(&self) -> Timestamp {
        let (wall, instant) = (self.below.now(), self.below.instant());
        let mut told = self.told.lock();
        let passed_ms = instant.saturating_duration_since(told.1).as_millis() as u64;
        let slewed = Timestamp(told.0.0.saturating_add(passed_ms.saturating_mul(100 - SLEW_PERCENT) / 100));
        if wall < slewed {
            return slewed;
        }
        *told = (wall, instant);
        wall
    }

    fn instant(&self) -> Instant {
        self.below.instant()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    /// Hands that a test moves, and time that passes with or without them.
    struct World {
        wall_ms: AtomicU64,
        passed_ms: AtomicU64,
        begin: Instant,
    }

    impl World {
        fn at(wall_ms: u64) -> Arc<Self> {
            Arc::new(Self { wall_ms: wall_ms.into(), passed_ms: 0.into(), begin: Instant::now() })
        }

        fn set(&self, wall_ms: u64) {
            self.wall_ms.store(wall_ms, Ordering::Relaxed);
        }

        fn pass(&self, ms: u64) {
            self.wall_ms.fetch_add(ms, Ordering::Relaxed);
            self.passed_ms.fetch_add(ms, Ordering::Relaxed);
        }
    }

    impl Clock for World {
        fn now(&self) -> Timestamp {
            Timestamp(self.wall_ms.load(Ordering::Relaxed))
        }

        fn instant(&self) -> Instant {
            self.begin + Duration::from_millis(self.passed_ms.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn a_clock_that_is_right_is_told_as_it_is() {
        let world = World::at(1_000);
        let clock = LeaderClock::new(world.clone());
        assert_eq!(clock.now(), Timestamp(1_000));
        world.pass(1);
        assert_eq!(clock.now(), Timestamp(1_001));
        world.set(90_000);
        assert_eq!(clock.now(), Timestamp(90_000), "it was behind, and is set right");
    }

    #[test]
    fn time_goes_on_when_a_clock_that_was_ahead_is_set_back() {
        let world = World::at(100_000);
        let clock = LeaderClock::new(world.clone());
        assert_eq!(clock.now(), Timestamp(100_000));
        world.set(0);
        assert_eq!(clock.now(), Timestamp(100_000), "it does not go back");
        world.pass(1_000);
        assert_eq!(clock.now(), Timestamp(100_900), "nor does it stand still");
        // It is asked all the time.
        (0..1_000).for_each(|_| {
            world.pass(1);
            clock.now();
        });
        assert_eq!(clock.now(), Timestamp(101_800));
        world.pass(998_000);
        assert_eq!(clock.now(), Timestamp(1_000_000), "the machine's clock has caught up");
        world.pass(7);
        assert_eq!(clock.now(), Timestamp(1_000_007));
    }

    #[test]
    fn what_an_earlier_leader_has_told_holds() {
        let world = World::at(1_000);
        let clock = LeaderClock::new(world.clone());
        clock.at_least(Timestamp(500));
        assert_eq!(clock.now(), Timestamp(1_000));
        clock.at_least(Timestamp(60_000));
        world.pass(100);
        assert_eq!(clock.now(), Timestamp(60_090));
    }
}
