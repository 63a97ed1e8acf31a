//! Checkers against each other, and against trying everything, on small histories good and bad.

use coda_checkers::counts::{Added, Counted};
use coda_checkers::history::End;
use coda_checkers::lifecycle::{Look, Step};
use coda_checkers::wgl::{Register, Verdict};
use coda_checkers::{NEVER, counts, lifecycle, register, wgl, zones};
use proptest::prelude::*;

const STEPS_MAX: u64 = 1_000_000;

/// A history by real time alone: writes of distinct values, and reads of any of them.
fn blind() -> impl Strategy<Value = Vec<zones::Op>> {
    let op = (any::<bool>(), 0_u64..5, 0_u64..10, 0_u64..6, prop::bool::weighted(0.2));
    prop::collection::vec(op, 0..6).prop_map(|ops| {
        let op = |(i, (is_write, value, asked, took, unknown)): (usize, (bool, u64, u64, u64, bool))| {
            let value = if is_write { i as u64 + 1 } else { value };
            // Times are distinct: what is at the same time is concurrent to one checker and not to another.
            let (asked, answered) = (asked * 100 + i as u64 * 2, (asked + took) * 100 + i as u64 * 2 + 1);
            zones::Op { is_write, value, asked, answered: if is_write && unknown { NEVER } else { answered } }
        };
        ops.into_iter().enumerate().map(op).collect()
    })
}

/// Tries every order of every choice of the writes that nobody knows of.
fn explains(ops: &[zones::Op], state: u64, done: u32) -> bool {
    let left = |i: usize| done & (1 << i) == 0;
    if (0..ops.len()).all(|i| !left(i) || ops[i].answered == NEVER) {
        return true;
    }
    (0..ops.len()).filter(|i| left(*i)).any(|i| {
        let is_first = (0..ops.len()).all(|j| j == i || !left(j) || ops[j].answered > ops[i].asked);
        let fits = ops[i].is_write || ops[i].value == state;
        is_first && fits && explains(ops, if ops[i].is_write { ops[i].value } else { state }, done | 1 << i)
    })
}

fn searched(ops: &[zones::Op]) -> Verdict {
    let op = |op: &zones::Op| wgl::Op {
        input: op.is_write.then_some(op.value),
        output: (!op.is_write).then_some(op.value),
        asked: op.asked,
        answered: op.answered,
    };
    wgl::check(&Register { initial: 0 }, &ops.iter().map(op).collect::<Vec<_>>(), STEPS_MAX)
}

/// A history by positions, of one group. Everything is concurrent but where it says otherwise.
#[derive(Clone, Debug)]
struct Positioned {
    writes: Vec<register::Write>,
    reads: Vec<register::Read>,
}

fn positioned() -> impl Strategy<Value = Positioned> {
    let write = (0_u8..4, 1_u64..6, 0_u64..4, 0_u64..4);
    let read = (0_u64..5, 1_u64..6, 0_u64..4, 0_u64..4);
    (prop::collection::vec(write, 0..4), prop::collection::vec(read, 0..4)).prop_map(|(writes, reads)| {
        let write = |(i, (end, index, asked, took)): (usize, (u8, u64, u64, u64))| {
            let end = match end {
                0 => End::Maybe,
                1 if i == 3 => End::Fail,
                _ => End::Ok,
            };
            let is_known = end == End::Ok;
            let answered = if is_known { asked + took } else { NEVER };
            register::Write { value: i as u64 + 1, asked, answered, end, index: is_known.then_some(index) }
        };
        let read = |(value, index, asked, took)| register::Read { value, asked, answered: asked + took, index };
        Positioned {
            writes: writes.into_iter().enumerate().map(write).collect(),
            reads: reads.into_iter().map(read).collect(),
        }
    })
}

