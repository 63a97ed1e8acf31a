//! Order within a lane of one group: of ready work the one of higher priority is leased first, and of one priority the one
//! accepted first.
//!
//! Read off the log, not off clocks: an index says when work was accepted, a token when it was leased.

use std::fmt::Debug;

use crate::Violation;
use crate::properties::ORDER_IN_A_LANE;

/// Work without delay, of one lane and group, and its first lease. Work that was leased before by somebody who never heard of
/// it has no first lease here: leave it out.
#[derive(Clone, Debug)]
pub struct Leased<K> {
    pub work: K,
    /// Higher first.
    pub priority: u8,
    /// Index of the entry that accepted it.
    pub accepted: u64,
    /// The token of its first lease.
    pub token: u64,
    /// Index of the entry that granted that.
    pub granted: u64,
}

/// Checks one lane. Work accepted by one entry may be in any order among itself.
#[must_use]
pub fn check<K: Debug>(leased: &[Leased<K>]) -> Vec<Violation> {
    let mut by_token: Vec<&Leased<K>> = leased.iter().collect();
    by_token.sort_by_key(|one| std::cmp::Reverse(one.token));
    let mut broken = Vec::new();
    // Of each priority the one accepted first among those leased later.
    let mut first: [Option<&Leased<K>>; 256] = [None; 256];
    for one in by_token {
        // It was ready when this one was leased, and should have gone first.
        let own = usize::from(one.priority);
        let higher = first[own + 1..].iter().flatten().find(|later| later.accepted <= one.granted);
        let sooner = first[own].filter(|later| later.accepted < one.accepted);
        if let Some(passed) = higher.or(sooner.as_ref()) {
            broken.push(Violation::new(ORDER_IN_A_LANE, format!("{one:?} was leased before {passed:?}")));
        }
        if first[own].is_none_or(|known| one.accepted < known.accepted) {
            first[own] = Some(one);
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leased(priority: u8, accepted: u64, token: u64) -> Leased<u64> {
        Leased { work: token, priority, accepted, token, granted: token / 10 }
    }

    #[test]
    fn priority_goes_first_then_age_and_what_was_not_there_yet_is_not_passed() {
        let fine = [
            leased(4, 2, 30),
            leased(4, 2, 31),
            leased(9, 4, 40),
            leased(4, 3, 41),
            leased(0, 1, 50),
            leased(9, 6, 60),
        ];
        assert_eq!(check(&fine), []);
        assert_eq!(check(&[leased(4, 5, 50), leased(4, 3, 51)]).len(), 1, "the older one waits");
        assert_eq!(check(&[leased(4, 1, 50), leased(9, 5, 51)]).len(), 1, "the higher one waits");
        assert_eq!(check(&[leased(4, 1, 50), leased(9, 6, 60)]), [], "the higher one was not there");
    }

    /// Every pair.
    fn brute(leased: &[Leased<u64>]) -> bool {
        leased.iter().any(|one| {
            leased.iter().any(|later| {
                let first = (later.priority > one.priority && later.accepted <= one.granted)
                    || (later.priority == one.priority && later.accepted < one.accepted);
                later.token > one.token && first
            })
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_looking_at_every_pair(all in prop::collection::vec((0_u8..3, 0_u64..6, 0_u64..8), 0..8)) {
            let all: Vec<_> = all.iter().enumerate().map(|(i, (priority, accepted, waited))| {
                leased(*priority, *accepted, (accepted + waited) * 10 + i as u64)
            }).collect();
            prop_assert_eq!(!check(&all).is_empty(), brute(&all));
        }
    }
}
