//! A set that is only added to: what was acknowledged is there for everybody who looks later.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::history::End;
use crate::properties::{ACKNOWLEDGED_IS_KEPT, NOTHING_IS_INVENTED};
use crate::{Moment, Violation};

/// An element is added.
#[derive(Clone, Debug)]
pub struct Add<K> {
    pub key: K,
    pub asked: Moment,
    pub answered: Moment,
    pub end: End,
}

/// Somebody looked whether an element is there.
#[derive(Clone, Debug)]
pub struct Look<K> {
    pub key: K,
    pub there: bool,
    pub asked: Moment,
    pub answered: Moment,
}

/// What became of the elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Acknowledged, and seen by the last who looked.
    pub stable: u64,
    /// Acknowledged, and nobody looked: nothing is known.
    pub never_looked: u64,
    /// Nobody knows whether they were added, and they were.
    pub maybe_there: u64,
}

/// Whoever added an element, and whoever looked for it.
type Element<'a, K> = (Vec<&'a Add<K>>, Vec<&'a Look<K>>);

/// Checks all elements.
#[must_use]
pub fn check<K: Ord + Debug>(adds: &[Add<K>], looks: &[Look<K>]) -> (Summary, Vec<Violation>) {
    let mut by_key: BTreeMap<&K, Element<'_, K>> = BTreeMap::new();
    adds.iter().for_each(|add| by_key.entry(&add.key).or_default().0.push(add));
    looks.iter().for_each(|look| by_key.entry(&look.key).or_default().1.push(look));
    let (mut summary, mut broken) = (Summary::default(), Vec::new());
    for (key, (adds, mut looks)) in by_key {
        looks.sort_by_key(|look| look.asked);
        // Known from its acknowledgement on, or from whoever saw it first.
        let acknowledged = adds.iter().filter(|add| add.end == End::Ok).map(|add| add.answered).min();
        let seen = looks.iter().filter(|look| look.there).map(|look| look.answered).min();
        let known = acknowledged.into_iter().chain(seen).min().unwrap_or(crate::NEVER);
        for look in looks.iter().filter(|look| !look.there && look.asked > known) {
            let detail = format!("{key:?} is known since {known} and missing to who asked at {}", look.asked);
            broken.push(Violation::new(ACKNOWLEDGED_IS_KEPT, detail));
        }
        let possible = adds.iter().filter(|add| add.end != End::Fail).map(|add| add.asked).min();
        if let Some(seen) = seen
            && possible.is_none_or(|asked| asked > seen)
        {
            let detail = format!("{key:?} is there at {seen}, and nobody had added it");
            broken.push(Violation::new(NOTHING_IS_INVENTED, detail));
        }
        match (acknowledged, looks.last()) {
            (Some(_), None) => summary.never_looked += 1,
            (Some(_), Some(last)) => summary.stable += u64::from(last.there),
            (None, _) => summary.maybe_there += u64::from(seen.is_some()),
        }
    }
    (summary, broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(key: u32, asked: Moment, answered: Moment, end: End) -> Add<u32> {
        Add { key, asked, answered, end }
    }

    fn look(key: u32, there: bool, asked: Moment, answered: Moment) -> Look<u32> {
        Look { key, there, asked, answered }
    }

    fn names(adds: &[Add<u32>], looks: &[Look<u32>]) -> Vec<&'static str> {
        check(adds, looks).1.into_iter().map(|broken| broken.property.name()).collect()
    }

    #[test]
    fn what_was_acknowledged_is_there_and_what_was_not_may_be() {
        let adds = [
            add(1, 0, 5, End::Ok),
            add(2, 0, crate::NEVER, End::Maybe),
            add(3, 0, 4, End::Fail),
            add(4, 1, 2, End::Ok),
        ];
        let looks = [
            look(1, false, 3, 9),
            look(1, true, 6, 7),
            look(2, false, 6, 7),
            look(2, true, 8, 9),
            look(3, false, 6, 7),
        ];
        let (summary, broken) = check(&adds, &looks);
        assert_eq!(broken, []);
        assert_eq!(summary, Summary { stable: 1, never_looked: 1, maybe_there: 1 });
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        let acknowledged = [add(1, 0, 5, End::Ok)];
        assert_eq!(names(&acknowledged, &[look(1, false, 6, 7)]), ["acknowledged_is_kept"], "lost");
        let maybe = [add(1, 0, crate::NEVER, End::Maybe)];
        assert_eq!(
            names(&maybe, &[look(1, true, 2, 3), look(1, false, 4, 5)]),
            ["acknowledged_is_kept"],
            "seen, then lost"
        );
        assert_eq!(names(&[], &[look(1, true, 2, 3)]), ["nothing_is_invented"], "nobody's");
        assert_eq!(names(&[add(1, 0, 1, End::Fail)], &[look(1, true, 2, 3)]), ["nothing_is_invented"], "refused");
        assert_eq!(
            names(&[add(1, 4, 5, End::Ok)], &[look(1, true, 2, 3)]),
            ["nothing_is_invented"],
            "before it was added"
        );
    }
}
