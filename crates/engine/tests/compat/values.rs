//! One value of each variant, and more where a field has two forms. Values never change; new ones are added.

use std::sync::Arc;

use coda_engine::cluster::command::ClusterCommand;
use coda_engine::command::Command;
use coda_engine::entry::{Entry, Grant, Lane};
use coda_engine::rows::{LaneRow, Life, MemoRow, Meta, Parent, QueueRow, ReadyPlace, RunRow, Seq, TaskRow};
use coda_engine::tables::{DelayedKey, Due, DueKey, LeaseKey, MemoKey, ReadyKey};
use coda_protocol::cache_key::{CacheKey, KeyPart};
use coda_protocol::ids::{
    GroupId, LeaseId, Millis, Name, NodeId, RunId, SessionId, Slot, TaskId, Timestamp, TokenId, Work, WorkKind,
};
use coda_protocol::payload::{Failure, Payload, WorkOutcome};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::request::{
    CompleteRun, CompleteTask, ParkRun, RecordStep, Release, Spawn, SpawnStep, StartRun, StepKey, StepKind, SubmitTask,
};

pub const RUN_ID: RunId = RunId([1; 16]);
pub const TASK_ID: TaskId = TaskId([2; 16]);
const SESSION: SessionId = SessionId([3; 16]);
const LEASE: LeaseId = LeaseId(0x0007_0001);

