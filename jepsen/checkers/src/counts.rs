//! Lists that count: how many a queue of one group holds, into which is only put.

use crate::history::End;
use crate::properties::LISTS_ARE_LINEARIZABLE;
use crate::{Moment, Violation};

/// One was put in.
#[derive(Clone, Debug)]
pub struct Added {
    pub asked: Moment,
    pub answered: Moment,
    pub end: End,
    /// The index at which it was accepted; of one that was acknowledged as known already, not after it.
    pub index: Option<u64>,
    /// Whether that is the index.
    pub exact: bool,
}

impl Added {
    fn exactly(&self) -> Option<u64> {
        self.index.filter(|_| self.exact && self.end == End::Ok)
    }
}

/// So many were counted.
#[derive(Clone, Debug)]
pub struct Counted {
    pub count: u64,
    pub asked: Moment,
    pub answered: Moment,
    pub index: u64,
}

/// Checks one queue in one group, of which [`follow_real_time`](crate::register::follow_real_time) finds nothing. Of what nobody knows, each may have been accepted at any time after it was asked for.
#[must_use]
pub fn check(name: &str, added: &[Added], counted: &[Counted]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut wrong = |what: String| broken.push(Violation::new(LISTS_ARE_LINEARIZABLE, format!("{name}: {what}")));
    let possible: Vec<&Added> = added.iter().filter(|one| one.end != End::Fail).collect();
    let acknowledged = || possible.iter().filter(|one| one.end == End::Ok);
    let exact = sorted(acknowledged().filter_map(|one| one.exactly()));
    // Of the others it is known when at the latest, and since when at the earliest.
    let due = sorted(acknowledged().filter(|one| one.exactly().is_none()).filter_map(|one| one.index));
    let open = sorted(possible.iter().filter(|one| one.exactly().is_none()).map(|one| one.asked));
    let answered = sorted(acknowledged().map(|one| one.answered));
    let asked = sorted(possible.iter().map(|one| one.asked));
    let mut counted: Vec<&Counted> = counted.iter().collect();
    counted.sort_by_key(|look| (look.index, look.count));
    let mut before: Option<(&Counted, u64)> = None;
    for look in counted {
        let known = up_to(&exact, look.index);
        let least = known + up_to(&due, look.index);
        let most = known + up_to(&open, look.answered);
        if !(least..=most).contains(&look.count) {
            wrong(format!("{look:?}, and the log has {least} to {most} there"));
        }
        let (least, most) = (below(&answered, look.asked), up_to(&asked, look.answered));
        if !(least..=most).contains(&look.count) {
            wrong(format!("{look:?}, and {least} were acknowledged before, {most} asked for by then"));
        }
        let others = look.count.saturating_sub(known);
        if let Some((other, then)) = before
            && (others < then || other.index == look.index && other.count != look.count)
        {
            wrong(format!("{other:?}, then {look:?}: of what nobody knew, {then} and then {others}"));
        }
        before = Some((look, others));
    }
    broken
}

fn sorted(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values
}

fn up_to(sorted: &[u64], value: u64) -> u64 {
    sorted.partition_point(|one| *one <= value) as u64
}

fn below(sorted: &[u64], value: u64) -> u64 {
    sorted.partition_point(|one| *one < value) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(asked: Moment, answered: Moment, index: u64) -> Added {
        Added { asked, answered, end: End::Ok, index: Some(index), exact: true }
    }

    fn maybe(asked: Moment) -> Added {
        Added { asked, answered: crate::NEVER, end: End::Maybe, index: None, exact: false }
    }

    fn counted(count: u64, asked: Moment, answered: Moment, index: u64) -> Counted {
        Counted { count, asked, answered, index }
    }

    #[test]
    fn everything_up_to_the_position_is_counted_and_nothing_else() {
        let two = [added(0, 5, 3), added(1, 9, 7)];
        let good = [
            counted(0, 0, 9, 2),
            counted(1, 0, 9, 3),
            counted(1, 6, 8, 6),
            counted(2, 2, 9, 7),
            counted(2, 20, 21, 30),
        ];
        assert_eq!(check("q", &two, &good), []);
        for wrong in [counted(0, 1, 9, 3), counted(1, 1, 9, 7), counted(2, 1, 9, 6), counted(3, 20, 21, 30)] {
            assert!(!check("q", &two, std::slice::from_ref(&wrong)).is_empty(), "{wrong:?}");
        }
        assert!(!check("q", &two, &[counted(0, 6, 8, 2)]).is_empty(), "older than what was acknowledged");
    }

    #[test]
    fn what_nobody_knows_may_be_there_from_some_time_on() {
        let all = [added(0, 5, 3), maybe(10)];
        assert_eq!(check("q", &all, &[counted(1, 11, 12, 4), counted(2, 13, 14, 6)]), []);
        assert!(!check("q", &all, &[counted(2, 11, 12, 4), counted(1, 13, 14, 6)]).is_empty(), "gone again");
        assert!(!check("q", &all, &[counted(2, 6, 9, 4)]).is_empty(), "before it was asked for");
        assert!(
            !check("q", &all, &[counted(1, 11, 15, 4), counted(2, 11, 15, 4)]).is_empty(),
            "two counts at one index"
        );
        let known = Added { asked: 0, answered: 9, end: End::Ok, index: Some(8), exact: false };
        assert_eq!(
            check("q", std::slice::from_ref(&known), &[counted(0, 1, 2, 4), counted(1, 3, 4, 6)]),
            [],
            "accepted at 5 or 6, told at 8"
        );
        assert!(!check("q", &[known], &[counted(0, 1, 10, 8)]).is_empty(), "by 8 at the latest");
        let refused = Added { end: End::Fail, ..added(0, 5, 3) };
        assert!(!check("q", &[refused], &[counted(1, 6, 7, 9)]).is_empty());
    }
}
