//! What a client or worker may ask. Each mutating request carries an id chosen by its sender: twice equals once.

use serde::{Deserialize, Serialize};

use crate::cache_key::CacheKey;
use crate::ids::{GroupId, LeaseId, Millis, Name, RunId, SessionId, Slot, Slotted, TaskId, Work, WorkKind};
use crate::operate::ClusterRequest;
use crate::payload::{Payload, WorkOutcome};
use crate::policy::RetryPolicy;
use crate::reply::QueueCursor;

/// A question or a wish. Variants are only ever appended: their order is on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Start a run; an existing run of that id is left as it is. → `Started`
    StartRun(StartRun),
    /// Put a task of its own into a queue. → `Started`
    SubmitTask(SubmitTask),
    /// Answered when the run has ended. → `Ended`
    AwaitRun(RunId),
    /// Answered when the task has ended. → `Ended`
    AwaitTask(TaskId),

    /// Serve a queue. A later `Subscribe` for the same queue replaces it. → `Done`
    Subscribe(Subscribe),
    /// Offer free slots, added to those offered before. Sent without an id: never answered.
    Credit(Credit),
    /// To whoever leads a group, before any work of that group is leased to the session: the leases it still works under.
    /// The others are handed back. → `Resumed`
    Resume(Resume),
    /// A resident run spawns steps. → `Spawned`
    Spawn(Spawn),
    /// A resident run records what an inline step returned. → `Recorded`
    RecordStep(RecordStep),
    /// A leased task has ended. → `Done`
    CompleteTask(CompleteTask),
    /// A leased run has ended, or failed this attempt. → `Done`
    CompleteRun(CompleteRun),
    /// Hand leased work back unharmed. → `Done`
    Release(Release),
    /// Give up the slot of a run that only waits. → `Done`
    ParkRun(ParkRun),
    /// A supervisor saw this session's process die: hand its leases back now. → `Done`
    EndSession(SessionId),

    /// The first page of `ListQueuesFrom`. → `Queues`
    ListQueues,
    /// As `DescribeLanes`, without the totals. → `Queue`
    DescribeQueue(Name),
    /// No new leases from this queue. → `Done`
    PauseQueue(Name),
    /// → `Done`
    UnpauseQueue(Name),
    /// → `Run`
    DescribeRun(RunId),
    /// → `Task`
    DescribeTask(TaskId),
    /// → `Node`
    DescribeNode,
    /// The queues, a page at a time: from the first on, or from where the page before has ended. → `QueuePage`
    ListQueuesFrom(Option<QueueCursor>),
    /// Why does a queue's work wait? → `Lanes`
    DescribeLanes(Name),

    /// What operators ask. → `Cluster`, or what it says itself
    Cluster(ClusterRequest),

    /// Take free slots back that were offered on this connection and are not used yet. Never refused for overload.
    /// → `Withdrawn`
    Withdraw(Withdraw),
}

impl Request {
    /// The slot whose group it is for. None for what every node answers, or one connection is about.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Self::StartRun(start) => Some(start.run.slot()),
            Self::SubmitTask(submit) => Some(submit.task.slot()),
            Self::AwaitRun(run) | Self::DescribeRun(run) => Some(run.slot()),
            Self::AwaitTask(task) | Self::DescribeTask(task) => Some(task.slot()),
            Self::Spawn(spawn) => Some(spawn.run.slot()),
            Self::RecordStep(record) => Some(record.run.slot()),
            Self::CompleteTask(complete) => Some(complete.task.slot()),
            Self::CompleteRun(complete) => Some(complete.run.slot()),
            Self::Release(release) => Some(release.work.slot()),
            Self::ParkRun(park) => Some(park.run.slot()),
            Self::Subscribe(_)
            | Self::Credit(_)
            | Self::Resume(_)
            | Self::EndSession(_)
            | Self::ListQueues
            | Self::DescribeQueue(_)
            | Self::PauseQueue(_)
            | Self::UnpauseQueue(_)
            | Self::DescribeNode
            | Self::ListQueuesFrom(_)
            | Self::DescribeLanes(_)
            | Self::Cluster(_)
            | Self::Withdraw(_) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRun {
    pub run: RunId,
    pub workflow: Name,
    pub queue: Name,
    pub input: Payload,
    /// `0..=PRIORITY_MAX`, higher first.
    pub priority: u8,
    /// Retries of the workflow function itself.
    pub policy: RetryPolicy,
    /// Not before this much after it is accepted.
    pub delay: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitTask {
    pub task: TaskId,
    pub name: Name,
    pub queue: Name,
    pub args: Payload,
    pub priority: u8,
    pub policy: RetryPolicy,
    pub delay: Millis,
}

/// What a session can execute from one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    pub queue: Name,
    pub tasks: Vec<Name>,
    pub workflows: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    pub queue: Name,
    pub kind: WorkKind,
    pub slots: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdraw {
    pub queue: Name,
    pub kind: WorkKind,
    /// At most so many.
    pub slots: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    pub group: GroupId,
    /// Leases of this group.
    pub held: Vec<LeaseId>,
}

/// Which step of a run: its memo lives under this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepKey {
    pub kind: StepKind,
    pub name: Name,
    pub cache_key: CacheKey,
}

/// How a step is carried out. Part of the key: a task and a workflow of one name are two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StepKind {
    Task,
    Workflow,
    /// In the workflow's own process, only recorded here.
    Inline,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    pub run: RunId,
    pub lease: LeaseId,
    pub steps: Vec<SpawnStep>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnStep {
    /// Of kind `Task` or `Workflow`.
    pub key: StepKey,
    pub queue: Name,
    pub args: Payload,
    pub priority: u8,
    pub policy: RetryPolicy,
    pub delay: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordStep {
    pub run: RunId,
    pub lease: LeaseId,
    /// Of kind `Inline`.
    pub key: StepKey,
    pub result: Payload,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompleteTask {
    pub task: TaskId,
    pub lease: LeaseId,
    pub outcome: WorkOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompleteRun {
    pub run: RunId,
    pub lease: LeaseId,
    pub outcome: WorkOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub work: Work,
    pub lease: LeaseId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkRun {
    pub run: RunId,
    pub lease: LeaseId,
    /// The largest `steps_ended` that the worker was told; parking is refused when more have ended since.
    pub seen: u32,
}
