//! Every operation of every client: when it was asked for, when it ended, and how. Plots and coverage are made of these.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use crate::moment::{Moment, ms};
use crate::probers::Spread;

/// How an operation ended, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It was acknowledged or answered.
    Ok,
    /// It has certainly not taken effect.
    Failed,
    /// Nobody knows: no answer came.
    Maybe,
}

#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// What was asked, in a word.
    pub what: &'static str,
    pub asked: Moment,
    pub ended: Moment,
    pub ending: Ending,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Operations(Arc<Mutex<Vec<Operation>>>);

/// All operations of one kind, summed up.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sum {
    pub ok: u64,
    pub failed: u64,
    pub maybe: u64,
    /// Of those that were acknowledged.
    pub ms: Spread,
}

impl Operations {
    /// One has just ended.
    pub fn ended(&self, what: &'static str, asked: Moment, ending: Ending) {
        self.0.lock().push(Operation { what, asked, ended: Moment::now(), ending });
    }

    pub fn all(&self) -> Vec<Operation> {
        self.0.lock().clone()
    }

    pub fn count(&self) -> usize {
        self.0.lock().len()
    }
}

/// By kind.
pub fn sums(operations: &[Operation]) -> BTreeMap<&'static str, Sum> {
    let mut took: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    let mut sums: BTreeMap<&'static str, Sum> = BTreeMap::new();
    for operation in operations {
        let sum = sums.entry(operation.what).or_default();
        match operation.ending {
            Ending::Ok => {
                sum.ok += 1;
                took.entry(operation.what).or_default().push(ms(operation.ended.since(operation.asked)));
            }
            Ending::Failed => sum.failed += 1,
            Ending::Maybe => sum.maybe += 1,
        }
    }
    for (what, took) in took {
        sums.entry(what).or_default().ms = Spread::of(took);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_summed_up_by_kind_and_ending() {
        let one = |what, asked, ended, ending| Operation { what, asked: Moment(asked), ended: Moment(ended), ending };
        let all = [
            one("start", 0, 2_000, Ending::Ok),
            one("start", 0, 4_000, Ending::Ok),
            one("start", 0, 9_000, Ending::Maybe),
            one("read", 5, 6, Ending::Failed),
        ];
        let sums = sums(&all);
        let start = &sums["start"];
        assert_eq!((start.ok, start.failed, start.maybe, start.ms.max), (2, 0, 1, 4.0));
        assert_eq!((sums["read"].failed, sums["read"].ms.count), (1, 0));
    }
}
