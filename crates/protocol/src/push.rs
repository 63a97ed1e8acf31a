//! What a node says to a worker unasked.

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterMap;
use crate::ids::{GroupId, LeaseId, Name, NodeId, RunId, TaskId, Work, WorkKind};
use crate::payload::{Payload, WorkOutcome};
use crate::request::StepKey;

/// Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Push {
    /// Execute this task. One credit is used up.
    Task(TaskLease),
    /// Execute this workflow function from the top, once all of its memo is here. One credit is used up.
    Run(RunLease),
    /// A page of what a leased run already knows.
    Memo(MemoPage),
    /// A step of a resident run has ended.
    Step(StepEnded),
    /// The lease is not yours any more: stop, results will be refused.
    LeaseLost { work: Work, lease: LeaseId },
    /// All of the memo has been sent: what had ended when its first page was read, and perhaps more.
    MemoEnd { run: RunId, lease: LeaseId, steps_ended: u32 },
    /// Who leads a group, as far as this node knows.
    Leader(GroupLeader),
    /// What to route by. The first word after the welcome, and said again when it changes.
    Map(ClusterMap),
    /// Ready work waits for slots that this worker may have promised to another node.
    Wants(Wants),
    /// Instead of a map: the node is in no cluster yet. It can be asked about itself, and to begin a cluster.
    Outside,
}

/// Ready work of this queue and kind, which this worker could do, waits at this node for free slots. Holds for
/// [`WANTS_MS`](crate::limits::WANTS_MS), unless it is said again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wants {
    pub queue: Name,
    pub kind: WorkKind,
    /// About how many slots more than it has could be used now. 0: no more than it has.
    pub wanted: u32,
}

/// Who leads a group. Of two that say different things, the later term is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLeader {
    pub group: GroupId,
    pub term: u64,
    /// None while nobody does.
    pub leader: Option<NodeId>,
}

/// A memo of as many pages as come before its [`Push::MemoEnd`]: they are read as fast as the worker takes them, and
/// nobody has counted them.
pub const MEMO_PAGES_OPEN: u32 = u32::MAX;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLease {
    pub task: TaskId,
    pub lease: LeaseId,
    pub queue: Name,
    pub name: Name,
    pub args: Payload,
    /// From 1; counts leases.
    pub attempt: u32,
    /// Retries the policy still has after this attempt.
    pub retries_left: u32,
    pub run: Option<RunId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLease {
    pub run: RunId,
    pub lease: LeaseId,
    pub queue: Name,
    pub workflow: Name,
    pub input: Payload,
    /// From 1; counts failures of the workflow function.
    pub attempt: u32,
    /// How many `Memo` pages belong to this lease; or [`MEMO_PAGES_OPEN`].
    pub memo_pages: u32,
    /// Finished steps so far: where `ParkRun::seen` starts.
    pub steps_ended: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoPage {
    pub run: RunId,
    pub lease: LeaseId,
    /// Finished steps when the first page was read.
    pub steps_ended: u32,
    pub items: Vec<(StepKey, WorkOutcome)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepEnded {
    pub run: RunId,
    pub lease: LeaseId,
    pub key: StepKey,
    pub outcome: WorkOutcome,
    /// Finished steps of the run so far, this one included: what `ParkRun::seen` reports.
    pub steps_ended: u32,
}
