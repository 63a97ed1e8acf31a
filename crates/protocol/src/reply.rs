//! What a node answers.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::ids::{LeaseId, Name, NodeId, Position, RunId, TaskId, Timestamp, WorkKind};
use crate::payload::{Failure, Payload, WorkOutcome};
use crate::reject::Refusal;

/// One answer: what happened and where in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub position: Position,
    pub result: Result<Reply, Refusal>,
}

/// The yes. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    /// Accepted, or `existed`: the same id was accepted before.
    Started {
        existed: bool,
    },
    Ended(WorkOutcome),
    /// Leases that are not this session's any more: stop working on them.
    Resumed {
        lost: Vec<LeaseId>,
    },
    /// One per step asked for, in order.
    Spawned(Vec<StepState>),
    /// The recorded result; another execution's if that came first.
    Recorded(Payload),
    Queues(Vec<QueueSummary>),
    Queue(QueueDescription),
    Run(RunDescription),
    Task(TaskDescription),
    Node(NodeDescription),
}

/// What is known of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepState {
    Pending,
    Ended(WorkOutcome),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSummary {
    pub queue: Name,
    pub paused: bool,
    /// Could run now.
    pub ready: u64,
    pub leased: u64,
    /// Delayed, or waiting for a retry.
    pub delayed: u64,
    /// Sessions subscribed on this node.
    pub workers: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDescription {
    pub summary: QueueSummary,
    pub lanes: Vec<LaneDescription>,
}

/// One kind and name of work within a queue, and why it waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneDescription {
    pub kind: WorkKind,
    pub name: Name,
    pub ready: u64,
    pub leased: u64,
    pub delayed: u64,
    /// Sessions that serve it, and the free slots they offer.
    pub workers: u32,
    pub free_slots: u32,
    /// When the first of the waiting was accepted.
    pub oldest: Option<Timestamp>,
    pub waits: Wait,
}

/// Why work does not run. Everything that waits has exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    /// Nothing waits.
    No,
    QueuePaused,
    /// No connected worker has registered this name.
    NoWorker,
    /// Workers serve it, and all their slots are taken.
    WorkersBusy,
    DelayedUntil(Timestamp),
    RetryingAt(Timestamp),
    /// A run that waits for its steps.
    Steps,
    /// It runs.
    Running,
    /// It will be handed out with the next entry.
    Soon,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDescription {
    pub run: RunId,
    pub workflow: Name,
    pub queue: Name,
    pub state: WorkState,
    pub waits: Wait,
    /// Executions of the workflow function that failed, plus one.
    pub attempt: u32,
    pub steps_pending: u32,
    pub steps_ended: u32,
    pub created: Timestamp,
    pub outcome: Option<WorkOutcome>,
    pub steps: Vec<StepDescription>,
    /// More steps exist than are listed.
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDescription {
    pub name: Name,
    pub kind: crate::request::StepKind,
    pub state: WorkState,
    pub attempts: u32,
    pub last_failure: Option<Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDescription {
    pub task: TaskId,
    pub name: Name,
    pub queue: Name,
    pub state: WorkState,
    pub waits: Wait,
    /// Attempts that were leased.
    pub attempts: u32,
    pub created: Timestamp,
    pub last_failure: Option<Failure>,
    pub outcome: Option<WorkOutcome>,
}

/// The life of work as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkState {
    Delayed,
    Ready,
    Running,
    /// A run that waits for its steps without a worker slot.
    Parked,
    Retrying,
    Succeeded,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    pub node: NodeId,
    pub version: SmolStr,
    pub uptime_ms: u64,
    pub groups: Vec<GroupDescription>,
    pub sessions: u32,
    pub counters: Counters,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDescription {
    pub group: u32,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub applied: u64,
}

/// Totals since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub entries: u64,
    pub commands: u64,
    pub log_syncs: u64,
    pub log_bytes: u64,
    pub leases: u64,
    pub rejects: u64,
}
