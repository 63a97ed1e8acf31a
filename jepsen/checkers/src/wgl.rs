//! Any sequential object, checked by real time alone: the search of Wing and Gong with the memory of Lowe ("Testing for
//! linearizability", 2017). Exact, and exponential at worst: for one object, a few clients and some hundred operations.

use std::collections::HashSet;
use std::hash::Hash;

use crate::{Moment, NEVER};

/// An object that does one thing at a time.
pub trait Model {
    type In;
    type Out;
    type State: Clone + Eq + Hash;

    fn initial(&self) -> Self::State;

    /// The state after it; `None` if this answer cannot be. Without an answer it must be possible in every state.
    fn step(&self, state: &Self::State, input: &Self::In, output: Option<&Self::Out>) -> Option<Self::State>;
}

#[derive(Clone, Debug)]
pub struct Op<I, O> {
    pub input: I,
    pub output: Option<O>,
    pub asked: Moment,
    /// [`NEVER`]: it may take effect at any time, or never.
    pub answered: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order of the operations explains what was seen; so many could be put in order at most.
    Not {
        longest: usize,
    },
    /// The search was given up after so many steps as it may take.
    Unknown,
}

const NONE: usize = usize::MAX;

/// Searches for an order, for at most `steps_max` steps.
pub fn check<M: Model>(model: &M, ops: &[Op<M::In, M::Out>], steps_max: u64) -> Verdict {
    let mut events = Events::new(ops.iter().map(|op| (op.asked, op.answered)));
    let is_due = |i: usize| ops[i].answered != NEVER;
    let mut due = (0..ops.len()).filter(|i| is_due(*i)).count();
    let words = ops.len().div_ceil(64);
    let (mut state, mut done) = (model.initial(), vec![0_u64; words]);
    let mut order: Vec<(usize, M::State)> = Vec::new();
    let mut tried: HashSet<(Vec<u64>, M::State)> = HashSet::new();
    let (mut at, mut steps, mut longest) = (events.first(), 0_u64, 0);
    while due > 0 {
        steps += 1;
        if steps > steps_max {
            return Verdict::Unknown;
        }
        let i = at / 2;
        if at % 2 == 1 {
            // It was answered and has no place yet: the last choice was wrong.
            let Some((i, before)) = order.pop() else { return Verdict::Not { longest } };
            state = before;
            done[i / 64] &= !(1 << (i % 64));
            due += usize::from(is_due(i));
            events.put_back(i);
            at = events.next[2 * i];
            continue;
        }
        let next = model.step(&state, &ops[i].input, ops[i].output.as_ref());
        let is_new = next.filter(|next| {
            done[i / 64] |= 1 << (i % 64);
            let is_new = tried.insert((done.clone(), next.clone()));
            if !is_new {
                done[i / 64] &= !(1 << (i % 64));
            }
            is_new
        });
        match is_new {
            Some(next) => {
                order.push((i, std::mem::replace(&mut state, next)));
                longest = longest.max(order.len());
                due -= usize::from(is_due(i));
                events.take(i);
                at = events.first();
            }
            None => at = events.next[at],
        }
    }
    Verdict::Linearizable
}

/// Questions and answers in the order of time, as a list from which operations are taken and put back. Node 2i is operation
/// i's question, 2i+1 its answer, and the last one the head.
struct Events {
    next: Vec<usize>,
    prev: Vec<usize>,
}

impl Events {
    fn new(ops: impl Iterator<Item = (Moment, Moment)>) -> Self {
        let mut events = Vec::new();
        for (i, (asked, answered)) in ops.enumerate() {
            // Of one time, questions come first: such operations are concurrent.
            events.push((asked, 0, 2 * i));
            events.push((answered, 1, 2 * i + 1));
        }
        events.sort_unstable();
        let head = events.len();
        let (mut next, mut prev) = (vec![NONE; head + 1], vec![NONE; head + 1]);
        let mut last = head;
        for (_, _, node) in events {
            (next[last], prev[node]) = (node, last);
            last = node;
        }
        Self { next, prev }
    }

    fn first(&self) -> usize {
        self.next[self.next.len() - 1]
    }

    fn take(&mut self, i: usize) {
        for node in [2 * i, 2 * i + 1] {
            let (prev, next) = (self.prev[node], self.next[node]);
            self.next[prev] = next;
            if next != NONE {
                self.prev[next] = prev;
            }
        }
    }

    fn put_back(&mut self, i: usize) {
        for node in [2 * i + 1, 2 * i] {
            let (prev, next) = (self.prev[node], self.next[node]);
            self.next[prev] = node;
            if next != NONE {
                self.prev[next] = node;
            }
        }
    }
}

/// A register: `Some` writes, `None` reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register {
    pub initial: u64,
}

impl Model for Register {
    type In = Option<u64>;
    type Out = u64;
    type State = u64;

    fn initial(&self) -> u64 {
        self.initial
    }

    fn step(&self, state: &u64, input: &Option<u64>, output: Option<&u64>) -> Option<u64> {
        match input {
            Some(value) => Some(*value),
            None => output.is_none_or(|seen| seen == state).then_some(*state),
        }
    }
}
