//! Write-once registers: one value per key, whoever makes it and whoever reads it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::properties::{KNOWN_RESULTS_ARE_NOT_MADE_AGAIN, NOTHING_IS_INVENTED, ONE_VALUE_PER_KEY, RESULTS_ARE_KEPT};
use crate::{Moment, Violation};

/// An execution has begun, which may offer this value: different for each execution.
#[derive(Clone, Debug)]
pub struct Offer<K, V> {
    pub key: K,
    pub value: V,
    pub at: Moment,
}

/// Somebody looked for a key's value.
#[derive(Clone, Debug)]
pub struct Look<K, V> {
    pub key: K,
    /// None: there is none yet.
    pub value: Option<V>,
    pub asked: Moment,
    pub answered: Moment,
    /// Index in the log of the key's group, if the answer has one.
    pub index: Option<u64>,
}

/// Checks all keys. An execution may begin up to `late` after the first reader had the result: its lease was on its way.
#[must_use]
pub fn check<K: Ord + Debug, V: Ord + Debug>(
    offers: &[Offer<K, V>],
    looks: &[Look<K, V>],
    late: Moment,
) -> Vec<Violation> {
    let mut keys: BTreeMap<&K, Key<'_, K, V>> = BTreeMap::new();
    for offer in offers {
        keys.entry(&offer.key).or_default().offers.push(offer);
    }
    for look in looks {
        keys.entry(&look.key).or_default().looks.push(look);
    }
    keys.values().flat_map(|key| key.check(late)).collect()
}

struct Key<'a, K, V> {
    offers: Vec<&'a Offer<K, V>>,
    looks: Vec<&'a Look<K, V>>,
}

impl<K, V> Default for Key<'_, K, V> {
    fn default() -> Self {
        Self { offers: Vec::new(), looks: Vec::new() }
    }
}

impl<K: Ord + Debug, V: Ord + Debug> Key<'_, K, V> {
    fn check(&self, late: Moment) -> Vec<Violation> {
        let mut broken = Vec::new();
        let offered: BTreeMap<&V, Moment> = self.offers.iter().map(|offer| (&offer.value, offer.at)).collect();
        let seen = || self.looks.iter().filter_map(|look| Some((look, look.value.as_ref()?)));
        let Some((first, value)) = seen().min_by_key(|(look, _)| look.answered) else { return broken };
        if let Some((other, two)) = seen().find(|(_, two)| *two != value) {
            let detail = format!("{:?} is {value:?} to one reader and {two:?} to another", other.key);
            broken.push(Violation::new(ONE_VALUE_PER_KEY, detail));
        }
        for (look, value) in seen() {
            // Asked for at the latest when its reader had the answer.
            if offered.get(value).is_none_or(|at| *at > look.answered) {
                let detail = format!("{:?} is {value:?}, which no execution had offered by then", look.key);
                broken.push(Violation::new(NOTHING_IS_INVENTED, detail));
                break;
            }
        }
        let known_at = seen().filter_map(|(look, _)| look.index).min();
        let missing = self.looks.iter().filter(|look| look.value.is_none());
        for look in missing {
            let was_known = look.asked > first.answered;
            let behind = known_at.zip(look.index).is_some_and(|(known, index)| index >= known);
            if was_known || behind {
                let detail = format!("{:?} was read and is missing to a later reader: {look:?}", look.key);
                broken.push(Violation::new(RESULTS_ARE_KEPT, detail));
            }
        }
        for offer in self.offers.iter().filter(|offer| offer.at > first.answered.saturating_add(late)) {
            let detail = format!(
                "{:?}: {:?} began at {}, {value:?} was read at {}",
                offer.key, offer.value, offer.at, first.answered
            );
            broken.push(Violation::new(KNOWN_RESULTS_ARE_NOT_MADE_AGAIN, detail));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(value: u32, at: Moment) -> Offer<&'static str, u32> {
        Offer { key: "k", value, at }
    }

    fn look(value: impl Into<Option<u32>>, asked: Moment, answered: Moment, index: u64) -> Look<&'static str, u32> {
        Look { key: "k", value: value.into(), asked, answered, index: Some(index) }
    }

    fn names(offers: &[Offer<&'static str, u32>], looks: &[Look<&'static str, u32>]) -> Vec<&'static str> {
        check(offers, looks, 10).into_iter().map(|broken| broken.property.name()).collect()
    }

    #[test]
    fn made_twice_and_read_alike_is_fine() {
        let offers = [offer(1, 1), offer(2, 3), offer(3, 30)];
        assert_eq!(
            names(&offers, &[look(None, 1, 2, 4), look(2, 8, 20, 9), look(2, 30, 31, 12), look(None, 3, 40, 8)]),
            [""; 0]
        );
        assert_eq!(names(&offers, &[]), [""; 0]);
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        let offers = [offer(1, 1), offer(2, 3)];
        assert_eq!(names(&offers, &[look(1, 4, 5, 9), look(2, 6, 7, 10)]), ["one_value_per_key"]);
        assert_eq!(names(&offers, &[look(7, 4, 5, 9)]), ["nothing_is_invented"]);
        assert_eq!(names(&[offer(1, 6)], &[look(1, 4, 5, 9)]), ["nothing_is_invented"], "read before it was made");
        assert_eq!(names(&offers, &[look(1, 4, 5, 9), look(None, 6, 7, 8)]), ["results_are_kept"], "asked later");
        assert_eq!(
            names(&offers, &[look(1, 4, 5, 9), look(None, 2, 7, 9)]),
            ["results_are_kept"],
            "not before it in the log"
        );
        assert_eq!(names(&[offer(1, 1), offer(2, 16)], &[look(1, 4, 5, 9)]), ["known_results_are_not_made_again"]);
    }
}