type Rows<K, V> = Vec<(&'static str, K, V)>;

pub fn payload() -> Payload {
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

pub fn commands() -> Vec<(&'static str, Command)> {
    let start = StartRun {
        run: RUN_ID,
        workflow: "order".into(),
        queue: "default".into(),
        input: payload(),
        priority: 9,
        policy: policy(),
        delay: Millis(0),
    };
    let submit = SubmitTask {
        task: TASK_ID,
        name: "send".into(),
        queue: "emails".into(),
        args: payload(),
        priority: 0,
        policy: policy(),
        delay: Millis(86_400_000),
    };
    let step = |kind| SpawnStep {
        key: key(kind),
        queue: "default".into(),
        args: payload(),
        priority: 4,
        policy: policy(),
        delay: Millis(10),
    };
    let steps = vec![step(StepKind::Task), step(StepKind::Workflow)];
    let record = RecordStep { run: RUN_ID, lease: LEASE, key: key(StepKind::Inline), result: payload() };
    let task = |outcome| Command::CompleteTask(CompleteTask { task: TASK_ID, lease: LEASE, outcome });
    let run = |outcome| Command::CompleteRun(CompleteRun { run: RUN_ID, lease: LEASE, outcome });
    vec![
        ("StartRun", Command::StartRun(start)),
        ("SubmitTask", Command::SubmitTask(submit)),
        ("Spawn", Command::Spawn(Spawn { run: RUN_ID, lease: LEASE, steps })),
        ("RecordStep", Command::RecordStep(record)),
        ("CompleteTask ok", task(Ok(payload()))),
        ("CompleteTask err", task(Err(failure()))),
        ("CompleteRun ok", run(Ok(payload()))),
        ("CompleteRun err", run(Err(failure()))),
        ("Release task", Command::Release(Release { work: Work::Task(TASK_ID), lease: LEASE })),
        ("Release run", Command::Release(Release { work: Work::Run(RUN_ID), lease: LEASE })),
        ("ParkRun", Command::ParkRun(ParkRun { run: RUN_ID, lease: LEASE, seen: 7 })),
        ("ResumeSession", Command::ResumeSession { session: SESSION, held: vec![LEASE, LeaseId(1 << 40)] }),
        ("EndSession", Command::EndSession { session: SESSION }),
        ("PauseQueue", Command::PauseQueue { queue: "q".into() }),
        ("UnpauseQueue", Command::UnpauseQueue { queue: "q".into() }),
        ("Tick", Command::Tick),
        ("Cluster", Command::Cluster(ClusterCommand::Drain { node: NodeId(300) })),
    ]
}

fn lane(kind: WorkKind) -> Lane {
    Lane { queue: "q".into(), kind, name: "send".into() }
}

pub fn entries() -> Vec<(&'static str, Entry)> {
    let grant = |kind, names| Grant { session: SESSION, queue: "q".into(), kind, names, slots: 300 };
    let names: Arc<[Name]> = Arc::from(vec![Name::new("a"), Name::new("b")]);
    let full = Entry {
        now: Timestamp(1_700_000_000_000),
        commands: vec![Command::Tick, Command::EndSession { session: SESSION }],
        grants: vec![grant(WorkKind::Task, 0), grant(WorkKind::Run, 1)],
        name_sets: vec![names, Arc::from(vec![])],
        lanes: vec![lane(WorkKind::Task), lane(WorkKind::Run)],
    };
    vec![("empty", Entry::default()), ("full", full)]
}

fn place() -> ReadyPlace {
    ReadyPlace { rank: 5, seq: Seq { index: 0x0102_0304_0506, ordinal: 258 } }
}

pub fn metas() -> Rows<(), Meta> {
    vec![("meta", (), Meta { time: Timestamp(1_700_000_000_000), due_from: Timestamp(1_600_000_000_000) })]
}

pub fn queues() -> Rows<Name, QueueRow> {
    vec![("paused", "emails".into(), QueueRow { paused: true })]
}

pub fn lanes() -> Rows<Lane, LaneRow> {
    let row = LaneRow { ready: 1, leased: 2, delayed: 300, ready_from: Some(place()) };
    vec![
        ("tasks", lane(WorkKind::Task), row.clone()),
        ("runs", lane(WorkKind::Run), LaneRow { ready_from: None, ..row }),
    ]
}

pub fn ready() -> Rows<ReadyKey, ()> {
    let task = ReadyKey { lane: lane(WorkKind::Task), place: place(), work: Work::Task(TASK_ID) };
    let run = ReadyKey { lane: lane(WorkKind::Run), place: place(), work: Work::Run(RUN_ID) };
    vec![("task", task, ()), ("run", run, ())]
}

fn lives() -> Vec<(&'static str, Life)> {
    vec![
        ("delayed", Life::Delayed { until: Timestamp(9_000) }),
        ("ready", Life::Ready),
        ("leased", Life::Leased { session: SESSION, lease: LEASE }),
        ("parked", Life::Parked),
        ("retrying", Life::Retrying { at: Timestamp(9_000) }),
        ("ended", Life::Ended { by: Some(LEASE) }),
        ("given up", Life::Ended { by: None }),
    ]
}

fn run(life: Life, parent: Option<Parent>) -> RunRow {
    RunRow {
        workflow: "order".into(),
        queue: "q".into(),
        priority: 4,
        policy: policy(),
        created: Timestamp(1_700_000_000_000),
        seq: place().seq,
        life,
        attempt: 2,
        lost: 1,
        steps_pending: 3,
        steps_ended: 300,
        has_memo: true,
        parent,
    }
}

fn parent() -> Option<Parent> {
    Some(Parent { run: RUN_ID, key: key(StepKind::Workflow) })
}

pub fn runs() -> Rows<RunId, RunRow> {
    let child = RunId::derived(Slot(4_095), GroupId(513), 1 << 33, 258);
    let mut rows: Rows<_, _> = lives().into_iter().map(|(label, life)| (label, RUN_ID, run(life, None))).collect();
    rows.push(("child", child, run(Life::Ready, parent())));
    rows
}

fn task(life: Life, parent: Option<Parent>, last_failure: Option<Failure>) -> TaskRow {
    TaskRow {
        name: "send".into(),
        queue: "q".into(),
        priority: 4,
        policy: policy(),
        created: Timestamp(1_700_000_000_000),
        seq: place().seq,
        life,
        attempts: 3,
        failures: 2,
        lost: 1,
        last_failure,
        parent,
    }
}

pub fn tasks() -> Rows<TaskId, TaskRow> {
    let step = TaskId::derived(Slot(7), GroupId(513), 1 << 33, 258);
    let of_its_own = |(label, life)| (label, TASK_ID, task(life, None, None));
    // Tasks do not park.
    let mut rows: Rows<_, _> = lives().into_iter().filter(|(_, life)| *life != Life::Parked).map(of_its_own).collect();
    rows.push(("step", step, task(Life::Ready, parent(), Some(failure()))));
    rows
}

pub fn memos() -> Rows<MemoKey, MemoRow> {
    let memo = |kind| MemoKey { run: RUN_ID, step: key(kind) };
    let failed = MemoRow::Failed { failure: failure(), attempts: 2, run_attempt: 1 };
    vec![
        ("pending task", memo(StepKind::Task), MemoRow::Pending { work: Work::Task(TASK_ID), run_attempt: 1 }),
        ("pending run", memo(StepKind::Workflow), MemoRow::Pending { work: Work::Run(RUN_ID), run_attempt: 2 }),
        ("ended", memo(StepKind::Inline), MemoRow::Ended { result: payload(), attempts: 1 }),
        ("failed", memo(StepKind::Task), failed),
    ]
}

pub fn outcomes<K: Copy>(id: K) -> Rows<K, WorkOutcome> {
    vec![("ok", id, Ok(payload())), ("err", id, Err(failure()))]
}

pub fn leases() -> Rows<LeaseKey, Work> {
    let key = LeaseKey { session: SESSION, lease: LEASE };
    vec![("task", key, Work::Task(TASK_ID)), ("run", key, Work::Run(RUN_ID))]
}

pub fn delayed() -> Rows<DelayedKey, ()> {
    let at = Timestamp(1_700_000_000_000);
    let task = DelayedKey { lane: lane(WorkKind::Task), at, work: Work::Task(TASK_ID) };
    let run = DelayedKey { lane: lane(WorkKind::Run), at, work: Work::Run(RUN_ID) };
    vec![("task", task, ()), ("run", run, ())]
}

pub fn due() -> Rows<DueKey, ()> {
    let at = Timestamp(1_700_000_000_000);
    vec![
        ("ready task", DueKey { at, what: Due::Ready(Work::Task(TASK_ID)) }, ()),
        ("ready run", DueKey { at, what: Due::Ready(Work::Run(RUN_ID)) }, ()),
        ("forget task", DueKey { at, what: Due::Forget(Work::Task(TASK_ID)) }, ()),
        ("forget run", DueKey { at, what: Due::Forget(Work::Run(RUN_ID)) }, ()),
        ("forget token", DueKey { at, what: Due::ForgetToken(TokenId([4; 16])) }, ()),
    ]
}
