//! What a node answers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::ids::{GroupId, LeaseId, Name, NodeId, Position, RunId, TaskId, Timestamp, WorkKind, check_name};
use crate::limits::LIST_ROWS_MAX;
use crate::operate::ClusterReply;
use crate::payload::{Failure, Payload, WorkOutcome};
use crate::reject::{Refusal, Reject};

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
    QueuePage(QueuePage),
    Lanes(LaneList),
    /// A join token is known, and may be used until then.
    TokenCreated {
        expires: Timestamp,
    },
    Cluster(ClusterReply),
    /// So many slots are the worker's own again. Those that were offered beside them are leases by now, or may still
    /// become leases.
    Withdrawn {
        slots: u32,
    },
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

/// Some of the queues, by name. Of a queue that two pages share, each counts a part: see [`QueueList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePage {
    pub queues: Vec<QueueSummary>,
    /// There are more.
    pub next: Option<QueueCursor>,
}

/// Where a page of queues begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueCursor {
    pub group: GroupId,
    pub place: QueuePlace,
}

/// Where it begins within a group: among those with work by kind and name of it, among those that are only paused, or
/// among those that only have workers. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueuePlace {
    Lane { queue: Name, kind: WorkKind, name: Name },
    Paused(Name),
    Served(Name),
    First,
}

/// The pages of a list of queues, put together.
#[derive(Clone, Debug, Default)]
pub struct QueueList {
    queues: BTreeMap<Name, QueueSummary>,
}

/// A queue and the first of its lanes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneList {
    pub summary: QueueSummary,
    pub lanes: Vec<LaneDescription>,
    /// How many there are with work. The summary counts all of them.
    pub lanes_total: u64,
    /// If not, there are more than anybody counts: the total and the summary are what was seen so far.
    pub counted_all: bool,
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

impl QueueList {
    /// Adds a page; where the next one begins.
    pub fn add(&mut self, page: QueuePage) -> Option<QueueCursor> {
        for part in page.queues {
            match self.queues.entry(part.queue.clone()) {
                Entry::Vacant(new) => drop(new.insert(part)),
                Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    known.paused |= part.paused;
                    known.ready += part.ready;
                    known.leased += part.leased;
                    known.delayed += part.delayed;
                    known.workers = known.workers.max(part.workers);
                }
            }
        }
        page.next
    }

    /// All queues by name, each once.
    #[must_use]
    pub fn into_queues(self) -> Vec<QueueSummary> {
        self.queues.into_values().collect()
    }
}

impl LaneList {
    /// Adds what another group says about the same queue. Each group has its own work; workers serve all of them.
    pub fn add(&mut self, other: Self) {
        let summary = other.summary;
        self.summary.paused |= summary.paused;
        self.summary.ready += summary.ready;
        self.summary.leased += summary.leased;
        self.summary.delayed += summary.delayed;
        self.summary.workers = self.summary.workers.max(summary.workers);
        self.lanes_total = self.lanes_total.max(other.lanes_total);
        self.counted_all &= other.counted_all;
        for lane in other.lanes {
            let known = self.lanes.iter().position(|known| (known.kind, &known.name) == (lane.kind, &lane.name));
            match known {
                Some(i) => self.lanes[i].add(lane),
                None if self.lanes.len() < LIST_ROWS_MAX => self.lanes.push(lane),
                None => {}
            }
        }
    }
}

impl LaneDescription {
    fn add(&mut self, other: Self) {
        // Of two reasons the one of the work that waits; of two of those, either.
        if self.ready == 0 && (other.ready > 0 || self.waits == Wait::No) {
            self.waits = other.waits;
        }
        self.ready += other.ready;
        self.leased += other.leased;
        self.delayed += other.delayed;
        self.workers = self.workers.max(other.workers);
        self.free_slots = self.free_slots.max(other.free_slots);
        self.oldest = match (self.oldest, other.oldest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl QueueCursor {
    /// Checks the names.
    ///
    /// # Errors
    /// [`Reject::BadName`].
    pub fn check(&self) -> Result<(), Reject> {
        match &self.place {
            QueuePlace::Lane { queue, name, .. } => check_name(queue).and_then(|()| check_name(name)),
            QueuePlace::Paused(queue) | QueuePlace::Served(queue) if !queue.is_empty() => check_name(queue),
            QueuePlace::Paused(_) | QueuePlace::Served(_) | QueuePlace::First => Ok(()),
        }
    }
}
