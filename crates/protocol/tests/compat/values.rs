//! One value of each variant, and more where a field has two forms. Values never change; new ones are added.

use coda_protocol::cache_key::{CacheKey, KeyPart};
use coda_protocol::frame::{Frame, Hello, Welcome};
use coda_protocol::ids::{
    GroupId, LeaseId, Millis, NodeId, Position, RunId, SessionId, TaskId, Timestamp, Work, WorkKind,
};
use coda_protocol::operate::{ClusterReply, ClusterRequest};
use coda_protocol::payload::{Failure, Payload};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::push::{GroupLeader, MEMO_PAGES_OPEN, MemoPage, Push, RunLease, StepEnded, TaskLease, Wants};
use coda_protocol::reject::{Refusal, Reject, Unavailable};
use coda_protocol::reply::{
    Answer, Counters, GroupDescription, LaneDescription, LaneList, NodeDescription, QueueCursor, QueueDescription,
    QueuePage, QueuePlace, QueueSummary, Reply, RunDescription, StepDescription, StepState, TaskDescription, Wait,
    WorkState,
};
use coda_protocol::request::{
    CompleteRun, CompleteTask, Credit, ParkRun, RecordStep, Release, Request, Resume, Spawn, SpawnStep, StartRun,
    StepKey, StepKind, SubmitTask, Subscribe, Withdraw,
};

use crate::cluster_values::maps;

const RUN: RunId = RunId([1; 16]);
const TASK: TaskId = TaskId([2; 16]);
const SESSION: SessionId = SessionId([3; 16]);
const LEASE: LeaseId = LeaseId(0x0007_0001);

