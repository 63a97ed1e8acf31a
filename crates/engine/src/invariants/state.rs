//! A group's state as the invariants see it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use coda_protocol::ids::{GroupId, LeaseId, Name, RunId, SessionId, TaskId, Timestamp, Work};

use crate::entry::Lane;
use crate::kv::Read;
use crate::lanes;
use crate::rows::{LaneRow, Life, MemoRow, Meta, Parent, QueueRow, ReadyPlace, RunRow, TaskRow};
use crate::tables::{
    DELAYED, DUE, DelayedKey, Due, Key, LANE, LEASE, MEMO, META, MemoKey, QUEUE, READY, RUN, RUN_INPUT, RUN_OUTCOME,
    ReadyKey, TASK, TASK_ARGS, TASK_OUTCOME, Table,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A group's rows, without payloads.
pub struct State {
    pub meta: Meta,
    pub queues: BTreeMap<Name, QueueRow>,
    pub lanes: BTreeMap<Lane, LaneRow>,
    pub ready: Vec<ReadyKey>,
    pub runs: BTreeMap<RunId, RunRow>,
    pub tasks: BTreeMap<TaskId, TaskRow>,
    pub inputs: BTreeSet<RunId>,
    pub args: BTreeSet<TaskId>,
    pub run_outcomes: BTreeSet<RunId>,
    pub task_outcomes: BTreeSet<TaskId>,
    pub memo: Vec<(MemoKey, Memo)>,
    pub leases: Vec<(SessionId, LeaseId, Work)>,
    pub due: Vec<(Timestamp, Due)>,
    pub delayed: Vec<DelayedKey>,
}

/// A memo row without what it remembers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Memo {
    Pending(Work),
    Outcome,
}

impl State {
    pub fn read(kv: &dyn Read, group: GroupId) -> Self {
        let memo = |key, row| match row {
            MemoRow::Pending { work, .. } => (key, Memo::Pending(work)),
            MemoRow::Ended { .. } | MemoRow::Failed { .. } => (key, Memo::Outcome),
        };
        Self {
            meta: META.get(kv, group, &()).unwrap_or_default(),
            queues: QUEUE.all(kv, group).into_iter().collect(),
            lanes: LANE.all(kv, group).into_iter().collect(),
            ready: keys(&READY, kv, group),
            runs: RUN.all(kv, group).into_iter().collect(),
            tasks: TASK.all(kv, group).into_iter().collect(),
            inputs: keys(&RUN_INPUT, kv, group).into_iter().collect(),
            args: keys(&TASK_ARGS, kv, group).into_iter().collect(),
            run_outcomes: keys(&RUN_OUTCOME, kv, group).into_iter().collect(),
            task_outcomes: keys(&TASK_OUTCOME, kv, group).into_iter().collect(),
            memo: rows(&MEMO, kv, group, memo),
            leases: LEASE.all(kv, group).into_iter().map(|(key, work)| (key.session, key.lease, work)).collect(),
            due: keys(&DUE, kv, group).into_iter().map(|key| (key.at, key.what)).collect(),
            delayed: keys(&DELAYED, kv, group),
        }
    }

    pub fn works(&self) -> impl Iterator<Item = WorkRow<'_>> {
        self.tasks
            .iter()
            .map(|(id, row)| WorkRow::task(*id, row))
            .chain(self.runs.iter().map(|(id, row)| WorkRow::run(*id, row)))
    }

    pub fn pending(&self, run: RunId) -> usize {
        self.memo.iter().filter(|(key, memo)| key.run == run && matches!(memo, Memo::Pending(_))).count()
    }

    /// Runs whose retention is over may be half deleted: a tick deletes a bounded part.
    pub fn is_being_forgotten(&self, run: RunId) -> bool {
        self.due.iter().any(|(at, what)| *what == Due::Forget(Work::Run(run)) && *at <= self.meta.time)
    }
}

/// Rows are made small one by one: payloads do not pile up.
fn rows<K: Key, V: Serialize + DeserializeOwned, T>(
    table: &Table<K, V>,
    kv: &dyn Read,
    group: GroupId,
    small: impl Fn(K, V) -> T,
) -> Vec<T> {
    let mut rows = Vec::new();
    table.scan(
        kv,
        group,
        |_| {},
        |key, row| {
            rows.push(small(key, row));
            ControlFlow::Continue(())
        },
    );
    rows
}

fn keys<K: Key, V: Serialize + DeserializeOwned>(table: &Table<K, V>, kv: &dyn Read, group: GroupId) -> Vec<K> {
    rows(table, kv, group, |key, _| key)
}

/// What tasks and runs share.
pub struct WorkRow<'a> {
    pub work: Work,
    pub life: Life,
    pub lane: Lane,
    pub place: ReadyPlace,
    pub lost: u32,
    pub parent: Option<&'a Parent>,
}

impl<'a> WorkRow<'a> {
    fn task(id: TaskId, row: &'a TaskRow) -> Self {
        let (place, parent) = (lanes::place(row.priority, row.seq), row.parent.as_ref());
        Self { work: Work::Task(id), life: row.life, lane: row.lane(), place, lost: row.lost, parent }
    }

    fn run(id: RunId, row: &'a RunRow) -> Self {
        let (place, parent) = (lanes::place(row.priority, row.seq), row.parent.as_ref());
        Self { work: Work::Run(id), life: row.life, lane: row.lane(), place, lost: row.lost, parent }
    }
}
