//! How fast what nobody waits for may go.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;

/// Lets so many bytes pass in a second, for all who share it together.
pub struct Pace {
    bytes_per_s: u64,
    clock: Arc<dyn Clock>,
    /// When what has passed so far is through.
    free: Mutex<Option<Instant>>,
}

impl Pace {
    pub fn new(bytes_per_s: u64, clock: Arc<dyn Clock>) -> Self {
        Self { bytes_per_s, clock, free: Mutex::default() }
    }

    /// Waits for those before.
    pub async fn pass(&self, bytes: usize) {
        let turn = self.take_turn(self.clock.instant(), bytes);
        sleep_until(turn).await;
    }

    fn take_turn(&self, now: Instant, bytes: usize) -> Instant {
        let mut free = self.free.lock();
        let turn = free.map_or(now, |free| free.max(now));
        *free = Some(turn + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn who_shares_a_pace_goes_one_after_the_other() {
        let begin = Instant::now();
        let pace = Pace::new(1_000, Arc::new(SystemClock));
        let turns = [(0, 100), (0, 200), (50, 10)].map(|(ms, bytes)| {
            let turn = pace.take_turn(begin + Duration::from_millis(ms), bytes);
            turn.duration_since(begin).as_millis()
        });
        assert_eq!(turns, [0, 100, 300]);
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let begin = Instant::now();
        let pace = Pace::new(1_000, Arc::new(SystemClock));
        let late = begin + Duration::from_secs(60);
        assert_eq!(pace.take_turn(late, 1_000), late);
        assert_eq!(pace.take_turn(late, 1_000), late + Duration::from_secs(1));
    }
}
