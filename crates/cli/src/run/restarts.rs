//! When a worker that has ended is started again. Pure: time arrives as data.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub const DELAY_MIN: Duration = Duration::from_millis(100);
pub const DELAY_MAX: Duration = Duration::from_secs(10);
/// A worker that lived this long was healthy: the next delay is the smallest again.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max: usize,
    pub window: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    After(Duration),
    GiveUp,
}

/// The restarts of one worker.
#[derive(Debug)]
pub struct Restarts {
    limits: Limits,
    /// Within the window, oldest first; never more than the limit.
    recent: VecDeque<Instant>,
    next_delay: Duration,
}

impl Restarts {
    pub fn new(limits: Limits) -> Self {
        Self { limits, recent: VecDeque::new(), next_delay: DELAY_MIN }
    }

    pub fn on_end(&mut self, started: Instant, now: Instant) -> Decision {
        while self.recent.front().is_some_and(|&at| now.duration_since(at) > self.limits.window) {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.limits.max {
            return Decision::GiveUp;
        }
        self.recent.push_back(now);
        if now.duration_since(started) >= HEALTHY_AFTER {
            self.next_delay = DELAY_MIN;
        }
        let delay = self.next_delay;
        self.next_delay = (delay * 2).min(DELAY_MAX);
        Decision::After(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Ends once per entry, after having lived that long; restarts take their delay.
    fn story(max: usize, lives: &[Duration]) -> Vec<Decision> {
        let mut restarts = Restarts::new(Limits { max, window: WINDOW });
        let mut now = Instant::now();
        let mut decisions = Vec::new();
        for &life in lives {
            let started = now;
            now += life;
            let decision = restarts.on_end(started, now);
            if let Decision::After(delay) = decision {
                now += delay;
            }
            decisions.push(decision);
        }
        decisions
    }

    #[test]
    fn delays_double_from_100_ms_to_10_s() {
        let expected = [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000].map(|at| Decision::After(ms(at)));
        assert_eq!(story(100, &[ms(0); 9]), expected);
    }

    #[test]
    fn half_a_minute_of_health_resets_the_delay() {
        let lives = [ms(0), ms(0), HEALTHY_AFTER, ms(0), HEALTHY_AFTER - ms(1)];
        let expected = [100, 200, 100, 200, 400].map(|at| Decision::After(ms(at)));
        assert_eq!(story(100, &lives), expected);
    }

    #[test]
    fn one_end_more_than_the_limit_within_the_window_is_the_last() {
        assert_eq!(story(2, &[ms(0); 3]).last(), Some(&Decision::GiveUp));
        assert_eq!(story(0, &[HEALTHY_AFTER]), [Decision::GiveUp]);
    }

    #[test]
    fn restarts_before_the_window_are_forgiven() {
        let lives = [ms(0), ms(0), WINDOW + ms(1), ms(0), ms(0)];
        let gave_up = story(2, &lives).iter().map(|decision| *decision == Decision::GiveUp).collect::<Vec<_>>();
        assert_eq!(gave_up, [false, false, false, false, true]);
    }
}