/// Puts writes that nobody knows of at any index or nowhere, and those of one index into any order.
fn explained_by_some_log(history: &Positioned) -> bool {
    let writes: Vec<&register::Write> = history.writes.iter().filter(|write| write.end != End::Fail).collect();
    follows_real_time(history) && place(history, &writes, &mut Vec::new())
}

fn follows_real_time(history: &Positioned) -> bool {
    let commands = history.writes.iter().filter_map(|write| Some((write.asked, write.answered, write.index?, true)));
    let questions = history.reads.iter().map(|read| (read.asked, read.answered, read.index, false));
    let all: Vec<_> = commands.chain(questions).collect();
    all.iter().all(|one| all.iter().all(|before| before.1 >= one.0 || one.2 > before.2 || one.2 == before.2 && !one.3))
}

/// A log: writes with their index, and whether they were put there by guess.
fn place<'a>(history: &Positioned, left: &[&'a register::Write], log: &mut Vec<(u64, &'a register::Write)>) -> bool {
    let Some((first, rest)) = left.split_first() else {
        let mut log = log.clone();
        log.sort_by_key(|(index, _)| *index);
        return any_order(history, &mut log, 0);
    };
    if let Some(index) = first.index {
        log.push((index, first));
        let found = place(history, rest, log);
        log.pop();
        return found;
    }
    let answered = history.writes.iter().filter_map(|write| Some((write.answered, write.index?)));
    let answered = answered.chain(history.reads.iter().map(|read| (read.answered, read.index)));
    let from = answered.filter(|(answered, _)| *answered < first.asked).map(|(_, index)| index + 1).max().unwrap_or(1);
    // Between any two indexes there may be others: halves stand for them, as nobody has named those.
    if place(history, rest, log) {
        return true;
    }
    (from..=7).any(|index| {
        log.push((index, first));
        let found = place(history, rest, log);
        log.pop();
        found
    })
}

fn any_order(history: &Positioned, log: &mut Vec<(u64, &register::Write)>, i: usize) -> bool {
    if i == log.len() {
        return history.reads.iter().all(|read| {
            let last = log.iter().rev().find(|(index, _)| *index <= read.index);
            let by_then = last.is_none_or(|(_, write)| write.asked <= read.answered);
            by_then && read.value == last.map_or(0, |(_, write)| write.value)
        });
    }
    (i..log.len()).any(|j| {
        if log[j].0 != log[i].0 {
            return false;
        }
        log.swap(i, j);
        let found = any_order(history, log, i + 1);
        log.swap(i, j);
        found
    })
}

fn is_consistent(commands: &[(u64, u64, Option<u64>)], questions: &[(u64, u64, u64)]) -> bool {
    let commands = commands.iter().filter_map(|(asked, answered, index)| {
        Some(register::Answered { asked: *asked, answered: *answered, index: (*index)?, is_command: true })
    });
    let questions = questions.iter().map(|&(asked, answered, index)| register::Answered {
        asked,
        answered,
        index,
        is_command: false,
    });
    register::follow_real_time(&commands.chain(questions).collect::<Vec<_>>()).is_empty()
}

fn counted() -> impl Strategy<Value = (Vec<Added>, Vec<Counted>)> {
    let added = (0_u8..5, 1_u64..6, 0_u64..6, 0_u64..4);
    let counted = (0_u64..4, 1_u64..6, 0_u64..6, 0_u64..4);
    (prop::collection::vec(added, 0..4), prop::collection::vec(counted, 0..4)).prop_map(|(added, counted)| {
        let add = |(kind, index, asked, took): (u8, u64, u64, u64)| {
            let end = [End::Maybe, End::Fail, End::Ok, End::Ok, End::Ok][usize::from(kind)];
            let index = (end == End::Ok).then_some(index);
            let answered = if end == End::Maybe { NEVER } else { asked + took };
            Added { asked, answered, end, index, exact: kind > 2 }
        };
        let count = |(count, index, asked, took)| Counted { count, asked, answered: asked + took, index };
        (added.into_iter().map(add).collect(), counted.into_iter().map(count).collect())
    })
}

