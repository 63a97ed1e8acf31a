//! A queue as a whole: what goes in comes out, nothing is lost and nothing invented.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::history::End;
use crate::properties::{ACCEPTED_WORK_ENDS, NOTHING_IS_INVENTED, ONE_END_PER_WORK};
use crate::{Moment, Violation};

/// Work was given to the queue.
#[derive(Clone, Debug)]
pub struct Submitted<K> {
    pub key: K,
    pub asked: Moment,
    pub end: End,
}

/// A body began.
#[derive(Clone, Debug)]
pub struct Executed<K> {
    pub key: K,
    pub at: Moment,
}

/// Somebody heard how work ended.
#[derive(Clone, Debug)]
pub struct Ended<K, V> {
    pub key: K,
    pub outcome: V,
    pub at: Moment,
}

/// All that was seen of a queue.
#[derive(Clone, Debug)]
pub struct Seen<K, V> {
    pub submitted: Vec<Submitted<K>>,
    pub executed: Vec<Executed<K>>,
    pub ended: Vec<Ended<K, V>>,
    /// Everything had time to end: what was accepted and has no end is lost.
    pub drained: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub accepted: u64,
    pub ended: u64,
    pub executions: u64,
    /// Executions beyond the first of a piece of work.
    pub repeated: u64,
    /// Nobody knows whether they were accepted, and they were.
    pub maybe_accepted: u64,
}

#[derive(Debug)]
struct Item<'a, V> {
    acknowledged: bool,
    /// When somebody first asked for it, who was not refused.
    possible: Option<Moment>,
    executions: u64,
    began: Option<Moment>,
    outcome: Option<&'a V>,
    other: Option<&'a V>,
    heard: Option<Moment>,
}

impl<V> Default for Item<'_, V> {
    fn default() -> Self {
        let (possible, began, outcome, other, heard) = (None, None, None, None, None);
        Self { acknowledged: false, possible, executions: 0, began, outcome, other, heard }
    }
}

/// Checks all work.
#[must_use]
pub fn check<K: Ord + Debug, V: PartialEq + Debug>(seen: &Seen<K, V>) -> (Summary, Vec<Violation>) {
    let mut items: BTreeMap<&K, Item<'_, V>> = BTreeMap::new();
    for submitted in seen.submitted.iter().filter(|submitted| submitted.end != End::Fail) {
        let item = items.entry(&submitted.key).or_default();
        item.acknowledged |= submitted.end == End::Ok;
        item.possible = Some(item.possible.map_or(submitted.asked, |asked| asked.min(submitted.asked)));
    }
    for executed in &seen.executed {
        let item = items.entry(&executed.key).or_default();
        item.executions += 1;
        item.began = Some(item.began.map_or(executed.at, |at| at.min(executed.at)));
    }
    for ended in &seen.ended {
        let item = items.entry(&ended.key).or_default();
        item.heard = Some(item.heard.map_or(ended.at, |at| at.min(ended.at)));
        match item.outcome {
            None => item.outcome = Some(&ended.outcome),
            Some(outcome) if *outcome != ended.outcome => item.other = Some(&ended.outcome),
            Some(_) => {}
        }
    }
    let (mut summary, mut broken) = (Summary::default(), Vec::new());
    for (key, item) in &items {
        item.count(&mut summary);
        let first = item.began.into_iter().chain(item.heard).min();
        if let Some(first) = first
            && item.possible.is_none_or(|asked| asked > first)
        {
            broken.push(Violation::new(
                NOTHING_IS_INVENTED,
                format!("{key:?} was worked on at {first}, nobody had asked for it"),
            ));
        }
        if let (Some(outcome), Some(other)) = (item.outcome, item.other) {
            broken.push(Violation::new(ONE_END_PER_WORK, format!("{key:?} ended with {outcome:?} and with {other:?}")));
        }
        let accepted = item.acknowledged || item.began.is_some();
        if seen.drained && accepted && item.outcome.is_none() {
            broken.push(Violation::new(ACCEPTED_WORK_ENDS, format!("{key:?} was accepted and has no end: {item:?}")));
        }
    }
    (summary, broken)
}

impl<V> Item<'_, V> {
    fn count(&self, summary: &mut Summary) {
        summary.accepted += u64::from(self.acknowledged);
        summary.ended += u64::from(self.outcome.is_some());
        summary.executions += self.executions;
        summary.repeated += self.executions.saturating_sub(1);
        summary.maybe_accepted += u64::from(!self.acknowledged && self.outcome.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(
        submitted: &[(u32, Moment, End)],
        executed: &[(u32, Moment)],
        ended: &[(u32, i32, Moment)],
    ) -> Seen<u32, i32> {
        Seen {
            submitted: submitted.iter().map(|&(key, asked, end)| Submitted { key, asked, end }).collect(),
            executed: executed.iter().map(|&(key, at)| Executed { key, at }).collect(),
            ended: ended.iter().map(|&(key, outcome, at)| Ended { key, outcome, at }).collect(),
            drained: true,
        }
    }

    fn names(seen: &Seen<u32, i32>) -> Vec<&'static str> {
        check(seen).1.into_iter().map(|broken| broken.property.name()).collect()
    }

    #[test]
    fn what_was_accepted_ends_and_what_was_not_may() {
        let submitted = [(1, 0, End::Ok), (2, 0, End::Maybe), (3, 0, End::Maybe), (4, 0, End::Fail)];
        let all = seen(&submitted, &[(1, 5), (1, 8), (3, 6)], &[(1, 7, 9), (1, 7, 99), (3, 7, 9)]);
        let (summary, broken) = check(&all);
        assert_eq!(broken, []);
        assert_eq!(summary, Summary { accepted: 1, ended: 2, executions: 3, repeated: 1, maybe_accepted: 1 });
        assert_eq!(names(&Seen { drained: false, ..seen(&[(1, 0, End::Ok)], &[], &[]) }), [""; 0], "it may still come");
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        let ok = [(1, 3, End::Ok)];
        assert_eq!(names(&seen(&ok, &[], &[])), ["accepted_work_ends"]);
        assert_eq!(
            names(&seen(&[(1, 3, End::Maybe)], &[(1, 4)], &[])),
            ["accepted_work_ends"],
            "a body began: it was accepted"
        );
        assert_eq!(names(&seen(&[], &[(1, 4)], &[(1, 7, 9)])), ["nothing_is_invented"]);
        assert_eq!(names(&seen(&[(1, 0, End::Fail)], &[(1, 4)], &[(1, 7, 9)])), ["nothing_is_invented"], "refused");
        assert_eq!(names(&seen(&ok, &[(1, 2)], &[(1, 7, 9)])), ["nothing_is_invented"], "before it was asked for");
        assert_eq!(names(&seen(&ok, &[(1, 4)], &[(1, 7, 9), (1, 8, 9)])), ["one_end_per_work"]);
    }
}