fn payload() -> Payload {
    Payload::json(r#"{"a":1}"#)
}

fn failure() -> Failure {
    Failure { kind: "ValueError".into(), message: "no".into(), traceback: "line 1\n".into(), retryable: true }
}

fn policy() -> RetryPolicy {
    RetryPolicy { max_retries: 3, initial: Millis(250), factor_percent: 200, max: Millis(70_000), jitter_percent: 20 }
}

fn key(kind: StepKind) -> StepKey {
    StepKey { kind, name: "charge".into(), cache_key: CacheKey::explicit(&[KeyPart::Str("e1".into())]).unwrap() }
}

fn step(kind: StepKind) -> SpawnStep {
    SpawnStep {
        key: key(kind),
        queue: "default".into(),
        args: payload(),
        priority: 4,
        policy: policy(),
        delay: Millis(10),
    }
}

pub fn requests() -> Vec<(&'static str, Request)> {
    let start = StartRun {
        run: RUN,
        workflow: "order".into(),
        queue: "default".into(),
        input: payload(),
        priority: 9,
        policy: policy(),
        delay: Millis(0),
    };
    let submit = SubmitTask {
        task: TASK,
        name: "send".into(),
        queue: "emails".into(),
        args: payload(),
        priority: 0,
        policy: policy(),
        delay: Millis(86_400_000),
    };
    let subscribe = Subscribe { queue: "q".into(), tasks: vec!["a".into(), "b".into()], workflows: vec!["w".into()] };
    let steps = vec![step(StepKind::Task), step(StepKind::Workflow)];
    let record = RecordStep { run: RUN, lease: LEASE, key: key(StepKind::Inline), result: payload() };
    let [from_lane, from_paused, from_served, from_first] =
        cursors().map(|cursor| Request::ListQueuesFrom(Some(cursor)));
    vec![
        ("StartRun", Request::StartRun(start)),
        ("SubmitTask", Request::SubmitTask(submit)),
        ("AwaitRun", Request::AwaitRun(RUN)),
        ("AwaitTask", Request::AwaitTask(TASK)),
        ("Subscribe", Request::Subscribe(subscribe)),
        ("Credit", Request::Credit(Credit { queue: "q".into(), kind: WorkKind::Run, slots: 300 })),
        ("Resume", Request::Resume(Resume { group: GroupId(1), held: vec![LEASE, LeaseId(1 << 40)] })),
        ("Spawn", Request::Spawn(Spawn { run: RUN, lease: LEASE, steps })),
        ("RecordStep", Request::RecordStep(record)),
        ("CompleteTask ok", Request::CompleteTask(CompleteTask { task: TASK, lease: LEASE, outcome: Ok(payload()) })),
        ("CompleteTask err", Request::CompleteTask(CompleteTask { task: TASK, lease: LEASE, outcome: Err(failure()) })),
        ("CompleteRun ok", Request::CompleteRun(CompleteRun { run: RUN, lease: LEASE, outcome: Ok(payload()) })),
        ("CompleteRun err", Request::CompleteRun(CompleteRun { run: RUN, lease: LEASE, outcome: Err(failure()) })),
        ("Release task", Request::Release(Release { work: Work::Task(TASK), lease: LEASE })),
        ("Release run", Request::Release(Release { work: Work::Run(RUN), lease: LEASE })),
        ("ParkRun", Request::ParkRun(ParkRun { run: RUN, lease: LEASE, seen: 7 })),
        ("EndSession", Request::EndSession(SESSION)),
        ("ListQueues", Request::ListQueues),
        ("DescribeQueue", Request::DescribeQueue("q".into())),
        ("PauseQueue", Request::PauseQueue("q".into())),
        ("UnpauseQueue", Request::UnpauseQueue("q".into())),
        ("DescribeRun", Request::DescribeRun(RUN)),
        ("DescribeTask", Request::DescribeTask(TASK)),
        ("DescribeNode", Request::DescribeNode),
        ("ListQueuesFrom the first", Request::ListQueuesFrom(None)),
        ("ListQueuesFrom a lane", from_lane),
        ("ListQueuesFrom a paused queue", from_paused),
        ("ListQueuesFrom a served queue", from_served),
        ("ListQueuesFrom a group", from_first),
        ("DescribeLanes", Request::DescribeLanes("q".into())),
        ("Cluster", Request::Cluster(ClusterRequest::Report)),
        ("Withdraw", Request::Withdraw(Withdraw { queue: "q".into(), kind: WorkKind::Task, slots: 300 })),
    ]
}

fn summary() -> QueueSummary {
    QueueSummary { queue: "q".into(), paused: true, ready: 1, leased: 2, delayed: 300, workers: 4 }
}

fn lane(kind: WorkKind, waits: Wait, oldest: Option<Timestamp>) -> LaneDescription {
    LaneDescription {
        kind,
        name: "n".into(),
        ready: 1,
        leased: 2,
        delayed: 3,
        workers: 4,
        free_slots: 5,
        oldest,
        waits,
    }
}

fn run_description() -> RunDescription {
    let state = |state, last_failure| StepDescription {
        name: "charge".into(),
        kind: StepKind::Task,
        state,
        attempts: 2,
        last_failure,
    };
    RunDescription {
        run: RUN,
        workflow: "order".into(),
        queue: "q".into(),
        state: WorkState::Parked,
        waits: Wait::Steps,
        attempt: 1,
        steps_pending: 1,
        steps_ended: 2,
        created: Timestamp(1_700_000_000_000),
        outcome: None,
        steps: vec![state(WorkState::Succeeded, None), state(WorkState::Failed, Some(failure()))],
        truncated: false,
    }
}

fn task_description() -> TaskDescription {
    TaskDescription {
        task: TASK,
        name: "send".into(),
        queue: "q".into(),
        state: WorkState::Retrying,
        waits: Wait::RetryingAt(Timestamp(9)),
        attempts: 3,
        created: Timestamp(5),
        last_failure: Some(failure()),
        outcome: Some(Err(failure())),
    }
}

fn node_description() -> NodeDescription {
    let group = |leader| GroupDescription { group: 1, leader, term: 2, applied: 1 << 33 };
    let counters = Counters { entries: 1, commands: 2, log_syncs: 3, log_bytes: 1 << 20, leases: 5, rejects: 6 };
    NodeDescription {
        node: NodeId(1),
        version: "0.1.0".into(),
        uptime_ms: 5,
        groups: vec![group(Some(NodeId(2))), group(None)],
        sessions: 9,
        counters,
    }
}

fn cursors() -> [QueueCursor; 4] {
    [
        QueuePlace::Lane { queue: "q".into(), kind: WorkKind::Run, name: "n".into() },
        QueuePlace::Paused("p".into()),
        QueuePlace::Served("s".into()),
        QueuePlace::First,
    ]
    .map(|place| QueueCursor { group: GroupId(3), place })
}

pub fn replies() -> Vec<(&'static str, Reply)> {
    let waits = [
        Wait::No,
        Wait::QueuePaused,
        Wait::NoWorker,
        Wait::WorkersBusy,
        Wait::DelayedUntil(Timestamp(7)),
        Wait::RetryingAt(Timestamp(8)),
        Wait::Steps,
        Wait::Running,
        Wait::Soon,
    ];
    let mut lanes: Vec<_> = waits.into_iter().map(|wait| lane(WorkKind::Task, wait, None)).collect();
    lanes.push(lane(WorkKind::Run, Wait::No, Some(Timestamp(300))));
    let some = vec![lane(WorkKind::Task, Wait::No, None)];
    let lanes_in_all = LaneList { summary: summary(), lanes: some, lanes_total: 300, counted_all: true };
    let states = [
        WorkState::Delayed,
        WorkState::Ready,
        WorkState::Running,
        WorkState::Parked,
        WorkState::Retrying,
        WorkState::Succeeded,
        WorkState::Failed,
    ];
    let step =
        |state| StepDescription { name: "s".into(), kind: StepKind::Inline, state, attempts: 1, last_failure: None };
    let all_states = RunDescription {
        steps: states.map(step).to_vec(),
        truncated: true,
        outcome: Some(Ok(payload())),
        ..run_description()
    };
    vec![
        ("Done", Reply::Done),
        ("Started", Reply::Started { existed: true }),
        ("Ended ok", Reply::Ended(Ok(payload()))),
        ("Ended err", Reply::Ended(Err(failure()))),
        ("Resumed", Reply::Resumed { lost: vec![LEASE] }),
        ("Spawned", Reply::Spawned(vec![StepState::Pending, StepState::Ended(Ok(payload()))])),
        ("Recorded", Reply::Recorded(payload())),
        ("Queues", Reply::Queues(vec![summary()])),
        ("Queue", Reply::Queue(QueueDescription { summary: summary(), lanes })),
        ("Run", Reply::Run(run_description())),
        ("Run of all states", Reply::Run(all_states)),
        ("Task", Reply::Task(task_description())),
        ("Node", Reply::Node(node_description())),
        ("QueuePage", Reply::QueuePage(QueuePage { queues: vec![summary()], next: Some(cursors()[2].clone()) })),
        ("QueuePage, the last", Reply::QueuePage(QueuePage { queues: vec![summary()], next: None })),
        ("Lanes", Reply::Lanes(lanes_in_all)),
        ("TokenCreated", Reply::TokenCreated { expires: Timestamp(1_700_000_000_000) }),
        ("Cluster", Reply::Cluster(ClusterReply::Tokens(Vec::new()))),
        ("Withdrawn", Reply::Withdrawn { slots: 300 }),
    ]
}

pub fn answers() -> Vec<(&'static str, Answer)> {
    let position = Position { group: 3, term: 4, index: 500 };
    let refusal = |refusal| Answer { position, result: Err(refusal) };
    vec![
        ("ok", Answer { position, result: Ok(Reply::Done) }),
        ("reject", refusal(Refusal::Reject(Reject::StaleLease))),
        ("unavailable", refusal(Refusal::Unavailable(Unavailable::ShuttingDown))),
    ]
}

pub fn pushes() -> Vec<(&'static str, Push)> {
    let task = TaskLease {
        task: TASK,
        lease: LEASE,
        queue: "q".into(),
        name: "send".into(),
        args: payload(),
        attempt: 1,
        retries_left: 2,
        run: Some(RUN),
    };
    let run = RunLease {
        run: RUN,
        lease: LEASE,
        queue: "q".into(),
        workflow: "order".into(),
        input: payload(),
        attempt: 1,
        memo_pages: 2,
        steps_ended: 3,
    };
    let items = vec![(key(StepKind::Task), Ok(payload())), (key(StepKind::Workflow), Err(failure()))];
    let ended = StepEnded { run: RUN, lease: LEASE, key: key(StepKind::Task), outcome: Ok(payload()), steps_ended: 4 };
    vec![
        ("Task", Push::Task(task.clone())),
        ("Task of its own", Push::Task(TaskLease { run: None, ..task })),
        ("Run", Push::Run(run.clone())),
        ("Run with an open memo", Push::Run(RunLease { memo_pages: MEMO_PAGES_OPEN, ..run })),
        ("Memo", Push::Memo(MemoPage { run: RUN, lease: LEASE, steps_ended: 2, items })),
        ("Step", Push::Step(ended)),
        ("LeaseLost", Push::LeaseLost { work: Work::Run(RUN), lease: LEASE }),
        ("MemoEnd", Push::MemoEnd { run: RUN, lease: LEASE, steps_ended: 300 }),
        ("Leader", Push::Leader(GroupLeader { group: GroupId(2), term: 300, leader: Some(NodeId(3)) })),
        ("Leader nobody", Push::Leader(GroupLeader { group: GroupId(2), term: 301, leader: None })),
        ("Map", Push::Map(maps().remove(0).1)),
        ("Wants", Push::Wants(Wants { queue: "q".into(), kind: WorkKind::Run, wanted: 300 })),
        ("Wants no more", Push::Wants(Wants { queue: "q".into(), kind: WorkKind::Task, wanted: 0 })),
        ("Outside", Push::Outside),
    ]
}

pub fn rejects() -> Vec<(&'static str, Reject)> {
    vec![
        ("BadName", Reject::BadName { name: "x".into() }),
        ("BadId", Reject::BadId { id: "x".into() }),
        ("PayloadTooLarge", Reject::PayloadTooLarge { bytes: 300, bytes_max: 299 }),
        ("FailureTooLarge", Reject::FailureTooLarge { bytes: 300, bytes_max: 299 }),
        ("CacheKeyTooLong", Reject::CacheKeyTooLong { bytes: 300, bytes_max: 299 }),
        ("BadCacheKey", Reject::BadCacheKey),
        ("BadPolicy", Reject::BadPolicy),
        ("BadPriority", Reject::BadPriority { priority: 10 }),
        ("DelayTooLong", Reject::DelayTooLong { ms: 1 << 40 }),
        ("TooMany", Reject::TooMany { what: "steps".into(), count: 300, max: 256 }),
        ("NoSuchRun", Reject::NoSuchRun { run: RUN.to_string() }),
        ("NoSuchTask", Reject::NoSuchTask { task: TASK.to_string() }),
        ("IdConflict", Reject::IdConflict { id: "x".into() }),
        ("StaleLease", Reject::StaleLease),
        ("AlreadyEnded", Reject::AlreadyEnded),
        ("NotIdle", Reject::NotIdle),
        ("WrongStepKind", Reject::WrongStepKind),
        ("TooManyLeases", Reject::TooManyLeases { max: 16_384 }),
        ("ResumedBefore", Reject::ResumedBefore),
    ]
    .into_iter()
    .chain(crate::cluster_values::rejects())
    .collect()
}

pub fn unavailable() -> Vec<(&'static str, Unavailable)> {
    vec![
        ("NotLeader", Unavailable::NotLeader { leader: Some("10.0.0.1:7400".into()) }),
        ("NotLeader, unknown", Unavailable::NotLeader { leader: None }),
        ("Overloaded", Unavailable::Overloaded { retry_after_ms: 50 }),
        ("ShuttingDown", Unavailable::ShuttingDown),
        ("ConnectionLost", Unavailable::ConnectionLost),
        ("DiskFull", Unavailable::DiskFull { retry_after_ms: 1_000 }),
    ]
}

pub fn frames() -> Vec<(&'static str, Frame)> {
    let hello = Hello { session: SESSION, agent: "test/1".into() };
    let welcome = Welcome { version: 1, node: NodeId(1), incarnation: 77, server: "coda/0.1.0".into() };
    let position = Position { group: 1, term: 2, index: 3 };
    vec![
        ("Hello", Frame::Hello { versions: (1, 1), hello }),
        ("Welcome", Frame::Welcome(welcome)),
        ("Request", Frame::Request { id: 258, request: Request::AwaitRun(RUN) }),
        ("Answer", Frame::Answer { id: 258, answer: Answer { position, result: Ok(Reply::Done) } }),
        ("Push", Frame::Push(Push::LeaseLost { work: Work::Task(TASK), lease: LEASE })),
    ]
}