/// Puts each of which the index is not known at any index that it may have, or nowhere.
fn counts_of_some_log(added: &[Added], counted: &[Counted], log: &mut Vec<Option<u64>>) -> bool {
    let Some(next) = added.get(log.len()) else {
        return counted.iter().all(|look| {
            let there = |(one, index): &(&Added, &Option<u64>)| {
                index.is_some_and(|index| index <= look.index) && one.asked <= look.answered
            };
            let late = |(one, index): (&Added, &Option<u64>)| {
                let known = one.end == End::Ok && one.answered < look.asked;
                let early = index.is_some_and(|index| index <= look.index) && one.asked > look.answered;
                known && index.is_none_or(|index| index > look.index) || early
            };
            let all = || added.iter().zip(&*log);
            !all().any(late) && all().filter(there).count() as u64 == look.count
        });
    };
    let places: Vec<Option<u64>> = match (next.end, next.index) {
        (End::Fail, _) => vec![None],
        (End::Ok, Some(index)) if next.exact => vec![Some(index)],
        (End::Ok, index) => (0..=index.unwrap_or(7)).map(Some).collect(),
        (End::Maybe, _) => (0..=7).map(Some).chain([None]).collect(),
    };
    places.into_iter().any(|place| {
        log.push(place);
        let found = counts_of_some_log(added, counted, log);
        log.pop();
        found
    })
}

fn lives() -> impl Strategy<Value = (Vec<Step>, Vec<Look>)> {
    let step = (0_u8..4, 1_u64..6, 0_u64..6, 0_u64..4);
    let look = (0_u8..3, 1_u64..6, 0_u64..6, 0_u64..4);
    (prop::collection::vec(step, 2..3), prop::collection::vec(look, 0..4)).prop_map(|(steps, looks)| {
        let step = |(i, (kind, index, asked, took)): (usize, (u8, u64, u64, u64))| {
            let end = [End::Maybe, End::Fail, End::Ok, End::Ok][usize::from(kind)];
            let answered = if end == End::Maybe { NEVER } else { asked + took };
            Step { state: i as u8 + 1, asked, answered, end, index: (kind == 3).then_some(index) }
        };
        let look = |(state, index, asked, took)| Look { state, asked, answered: asked + took, index };
        (steps.into_iter().enumerate().map(step).collect(), looks.into_iter().map(look).collect())
    })
}

/// Two steps, each at any index that it may have, or nowhere, and at some time while it was under way.
fn lived_by_some_log(steps: &[Step], looks: &[Look]) -> bool {
    let places = |step: &Step| -> Vec<Option<u64>> {
        match (step.end, step.index) {
            (End::Fail, _) => vec![None],
            (End::Ok, Some(index)) => vec![Some(index)],
            (End::Ok, None) => (0..=7).map(Some).collect(),
            (End::Maybe, _) => (0..=7).map(Some).chain([None]).collect(),
        }
    };
    let state = |at: [Option<u64>; 2], index: u64| {
        at.iter().filter(|place| place.is_some_and(|place| place <= index)).count() as u8
    };
    let fits = |at: [Option<u64>; 2]| {
        let forward = at[1].is_none_or(|second| at[0].is_some_and(|first| first <= second));
        forward
            && looks.iter().all(|look| {
                let reached = state(at, look.index);
                let known = steps.iter().all(|step| {
                    let acknowledged = step.end == End::Ok && step.answered < look.asked;
                    let possible = step.asked <= look.answered;
                    (!acknowledged || reached >= step.state) && (possible || reached < step.state)
                });
                known && reached == look.state
            })
            && looks.iter().all(|one| looks.iter().all(|later| one.answered >= later.asked || one.state <= later.state))
    };
    places(&steps[0]).into_iter().any(|first| places(&steps[1]).into_iter().any(|second| fits([first, second])))
}

