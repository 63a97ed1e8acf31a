//! Every operation of every client: when it was asked for, when it ended, and how. Plots and coverage are made of these.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

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
    /// Whose clients asked.
    pub workload: &'static str,
    /// What was asked, in a word.
    pub what: &'static str,
    pub asked: Moment,
    pub ended: Moment,
    pub ending: Ending,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Operations {
    all: Arc<Mutex<Vec<Operation>>>,
    workload: &'static str,
}

/// All operations of one kind, summed up.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sum {
    pub ok: u64,
    pub failed: u64,
    pub maybe: u64,
    /// Of those that were acknowledged.
    pub ms: Spread,
}

/// How operations ended, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub ok: u64,
    pub failed: u64,
    pub maybe: u64,
}

impl Tally {
    pub fn attempted(self) -> u64 {
        self.ok + self.failed + self.maybe
    }

    pub fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.maybe += other.maybe;
    }

    fn count(&mut self, ending: Ending) {
        *match ending {
            Ending::Ok => &mut self.ok,
            Ending::Failed => &mut self.failed,
            Ending::Maybe => &mut self.maybe,
        } += 1;
    }
}

impl Operations {
    /// The same, for what clients of one workload do.
    pub fn of(&self, workload: &'static str) -> Self {
        Self { all: self.all.clone(), workload }
    }

    /// One has just ended.
    pub fn ended(&self, what: &'static str, asked: Moment, ending: Ending) {
        self.all.lock().push(Operation { workload: self.workload, what, asked, ended: Moment::now(), ending });
    }

    pub fn all(&self) -> Vec<Operation> {
        self.all.lock().clone()
    }

    pub fn count(&self) -> usize {
        self.all.lock().len()
    }
}

/// Those that were under way at some time between the two, by workload.
pub fn between(operations: &[Operation], from: Moment, to: Moment) -> BTreeMap<&'static str, Tally> {
    let mut tallies: BTreeMap<&'static str, Tally> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.asked < to && operation.ended >= from) {
        tallies.entry(operation.workload).or_default().count(operation.ending);
    }
    tallies
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

    fn one(what: &'static str, asked: u64, ended: u64, ending: Ending) -> Operation {
        Operation { workload: "tasks", what, asked: Moment(asked), ended: Moment(ended), ending }
    }

    #[test]
    fn an_operation_counts_for_every_fault_during_which_it_was_under_way() {
        let mut all = vec![
            one("submit", 0, 9, Ending::Ok),
            one("submit", 0, 10, Ending::Ok),
            one("submit", 15, 30, Ending::Maybe),
            one("submit", 19, 19, Ending::Failed),
            one("submit", 20, 21, Ending::Ok),
        ];
        all.push(Operation { workload: "order", ..one("submit", 5, 50, Ending::Ok) });
        let tallies = between(&all, Moment(10), Moment(20));
        assert_eq!(tallies["tasks"], Tally { ok: 1, failed: 1, maybe: 1 });
        assert_eq!((tallies["order"].attempted(), tallies.len()), (1, 2));
    }

    #[test]
    fn operations_are_summed_up_by_kind_and_ending() {
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
