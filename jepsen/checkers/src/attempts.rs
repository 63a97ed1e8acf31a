//! Retries: attempts count up, and how often something is tried is what its policy says.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::Violation;
use crate::history::End;
use crate::properties::{ATTEMPTS_RISE, RETRIES_FOLLOW_POLICY};

/// A worker was leased work, and what it said in the end.
#[derive(Clone, Debug)]
pub struct Attempt<K> {
    pub work: K,
    pub token: u64,
    /// From 1; counts leases.
    pub number: u32,
    /// Retries that are left after this attempt, as the lease says.
    pub retries_left: u32,
    /// Whether it reported a failure, and what became of the report; None: it reported nothing, or a success.
    pub failed: Option<End>,
}

/// What is known of the work itself, when all is over.
#[derive(Clone, Debug)]
pub struct Work<K> {
    pub work: K,
    pub max_retries: u32,
    /// Leases lost without a report until the work is given up; each failure that counts may be of these, too.
    pub lost_max: u32,
    /// Whether it ended well; None: it has not ended.
    pub succeeded: Option<bool>,
    /// Leases that the cluster counts, if it was asked.
    pub leases: Option<u32>,
}

/// Leases that no worker ever heard of: pushed to a session that was gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub attempts: u64,
    pub unheard: u64,
}

/// Checks all work that is described; attempts of other work are violations of another property.
#[must_use]
pub fn check<K: Ord + Debug>(attempts: &[Attempt<K>], works: &[Work<K>]) -> (Summary, Vec<Violation>) {
    let mut by_work: BTreeMap<&K, Vec<&Attempt<K>>> = BTreeMap::new();
    attempts.iter().for_each(|attempt| by_work.entry(&attempt.work).or_default().push(attempt));
    let (mut summary, mut broken) = (Summary::default(), Vec::new());
    for work in works {
        let mut attempts = by_work.remove(&work.work).unwrap_or_default();
        attempts.sort_by_key(|attempt| attempt.token);
        summary.attempts += attempts.len() as u64;
        let last = attempts.last().map_or(0, |attempt| attempt.number);
        summary.unheard += u64::from(work.leases.unwrap_or(last)).saturating_sub(attempts.len() as u64);
        broken.extend(rising(work, &attempts));
        broken.extend(policy(work, &attempts));
    }
    (summary, broken)
}

fn rising<K: Debug>(work: &Work<K>, attempts: &[&Attempt<K>]) -> Option<Violation> {
    let falls = attempts.windows(2).find(|pair| pair[0].number >= pair[1].number);
    let beyond = attempts.last().filter(|last| work.leases.is_some_and(|leases| last.number > leases));
    let detail = match (falls, beyond, attempts.first()) {
        (Some(pair), ..) => format!("{:?}, then {:?}", pair[0], pair[1]),
        (_, Some(last), _) => format!("{last:?} is beyond what the cluster counts: {work:?}"),
        (.., Some(first)) if first.number == 0 => format!("{first:?} is before the first"),
        _ => return None,
    };
    Some(Violation::new(ATTEMPTS_RISE, detail))
}

