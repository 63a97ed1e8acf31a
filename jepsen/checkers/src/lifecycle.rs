//! Something that only goes forward, from state to state: not there, waiting, ended. Each state is brought about by one
//! operation, and read by many.

use std::fmt::Debug;

use crate::history::End;
use crate::properties::{NOTHING_IS_INVENTED, READS_ARE_LINEARIZABLE};
use crate::{Moment, Violation};

/// What brings a state about. One per state, from 1; the first is 0.
#[derive(Clone, Debug)]
pub struct Step {
    pub state: u8,
    pub asked: Moment,
    pub answered: Moment,
    pub end: End,
    /// The index at which it happened, if that is known exactly.
    pub index: Option<u64>,
}

/// Somebody looked.
#[derive(Clone, Debug)]
pub struct Look {
    pub state: u8,
    pub asked: Moment,
    pub answered: Moment,
    /// The last entry that the answer knows.
    pub index: u64,
}

/// Checks one thing, by positions and by real time.
#[must_use]
pub fn check<K: Debug>(key: &K, steps: &[Step], looks: &[Look]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut stale = |what: String| broken.push(Violation::new(READS_ARE_LINEARIZABLE, format!("{key:?}: {what}")));
    let mut by_index: Vec<&Look> = looks.iter().collect();
    by_index.sort_by_key(|look| (look.index, look.state));
    for pair in by_index.windows(2) {
        let one_index = pair[0].index == pair[1].index && pair[0].state != pair[1].state;
        if pair[0].state > pair[1].state || one_index {
            stale(format!("{:?} and {:?} do not go forward in the log", pair[0], pair[1]));
        }
    }
    let mut by_answer: Vec<&Look> = looks.iter().collect();
    by_answer.sort_by_key(|look| look.answered);
    let mut by_question: Vec<&Look> = looks.iter().collect();
    by_question.sort_by_key(|look| look.asked);
    let (mut i, mut furthest) = (0, None::<&Look>);
    for look in by_question {
        while i < by_answer.len() && by_answer[i].answered < look.asked {
            furthest = furthest.filter(|known| known.state >= by_answer[i].state).or(Some(by_answer[i]));
            i += 1;
        }
        if let Some(before) = furthest.filter(|before| before.state > look.state) {
            stale(format!("{look:?} was asked for after {before:?} was read"));
        }
    }
    for look in looks {
        for step in steps.iter().filter(|step| step.end == End::Ok) {
            let happened = look.state >= step.state;
            let before = step.index.is_some_and(|index| look.index < index);
            let behind = step.index.is_some_and(|index| look.index >= index);
            if happened && before || !happened && (behind || step.answered < look.asked) {
                stale(format!("{look:?} does not fit {step:?}"));
            }
        }
    }
    for look in looks {
        let reached = steps.iter().filter(|step| step.state <= look.state && step.state > 0);
        let possible =
            reached.filter(|step| step.end != End::Fail && step.asked <= look.answered).map(|step| step.state);
        let missing = (1..=look.state).find(|state| !possible.clone().any(|possible| possible == *state));
        if let Some(missing) = missing {
            let detail = format!("{key:?}: nobody had brought about state {missing} when {look:?} was read");
            broken.push(Violation::new(NOTHING_IS_INVENTED, detail));
            break;
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(state: u8, asked: Moment, answered: Moment, end: End, index: impl Into<Option<u64>>) -> Step {
        Step { state, asked, answered, end, index: index.into() }
    }

    fn look(state: u8, asked: Moment, answered: Moment, index: u64) -> Look {
        Look { state, asked, answered, index }
    }

    fn names(steps: &[Step], looks: &[Look]) -> Vec<&'static str> {
        check(&"k", steps, looks).into_iter().map(|broken| broken.property.name()).collect()
    }

    #[test]
    fn what_goes_forward_is_fine_whoever_looks() {
        let steps = [step(1, 0, 10, End::Ok, 5), step(2, 20, crate::NEVER, End::Maybe, None)];
        let looks = [look(0, 1, 9, 4), look(1, 2, 3, 5), look(1, 11, 12, 7), look(2, 25, 26, 9), look(1, 21, 40, 8)];
        assert_eq!(names(&steps, &looks), [""; 0]);
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        let submitted = [step(1, 0, 10, End::Ok, 5)];
        assert_eq!(names(&submitted, &[look(0, 11, 12, 4)]), ["reads_are_linearizable"], "stale by the clock");
        assert_eq!(names(&submitted, &[look(0, 2, 12, 5)]), ["reads_are_linearizable"], "stale by the log");
        assert_eq!(names(&submitted, &[look(1, 2, 3, 4)]), ["reads_are_linearizable"], "from the future");
        let maybe = [step(1, 0, crate::NEVER, End::Maybe, None)];
        assert_eq!(
            names(&maybe, &[look(1, 2, 3, 7), look(0, 4, 5, 6)]),
            ["reads_are_linearizable"],
            "back by the clock"
        );
        assert_eq!(names(&maybe, &[look(1, 2, 9, 6), look(0, 3, 8, 7)]), ["reads_are_linearizable"], "back in the log");
        assert_eq!(
            names(&maybe, &[look(1, 2, 9, 6), look(0, 3, 8, 6)]),
            ["reads_are_linearizable"],
            "two states at one index"
        );
        assert_eq!(names(&[], &[look(1, 2, 3, 7)]), ["nothing_is_invented"]);
        assert_eq!(names(&[step(1, 5, 6, End::Ok, None)], &[look(1, 2, 3, 7)]), ["nothing_is_invented"]);
        assert_eq!(names(&[step(1, 0, 1, End::Fail, None)], &[look(1, 2, 3, 7)]), ["nothing_is_invented"]);
    }
}
