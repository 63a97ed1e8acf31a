//! Timers: nothing runs before its time. How late it runs is a figure, not a promise.

use std::fmt::Debug;

use crate::properties::TIMERS_NEVER_EARLY;
use crate::{Moment, Violation};

/// Something that was to happen so long after it was accepted, and did.
#[derive(Clone, Debug)]
pub struct Fired<K> {
    pub key: K,
    /// Before it was accepted, so that a fault of the harness errs on the right side.
    pub asked: Moment,
    pub delay: Moment,
    pub at: Moment,
}

/// Checks all, and says how late each was after its acknowledgement could have been at the earliest. `drift_ppm`: by so much
/// may a node's clock run fast, if that is one of the faults.
#[must_use]
pub fn check<K: Debug>(fired: &[Fired<K>], drift_ppm: u64) -> (Vec<Moment>, Vec<Violation>) {
    let mut broken = Vec::new();
    let mut late = Vec::new();
    for one in fired {
        let allowed =
            one.delay - (u128::from(one.delay) * u128::from(drift_ppm) / 1_000_000).min(one.delay.into()) as Moment;
        if one.at < one.asked.saturating_add(allowed) {
            broken.push(Violation::new(
                TIMERS_NEVER_EARLY,
                format!("{one:?} is {} early", one.asked + one.delay - one.at),
            ));
        }
        late.push(one.at.saturating_sub(one.asked.saturating_add(one.delay)));
    }
    (late, broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_a_figure_and_early_is_wrong() {
        let fired = |at| Fired { key: "t", asked: 1_000, delay: 500, at };
        assert_eq!(check(&[fired(1_500), fired(1_700)], 0), (vec![0, 200], Vec::new()));
        let (_, broken) = check(&[fired(1_499)], 0);
        assert_eq!(broken[0].property, TIMERS_NEVER_EARLY);
        assert!(broken[0].detail.ends_with("is 1 early"), "{broken:?}");
        assert!(check(&[fired(1_495)], 10_000).1.is_empty(), "a clock runs one percent fast");
        assert!(!check(&[fired(1_494)], 10_000).1.is_empty());
        assert!(check(&[fired(1_000)], 2_000_000).1.is_empty(), "no drift makes a delay negative");
    }
}
