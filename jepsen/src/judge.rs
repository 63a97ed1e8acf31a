//! From what was written down to what checkers take, for what several workloads have in common.

use std::collections::BTreeMap;
use std::fmt::Debug;

use coda_checkers::history::{End, Op};
use coda_checkers::register::{Answered, follow_real_time};
use coda_checkers::{NEVER, Violation, fencing, set, timers, work};
use coda_protocol::slots::SlotMap;
use serde_json::{Map, Value, json};

use crate::findings::Findings;
use crate::hands::{self, key};
use crate::probers::Spread;

/// What judging depends on.
#[derive(Clone, Copy)]
pub struct Rules {
    pub groups: u16,
    /// Nobody does anything to clocks.
    pub clocks_are_right: bool,
}

/// What a workload came to, while its checks are made.
pub struct Judge<'a> {
    ops: &'a [Op],
    findings: &'a Findings,
    slots: SlotMap,
    clocks_are_right: bool,
    figures: Map<String, Value>,
}

impl<'a> Judge<'a> {
    pub fn new(ops: &'a [Op], findings: &'a Findings, rules: Rules) -> Self {
        let mut judge = Self {
            ops,
            findings,
            slots: SlotMap::even(rules.groups),
            clocks_are_right: rules.clocks_are_right,
            figures: Map::new(),
        };
        let mut ends: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
        for op in ops {
            ends.entry(&op.f).or_default()[op.end as usize] += 1;
        }
        let shown: Map<String, Value> =
            ends.into_iter().map(|(f, [ok, fail, maybe])| (f.into(), json!([ok, fail, maybe]))).collect();
        judge.figure("operations [ok, fail, maybe]", Value::Object(shown));
        judge
    }

    /// Which group's log a task is in.
    pub fn slots(&self) -> SlotMap {
        self.slots.clone()
    }

    pub fn figure(&mut self, name: &str, value: Value) {
        self.figures.insert(name.into(), value);
    }

    pub fn violations(&self, broken: impl IntoIterator<Item = Violation>) {
        broken.into_iter().for_each(|broken| self.findings.broken(&broken));
    }

    /// A checker came to no end.
    pub fn doubt(&self, what: impl Into<String>) {
        self.findings.doubt(what);
    }

    pub fn figures(self) -> Value {
        Value::Object(self.figures)
    }

    /// Nothing is lost, nothing is invented, and there is one end.
    pub fn queue(&mut self) {
        let submits = || self.ops.iter().filter(|op| op.f == "submit");
        let adds: Vec<_> = submits()
            .map(|op| set::Add { key: key(op), asked: op.asked, answered: op.answered, end: op.end })
            .collect();
        let looks: Vec<_> = self
            .ops
            .iter()
            .filter(|op| op.f == "look" && op.end == End::Ok)
            .map(|op| set::Look {
                key: key(op),
                there: op.answer["there"] == json!(true),
                asked: op.asked,
                answered: op.answered,
            })
            .collect();
        let (kept, broken) = set::check(&adds, &looks);
        self.violations(broken);
        let ended = |op: &Op| (op.f == "wait" && op.end == End::Ok).then(|| op.answer.to_string());
        let seen = work::Seen {
            submitted: submits().map(|op| work::Submitted { key: key(op), asked: op.asked, end: op.end }).collect(),
            executed: self
                .ops
                .iter()
                .filter(|op| op.f == "lease")
                .map(|op| work::Executed { key: key(op), at: op.asked })
                .collect(),
            ended: self
                .ops
                .iter()
                .filter_map(|op| Some(work::Ended { key: key(op), outcome: ended(op)?, at: op.answered }))
                .collect(),
            drained: true,
        };
        let (worked, broken) = work::check(&seen);
        self.violations(broken);
        self.figure("tasks", json!({
            "acknowledged": worked.accepted, "ended": worked.ended, "executions": worked.executions,
            "repeated": worked.repeated, "accepted without an answer": worked.maybe_accepted, "looked at": kept.stable,
        }));
    }

    /// Only the last attempt changes anything: by tokens, where bodies see them, and by the numbers of attempts.
    pub fn leases(&mut self, writes: &[fencing::Write<String>]) {
        let (grants, completions) = (hands::grants(self.ops), hands::completions(self.ops));
        self.violations(fencing::check(&grants, &completions, writes));
        let (all, ends, sunk) = hands::by_attempt(self.ops);
        self.violations(fencing::check(&all, &ends, &sunk));
        let refused = completions.iter().filter(|done| done.end == End::Fail).count();
        let late = sunk.iter().filter(|write| !write.accepted).count();
        self.figure(
            "leases",
            json!({
                "granted": all.len(), "in Python": all.len() - grants.len(), "late ends refused": refused,
                "refused by the sink": late,
            }),
        );
    }

    /// Positions of each group go with real time. Waits share requests, so they are left out.
    pub fn positions(&mut self) {
        let mut groups: BTreeMap<u32, Vec<Answered>> = BTreeMap::new();
        for op in self.ops.iter().filter(|op| op.f != "wait" && op.answered != NEVER) {
            let Some(position) = op.position else { continue };
            let is_command = matches!(op.f.as_str(), "submit" | "complete" | "set");
            let answered = Answered { asked: op.asked, answered: op.answered, index: position.index, is_command };
            groups.entry(position.group).or_default().push(answered);
        }
        let count: usize = groups.values().map(Vec::len).sum();
        groups.values().for_each(|answered| self.violations(follow_real_time(answered)));
        self.figure("positions", json!(count));
    }

    /// What had a delay did not run before it.
    pub fn delays(&mut self) {
        let delayed = self.ops.iter().filter(|op| op.f == "submit" && hands::number(op, "delay_us") > 0);
        let asked: BTreeMap<String, (u64, u64)> =
            delayed.map(|op| (key(op), (op.asked, hands::number(op, "delay_us")))).collect();
        let fired: Vec<_> = self
            .ops
            .iter()
            .filter(|op| op.f == "lease")
            .filter_map(|op| {
                let (asked, delay) = *asked.get(&key(op))?;
                Some(timers::Fired { key: key(op), asked, delay, at: op.asked })
            })
            .collect();
        self.timers("delays", &fired);
    }

    /// Nothing was early, if clocks were right: what is early by a clock that is wrong is early by no fault of the cluster.
    pub fn timers<K: Debug>(&mut self, name: &str, fired: &[timers::Fired<K>]) {
        let (late, early) = timers::check(fired, 0);
        let figures = json!({ "fired": fired.len(), "early by a wrong clock": if self.clocks_are_right { 0 } else { early.len() } });
        self.figure(name, figures);
        let late = late.into_iter().map(|us| us as f64 / 1e3).collect();
        self.figure(&format!("{name} late_ms"), json!(Spread::of(late)));
        if self.clocks_are_right {
            self.violations(early);
        }
    }
}
