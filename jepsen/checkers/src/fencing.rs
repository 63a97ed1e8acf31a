//! Exclusive leases: of several who work on one thing only the last may change anything, and a token says who that is.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::history::End;
use crate::properties::{
    FENCED_SINK_AGREES, FENCING_TOKENS_ARE_UNIQUE, FENCING_TOKENS_RISE, SUPERSEDED_CHANGES_NOTHING,
};
use crate::{Moment, Violation};

/// A worker was told that a lease is its own.
#[derive(Clone, Debug)]
pub struct Grant<K> {
    pub work: K,
    /// Tokens of one group are compared.
    pub group: u32,
    pub token: u64,
    /// From 1.
    pub attempt: u32,
    /// Index of the entry that granted it.
    pub index: u64,
}

/// A worker said, under its token, that the work has ended.
#[derive(Clone, Debug)]
pub struct Completion<K> {
    pub work: K,
    pub token: u64,
    /// Whether it counts; a `Fail` was refused.
    pub end: End,
    /// Whether there will be no further attempt.
    pub is_final: bool,
    /// Where the answer stands in the log, if it does.
    pub index: Option<u64>,
}

/// A worker wrote to a sink that takes no token smaller than one it has seen for that work. In the sink's order.
#[derive(Clone, Debug)]
pub struct Write<K> {
    pub work: K,
    pub token: u64,
    pub accepted: bool,
    pub at: Moment,
}

struct Work<'a, K> {
    grants: Vec<&'a Grant<K>>,
    completions: Vec<&'a Completion<K>>,
    writes: Vec<&'a Write<K>>,
}

impl<K> Default for Work<'_, K> {
    fn default() -> Self {
        Self { grants: Vec::new(), completions: Vec::new(), writes: Vec::new() }
    }
}

/// Checks all work.
#[must_use]
pub fn check<K: Ord + Debug>(
    grants: &[Grant<K>],
    completions: &[Completion<K>],
    writes: &[Write<K>],
) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut tokens: BTreeMap<(u32, u64), &Grant<K>> = BTreeMap::new();
    let mut works: BTreeMap<&K, Work<'_, K>> = BTreeMap::new();
    for grant in grants {
        if let Some(other) = tokens.insert((grant.group, grant.token), grant) {
            broken.push(Violation::new(FENCING_TOKENS_ARE_UNIQUE, format!("{other:?} and {grant:?}")));
        }
        works.entry(&grant.work).or_default().grants.push(grant);
    }
    completions.iter().for_each(|done| works.entry(&done.work).or_default().completions.push(done));
    writes.iter().for_each(|write| works.entry(&write.work).or_default().writes.push(write));
    for work in works.values_mut() {
        work.grants.sort_by_key(|grant| grant.token);
        broken.extend(work.rising());
        broken.extend(work.superseded());
        broken.extend(work.sink());
    }
    broken
}