proptest! {
    // Histories that are no histories of anything are left out.
    #![proptest_config(ProptestConfig {
        cases: 4_000, max_global_rejects: 100_000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn zones_and_search_agree_with_trying_everything(ops in blind()) {
        let expected = explains(&ops, 0, 0);
        prop_assert_eq!(zones::check(0, &ops).is_none(), expected, "zones");
        prop_assert_eq!(searched(&ops) == Verdict::Linearizable, expected, "search");
    }

    #[test]
    fn counts_agree_with_trying_every_log((added, counted) in counted()) {
        let commands: Vec<_> = added.iter().map(|one| (one.asked, one.answered, one.index)).collect();
        let questions: Vec<_> = counted.iter().map(|look| (look.asked, look.answered, look.index)).collect();
        prop_assume!(is_consistent(&commands, &questions));
        // An entry is not in the log before it was asked for.
        prop_assume!(added.iter().all(|one| counted.iter().all(|look| {
            !(one.exact && one.end == End::Ok) || one.index.is_none_or(|index| index > look.index) || one.asked <= look.answered
        })));
        let broken = counts::check("q", &added, &counted);
        prop_assert_eq!(broken.is_empty(), counts_of_some_log(&added, &counted, &mut Vec::new()), "{:?}", broken);
    }

    #[test]
    fn lifecycles_agree_with_trying_every_log((steps, looks) in lives()) {
        let impossible = steps[1].end == End::Ok && steps[0].end == End::Fail
            || steps.iter().all(|step| step.index.is_some()) && steps[0].index > steps[1].index;
        prop_assume!(!impossible);
        let broken = lifecycle::check(&"k", &steps, &looks);
        prop_assert_eq!(broken.is_empty(), lived_by_some_log(&steps, &looks), "{:?}", broken);
    }

    #[test]
    fn the_check_by_position_agrees_with_trying_every_log(history in positioned()) {
        let broken = register::check(0, &history.writes, &history.reads);
        prop_assert_eq!(broken.is_empty(), explained_by_some_log(&history), "{:?}", broken);
    }
}

#[test]
fn a_search_that_takes_too_long_says_that_it_does_not_know() {
    let write = |i: u64| wgl::Op { input: Some(i), output: None, asked: 0, answered: 100 };
    let read = wgl::Op { input: None, output: Some(99), asked: 0, answered: 100 };
    let ops: Vec<_> = (1..30).map(write).chain([read]).collect();
    assert_eq!(wgl::check(&Register::default(), &ops, 10_000), Verdict::Unknown);
    assert_eq!(wgl::check(&Register::default(), &ops[..3], 10_000), Verdict::Linearizable);
}

/// By position and by zones a large history is a sort.
#[test]
fn a_hundred_thousand_operations_are_checked_at_once() {
    let count = 50_000_u64;
    let writes: Vec<_> = (1..=count)
        .map(|i| register::Write { value: i, asked: i * 10, answered: i * 10 + 9, end: End::Ok, index: Some(i) })
        .collect();
    let reads: Vec<_> =
        (1..=count).map(|i| register::Read { value: i, asked: i * 10 + 3, answered: i * 10 + 9, index: i }).collect();
    assert_eq!(register::check(0, &writes, &reads), []);
    let ops = writes.iter().map(|write| (true, write.value, write.asked, write.answered));
    let ops = ops.chain(reads.iter().map(|read| (false, read.value, read.asked, read.answered)));
    let mut ops: Vec<_> =
        ops.map(|(is_write, value, asked, answered)| zones::Op { is_write, value, asked, answered }).collect();
    assert_eq!(zones::check(0, &ops), None);
    ops.push(zones::Op { is_write: false, value: 7, asked: count * 20, answered: count * 20 + 1 });
    assert!(zones::check(0, &ops).is_some(), "one stale read among all");
}