/// Before each attempt so many failures count: those that were acknowledged for sure, those that nobody knows of perhaps.
fn policy<K: Debug>(work: &Work<K>, attempts: &[&Attempt<K>]) -> Option<Violation> {
    let (mut sure, mut perhaps) = (0_u32, 0_u32);
    for attempt in attempts {
        let used = work.max_retries.checked_sub(attempt.retries_left);
        if used.is_none_or(|used| !(sure..=sure + perhaps).contains(&used)) {
            let detail = format!("{attempt:?} after {sure} failures and {perhaps} of which nobody knows: {work:?}");
            return Some(Violation::new(RETRIES_FOLLOW_POLICY, detail));
        }
        match attempt.failed {
            Some(End::Ok) => sure += 1,
            Some(End::Maybe) => perhaps += 1,
            Some(End::Fail) | None => {}
        }
    }
    let unheard = work.leases.unwrap_or(0).saturating_sub(attempts.len() as u32);
    let is_lost = |attempt: &&&Attempt<K>| matches!(attempt.failed, None | Some(End::Fail));
    let lost = attempts.iter().filter(is_lost).count() as u32 + unheard;
    let detail = match work.succeeded {
        _ if sure > work.max_retries + 1 => format!("{sure} failures count: {work:?}"),
        Some(true) if sure > work.max_retries => format!("succeeded after {sure} failures: {work:?}"),
        Some(false) if sure + perhaps <= work.max_retries && lost < work.lost_max => {
            format!("given up after {sure} failures, {perhaps} of which nobody knows and {lost} lost leases: {work:?}")
        }
        _ => return None,
    };
    Some(Violation::new(RETRIES_FOLLOW_POLICY, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u32, retries_left: u32, failed: impl Into<Option<End>>) -> Attempt<u32> {
        Attempt { work: 1, token: u64::from(number) * 10, number, retries_left, failed: failed.into() }
    }

    fn work(succeeded: impl Into<Option<bool>>, leases: impl Into<Option<u32>>) -> Work<u32> {
        Work { work: 1, max_retries: 2, lost_max: 10, succeeded: succeeded.into(), leases: leases.into() }
    }

    fn names(attempts: &[Attempt<u32>], work: Work<u32>) -> Vec<&'static str> {
        check(attempts, &[work]).1.into_iter().map(|broken| broken.property.name()).collect()
    }

    #[test]
    fn failures_count_down_and_lost_leases_do_not() {
        let attempts = [
            attempt(1, 2, End::Ok),
            attempt(2, 1, None),
            attempt(4, 1, End::Maybe),
            attempt(5, 0, End::Fail),
            attempt(6, 0, None),
        ];
        assert_eq!(check(&attempts, &[work(true, 7)]), (Summary { attempts: 5, unheard: 2 }, Vec::new()));
        let all = [attempt(1, 2, End::Ok), attempt(2, 1, End::Ok), attempt(3, 0, End::Ok)];
        assert_eq!(names(&all, work(false, 3)), [""; 0], "given up after the last");
        let lost: Vec<_> = (1..=10).map(|number| attempt(number, 2, None)).collect();
        assert_eq!(names(&lost, work(false, 10)), [""; 0], "given up because workers vanish");
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        let twice = [attempt(1, 2, None), Attempt { token: 11, ..attempt(1, 2, None) }];
        assert_eq!(names(&twice, work(true, 2)), ["attempts_rise"]);
        assert_eq!(names(&[attempt(3, 2, None)], work(true, 2)), ["attempts_rise"], "the cluster counts fewer");
        assert_eq!(names(&[attempt(0, 2, None)], work(true, None)), ["attempts_rise"]);
        assert_eq!(
            names(&[attempt(1, 2, End::Ok), attempt(2, 2, None)], work(true, 2)),
            ["retries_follow_policy"],
            "not counted"
        );
        assert_eq!(
            names(&[attempt(1, 2, None), attempt(2, 1, None)], work(true, 2)),
            ["retries_follow_policy"],
            "counted for nothing"
        );
        assert_eq!(
            names(&[attempt(1, 2, End::Fail), attempt(2, 1, None)], work(true, 2)),
            ["retries_follow_policy"],
            "a refused one counts"
        );
        assert_eq!(names(&[attempt(1, 3, None)], work(true, 1)), ["retries_follow_policy"], "more than the policy has");
        assert_eq!(names(&[attempt(1, 2, End::Ok)], work(false, 1)), ["retries_follow_policy"], "given up too soon");
        let all = [attempt(1, 2, End::Ok), attempt(2, 1, End::Ok), attempt(3, 0, End::Ok)];
        assert_eq!(names(&all, work(true, 3)), ["retries_follow_policy"], "it cannot have succeeded");
    }
}