impl<K: Debug> Work<'_, K> {
    /// Attempts, entries and tokens rise together.
    fn rising(&self) -> Vec<Violation> {
        let falls = |pair: &&[&Grant<K>]| pair[0].attempt >= pair[1].attempt || pair[0].index > pair[1].index;
        // The same token twice is another property.
        let falls = self.grants.windows(2).filter(|pair| pair[0].token < pair[1].token).filter(falls);
        falls.map(|pair| Violation::new(FENCING_TOKENS_RISE, format!("{:?}, then {:?}", pair[0], pair[1]))).collect()
    }

    /// What is accepted under a token comes before the next token in the log, and there is one end.
    fn superseded(&self) -> Vec<Violation> {
        let mut broken = Vec::new();
        let accepted = || self.completions.iter().filter(|done| done.end == End::Ok);
        for done in accepted() {
            let later = self.grants.iter().find(|grant| {
                grant.token > done.token && (done.is_final || done.index.is_some_and(|index| grant.index <= index))
            });
            if let Some(later) = later {
                let detail = format!("{done:?} was accepted, {later:?} had superseded it or came after the end");
                broken.push(Violation::new(SUPERSEDED_CHANGES_NOTHING, detail));
            }
        }
        let mut ends = accepted().filter(|done| done.is_final);
        if let (Some(one), Some(two)) = (ends.next(), ends.find(|done| done.is_final)) {
            let by_two = accepted().filter(|done| done.is_final).any(|done| done.token != one.token);
            if by_two {
                broken.push(Violation::new(SUPERSEDED_CHANGES_NOTHING, format!("ended twice: {one:?} and {two:?}")));
            }
        }
        broken
    }

    /// The sink keeps its own rule, and it agrees with the log about who was last.
    fn sink(&self) -> Vec<Violation> {
        let mut broken = Vec::new();
        let mut highest = 0;
        for write in &self.writes {
            if write.accepted != (write.token >= highest) {
                broken.push(Violation::new(
                    FENCED_SINK_AGREES,
                    format!("after token {highest} the sink decided {write:?}"),
                ));
            }
            highest = highest.max(write.token);
        }
        let end = self.completions.iter().find(|done| done.end == End::Ok && done.is_final);
        if let Some(end) = end
            && highest > end.token
        {
            let detail = format!("{end:?} counts, and the sink has seen token {highest}");
            broken.push(Violation::new(FENCED_SINK_AGREES, detail));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(token: u64, attempt: u32) -> Grant<u32> {
        Grant { work: 1, group: 1, token, attempt, index: token / 10 }
    }

    fn done(token: u64, end: End, index: u64) -> Completion<u32> {
        Completion { work: 1, token, end, is_final: true, index: Some(index) }
    }

    fn write(token: u64, accepted: bool) -> Write<u32> {
        Write { work: 1, token, accepted, at: 0 }
    }

    fn names(grants: &[Grant<u32>], completions: &[Completion<u32>], writes: &[Write<u32>]) -> Vec<&'static str> {
        check(grants, completions, writes).into_iter().map(|broken| broken.property.name()).collect()
    }

    #[test]
    fn the_last_attempt_ends_it_and_late_ones_are_refused() {
        let grants = [grant(10, 1), grant(30, 3), grant(21, 2)];
        let completions = [done(10, End::Fail, 4), done(30, End::Ok, 5), done(21, End::Maybe, 9), done(30, End::Ok, 6)];
        let writes = [write(10, true), write(30, true), write(21, false), write(30, true)];
        assert_eq!(names(&grants, &completions, &writes), [""; 0]);
        let retried = Completion { is_final: false, ..done(10, End::Ok, 1) };
        assert_eq!(names(&[grant(10, 1), grant(20, 2)], &[retried], &[]), [""; 0], "failed, then tried again");
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        let other = Grant { work: 2, ..grant(10, 1) };
        assert_eq!(names(&[grant(10, 1), other.clone()], &[], &[]), ["fencing_tokens_are_unique"]);
        assert_eq!(names(&[grant(10, 1), Grant { group: 2, ..other }], &[], &[]), [""; 0], "of another group");
        assert_eq!(names(&[grant(10, 2), grant(20, 1)], &[], &[]), ["fencing_tokens_rise"]);
        assert_eq!(names(&[grant(10, 1), grant(20, 1)], &[], &[]), ["fencing_tokens_rise"]);
        assert_eq!(names(&[Grant { index: 9, ..grant(10, 1) }, grant(20, 2)], &[], &[]), ["fencing_tokens_rise"]);
        let grants = [grant(10, 1), grant(20, 2)];
        assert_eq!(names(&grants, &[done(10, End::Ok, 3)], &[]), ["superseded_changes_nothing"]);
        assert_eq!(
            names(&grants, &[done(10, End::Ok, 1)], &[]),
            ["superseded_changes_nothing"],
            "leased after its end"
        );
        let not_final = Completion { is_final: false, ..done(10, End::Ok, 2) };
        assert_eq!(names(&grants, &[not_final], &[]), ["superseded_changes_nothing"], "accepted after the next lease");
        let twice =
            [Completion { index: None, ..done(30, End::Ok, 0) }, Completion { index: None, ..done(40, End::Ok, 0) }];
        assert_eq!(names(&grants, &twice, &[]), ["superseded_changes_nothing"], "two ends");
        assert_eq!(names(&grants, &[], &[write(20, true), write(10, true)]), ["fenced_sink_agrees"]);
        assert_eq!(names(&grants, &[], &[write(20, false)]), ["fenced_sink_agrees"]);
        assert_eq!(names(&[grant(10, 1)], &[done(10, End::Ok, 3)], &[write(30, true)]), ["fenced_sink_agrees"]);
    }
}
