//! Makes a plan that finds something smaller, for as long as it still finds something of the same kind.

use std::time::{Duration, Instant};

use crate::child::Order;
use crate::plan::Plan;

/// Runs that are spent on one failure, and time: of one that hangs each costs as long as anybody waits for it.
const TRIES_MAX: u32 = 80;
const TIME_MAX: Duration = Duration::from_secs(300);
/// Trouble is not made shorter than by this much at once.
const SHORTER_MS_MIN: u64 = 250;

/// The smallest order that was found, and what it finds.
#[must_use]
pub fn shrink(order: &Order, problems: Vec<String>) -> (Order, Vec<String>) {
    let kind = kind_of(&problems);
    let mut search = Search { kind, tries: 0, until: Instant::now() + TIME_MAX, best: (order.clone(), problems) };
    search.fewer_faults();
    search.shorter();
    search.best
}

/// The first word of the first: the name of what is broken.
#[must_use]
pub fn kind_of(problems: &[String]) -> String {
    problems.first().and_then(|first| first.split([' ', ':']).next()).unwrap_or_default().to_owned()
}

struct Search {
    kind: String,
    tries: u32,
    until: Instant,
    best: (Order, Vec<String>),
}

impl Search {
    /// Whether it still finds it; then it is the best.
    fn holds(&mut self, order: Order) -> bool {
        if self.tries >= TRIES_MAX || Instant::now() >= self.until {
            return false;
        }
        self.tries += 1;
        let problems = order.problems();
        let same = kind_of(&problems) == self.kind;
        if same {
            self.best = (order, problems);
        }
        same
    }

    /// Halves, then quarters, down to one by one.
    fn fewer_faults(&mut self) {
        let all: Vec<usize> = Plan::of(self.best.0.seed).faults.iter().map(|planned| planned.number).collect();
        let mut left = self.best.0.only.clone().unwrap_or(all);
        let mut part = left.len().div_ceil(2);
        while part > 0 && !left.is_empty() {
            let mut at = 0;
            while at < left.len() {
                let mut fewer = left.clone();
                fewer.drain(at..(at + part).min(fewer.len()));
                if self.holds(Order { only: Some(fewer.clone()), ..self.best.0.clone() }) {
                    left = fewer;
                } else {
                    at += part;
                }
            }
            if part == 1 {
                return;
            }
            part = part.div_ceil(2);
        }
    }

    fn shorter(&mut self) {
        let plan = Plan::of(self.best.0.seed);
        let mut ms = self.best.0.trouble_ms.unwrap_or(plan.trouble.as_millis() as u64);
        let mut less = ms / 2;
        while less >= SHORTER_MS_MIN {
            if less < ms && self.holds(Order { trouble_ms: Some(ms - less), ..self.best.0.clone() }) {
                ms -= less;
            } else {
                less /= 2;
            }
        }
    }
}
