//! How often and how soon failed work is tried again.

use serde::{Deserialize, Serialize};

use crate::ids::Millis;
use crate::limits::{DELAY_MS_MAX, RETRIES_MAX};
use crate::reject::Reject;

/// Retries after a failure. Integers only: replicas must compute the same delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Extra attempts after the first.
    pub max_retries: u32,
    /// Delay before the first retry.
    pub initial: Millis,
    /// Growth per retry in percent: 200 doubles, 100 keeps.
    pub factor_percent: u32,
    /// No delay is longer.
    pub max: Millis,
    /// A delay is shortened at random by up to this share of itself, in percent.
    pub jitter_percent: u8,
}

impl RetryPolicy {
    /// No retries.
    pub const NEVER: Self =
        Self { max_retries: 0, initial: Millis(1_000), factor_percent: 200, max: Millis(60_000), jitter_percent: 20 };

    /// The delay before the `retry`-th retry (from 1). `chance` is any hash that is the same on every node.
    #[must_use]
    pub fn delay(&self, retry: u32, chance: u64) -> Millis {
        let mut ms = u128::from(self.initial.0);
        for _ in 1..retry.min(64) {
            ms = (ms * u128::from(self.factor_percent) / 100).min(u128::from(self.max.0));
        }
        let ms = ms.min(u128::from(self.max.0)) as u64;
        let span = ms / 100 * u64::from(self.jitter_percent);
        Millis(ms - if span == 0 { 0 } else { chance % (span + 1) })
    }

    /// Checks a policy that came from outside.
    ///
    /// # Errors
    /// [`Reject::BadPolicy`].
    pub fn check(&self) -> Result<(), Reject> {
        let good = self.max_retries <= RETRIES_MAX
            && self.initial.0 <= DELAY_MS_MAX
            && self.max.0 <= DELAY_MS_MAX
            && (100..=10_000).contains(&self.factor_percent)
            && self.jitter_percent <= 100;
        if good { Ok(()) } else { Err(Reject::BadPolicy) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_limit_and_jitter_only_shortens() {
        let policy = RetryPolicy { jitter_percent: 0, max: Millis(5_000), ..RetryPolicy::NEVER };
        let delays: Vec<u64> = (1..6).map(|retry| policy.delay(retry, 0).0).collect();
        assert_eq!(delays, [1_000, 2_000, 4_000, 5_000, 5_000]);
        let jittered = RetryPolicy { jitter_percent: 20, ..policy };
        assert!((0..1_000).all(|chance| (800..=1_000).contains(&jittered.delay(1, chance).0)));
        assert_eq!(policy.delay(u32::MAX, 0).0, 5_000);
    }
}
