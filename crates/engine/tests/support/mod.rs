//! A world for tests: the engine in memory, a clock that is a number, and verbs of the domain. After every entry all
//! invariants are checked.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod make;

use std::collections::BTreeMap;
use std::sync::Arc;

use coda_engine::apply::apply;
use coda_engine::command::{Command, Outcome};
use coda_engine::effect::Effect;
use coda_engine::entry::{Applied, Entry, Grant, Lane};
use coda_engine::kv::MemKv;
use coda_engine::recover::recover;
use coda_engine::{invariants, query};
use coda_protocol::ids::{GroupId, LeaseId, Name, RunId, SessionId, TaskId, Timestamp, Work, WorkKind};
use coda_protocol::payload::{Failure, Payload, WorkOutcome};
use coda_protocol::push::{RunLease, StepEnded, TaskLease};
use coda_protocol::reject::Reject;
use coda_protocol::reply::{LaneDescription, Reply, StepState};
use coda_protocol::request::{
    CompleteRun, CompleteTask, ParkRun, RecordStep, Release, Spawn, SpawnStep, StartRun, StepKey, SubmitTask,
};

pub const GROUP: GroupId = GroupId(1);
/// The worker of stories that need only one, and two more.
pub const W1: SessionId = SessionId([1; 16]);
pub const W2: SessionId = SessionId([2; 16]);
pub const W3: SessionId = SessionId([3; 16]);

#[derive(Default)]
pub struct World {
    pub kv: MemKv,
    pub index: u64,
    pub now: u64,
    /// Of the last entry.
    pub effects: Vec<Effect>,
    ids: u128,
}

/// Free slots: a session, what it executes, how much.
#[derive(Clone)]
pub struct Offer {
    pub session: SessionId,
    pub queue: Name,
    pub kind: WorkKind,
    pub names: Vec<Name>,
    pub slots: u32,
}

impl Offer {
    pub fn tasks(session: SessionId, names: &[&str], slots: u32) -> Self {
        let names = names.iter().map(Name::new).collect();
        Self { session, queue: "q".into(), kind: WorkKind::Task, names, slots }
    }

    pub fn runs(session: SessionId, names: &[&str], slots: u32) -> Self {
        Self { kind: WorkKind::Run, ..Self::tasks(session, names, slots) }
    }
}

/// An entry's grants as a leader that knows all lanes makes them.
pub fn entry(kv: &MemKv, now: u64, commands: Vec<Command>, offers: &[Offer]) -> Entry {
    let mut entry = Entry { now: Timestamp(now), commands, ..Entry::default() };
    for (i, offer) in offers.iter().enumerate() {
        let mut names = offer.names.clone();
        names.sort();
        entry.name_sets.push(Arc::from(names));
        let Offer { session, queue, kind, slots, .. } = offer.clone();
        entry.grants.push(Grant { session, queue, kind, names: i as u32, slots });
    }
    if !offers.is_empty() {
        let lane = |effect| if let Effect::LaneReady(lane) = effect { Some(lane) } else { None };
        entry.lanes = recover(kv, GROUP).into_iter().filter_map(lane).collect();
    }
    entry
}

/// Writing and time.
impl World {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn at(&mut self, ms: u64) -> &mut Self {
        self.now = ms;
        self
    }

    /// One log entry.
    pub fn entry(&mut self, commands: Vec<Command>, offers: &[Offer]) -> Applied {
        let entry = entry(&self.kv, self.now, commands, offers);
        self.apply(&entry)
    }

    pub fn apply(&mut self, entry: &Entry) -> Applied {
        self.index += 1;
        let applied = apply(&mut self.kv, GROUP, self.index, entry);
        self.effects.clone_from(&applied.effects);
        let broken = invariants::check_at(&self.kv, GROUP, self.index);
        assert!(broken.is_empty(), "after {entry:?}: {broken:#?}");
        applied
    }

    /// One command in an entry of its own.
    pub fn command(&mut self, command: Command) -> Outcome {
        self.entry(vec![command], &[]).outcomes.remove(0)
    }

    fn next_id(&mut self) -> [u8; 16] {
        self.ids += 1;
        self.ids.to_be_bytes()
    }

    /// Ticks until nothing is due any more; says how often.
    pub fn tick(&mut self) -> usize {
        for count in 1.. {
            assert_eq!(self.command(Command::Tick), Ok(Reply::Done));
            if !self.effects.iter().any(|effect| matches!(effect, Effect::WakeAt(at) if at.0 <= self.now)) {
                return count;
            }
        }
        unreachable!()
    }
}

/// What clients do.
impl World {
    pub fn submit(&mut self, name: &str) -> TaskId {
        self.submit_with(name, |_| {})
    }

    pub fn submit_with(&mut self, name: &str, change: impl FnOnce(&mut SubmitTask)) -> TaskId {
        let mut submit = make::submit(TaskId(self.next_id()), name);
        change(&mut submit);
        let task = submit.task;
        assert_eq!(self.command(Command::SubmitTask(submit)), Ok(Reply::Started { existed: false }));
        task
    }

    pub fn start(&mut self, workflow: &str) -> RunId {
        self.start_with(workflow, |_| {})
    }

    pub fn start_with(&mut self, workflow: &str, change: impl FnOnce(&mut StartRun)) -> RunId {
        let mut start = make::start(RunId(self.next_id()), workflow);
        change(&mut start);
        let run = start.run;
        assert_eq!(self.command(Command::StartRun(start)), Ok(Reply::Started { existed: false }));
        run
    }

    pub fn pause(&mut self, queue: &str) {
        assert_eq!(self.command(Command::PauseQueue { queue: queue.into() }), Ok(Reply::Done));
    }

    pub fn unpause(&mut self, queue: &str) {
        assert_eq!(self.command(Command::UnpauseQueue { queue: queue.into() }), Ok(Reply::Done));
    }
}

/// What workers do.
impl World {
    /// The tasks that go to the given slots of queue `q`.
    pub fn lease_as(&mut self, session: SessionId, names: &[&str], slots: u32) -> Vec<TaskLease> {
        let applied = self.entry(vec![], &[Offer::tasks(session, names, slots)]);
        task_leases(&applied.effects)
    }

    pub fn lease(&mut self, name: &str) -> Option<TaskLease> {
        self.lease_as(W1, &[name], 1).pop()
    }

    pub fn lease_run_as(&mut self, session: SessionId, workflow: &str) -> Option<RunLease> {
        let applied = self.entry(vec![], &[Offer::runs(session, &[workflow], 1)]);
        run_leases(&applied.effects).pop()
    }

    pub fn lease_run(&mut self, workflow: &str) -> Option<RunLease> {
        self.lease_run_as(W1, workflow)
    }

    /// A run that is started and leased.
    pub fn resident(&mut self, workflow: &str) -> RunLease {
        self.start(workflow);
        self.lease_run(workflow).expect("a fresh run is ready")
    }

    pub fn complete(&mut self, lease: &TaskLease, result: &str) -> Outcome {
        self.end_task(lease, Ok(make::json(result)))
    }

    pub fn fail(&mut self, lease: &TaskLease, message: &str) -> Outcome {
        self.end_task(lease, Err(make::failure(message)))
    }

    pub fn end_task(&mut self, lease: &TaskLease, outcome: WorkOutcome) -> Outcome {
        self.command(Command::CompleteTask(CompleteTask { task: lease.task, lease: lease.lease, outcome }))
    }

    pub fn finish(&mut self, lease: &RunLease, result: &str) -> Outcome {
        self.end_run(lease, Ok(make::json(result)))
    }

    pub fn fail_run(&mut self, lease: &RunLease, message: &str) -> Outcome {
        self.end_run(lease, Err(make::failure(message)))
    }

    pub fn end_run(&mut self, lease: &RunLease, outcome: WorkOutcome) -> Outcome {
        self.command(Command::CompleteRun(CompleteRun { run: lease.run, lease: lease.lease, outcome }))
    }

    pub fn try_spawn(&mut self, lease: &RunLease, steps: Vec<SpawnStep>) -> Outcome {
        self.command(Command::Spawn(Spawn { run: lease.run, lease: lease.lease, steps }))
    }

    pub fn spawn(&mut self, lease: &RunLease, steps: &[SpawnStep]) -> Vec<StepState> {
        match self.try_spawn(lease, steps.to_vec()) {
            Ok(Reply::Spawned(states)) => states,
            other => panic!("{other:?}"),
        }
    }

    pub fn record(&mut self, lease: &RunLease, key: StepKey, result: &str) -> Outcome {
        let result = make::json(result);
        self.command(Command::RecordStep(RecordStep { run: lease.run, lease: lease.lease, key, result }))
    }

    /// Spawns one step and completes it.
    pub fn do_step(&mut self, lease: &RunLease, step: &SpawnStep, result: &str) {
        assert_eq!(self.spawn(lease, std::slice::from_ref(step)), [StepState::Pending]);
        let task = self.lease(&step.key.name).expect("the step is ready");
        assert_eq!(self.complete(&task, result), Ok(Reply::Done));
    }

    pub fn park(&mut self, lease: &RunLease, seen: u32) -> Outcome {
        self.command(Command::ParkRun(ParkRun { run: lease.run, lease: lease.lease, seen }))
    }

    pub fn release(&mut self, work: Work, lease: LeaseId) -> Outcome {
        self.command(Command::Release(Release { work, lease }))
    }

    pub fn end_session(&mut self, session: SessionId) {
        assert_eq!(self.command(Command::EndSession { session }), Ok(Reply::Done));
    }

    /// The leases that are lost.
    pub fn resume(&mut self, session: SessionId, held: &[LeaseId]) -> Vec<LeaseId> {
        match self.command(Command::ResumeSession { session, held: held.to_vec() }) {
            Ok(Reply::Resumed { lost }) => lost,
            other => panic!("{other:?}"),
        }
    }
}

/// What can be seen.
impl World {
    pub fn task_outcome(&self, task: TaskId) -> Result<Option<WorkOutcome>, Reject> {
        query::task_outcome(&self.kv, GROUP, task)
    }

    pub fn run_outcome(&self, run: RunId) -> Result<Option<WorkOutcome>, Reject> {
        query::run_outcome(&self.kv, GROUP, run)
    }

    /// A run's memo as one map, whatever its pages.
    pub fn memo(&self, run: RunId) -> BTreeMap<StepKey, WorkOutcome> {
        query::memo(&self.kv, GROUP, run).items.into_iter().collect()
    }

    pub fn lane(&self, name: &str) -> Option<LaneDescription> {
        query::lanes(&self.kv, GROUP, &"q".into()).lanes.into_iter().find(|lane| lane.name == name)
    }

    pub fn steps_ended(&self) -> Vec<StepEnded> {
        let step =
            |effect: &Effect| if let Effect::StepEnded { step, .. } = effect { Some(step.clone()) } else { None };
        self.effects.iter().filter_map(step).collect()
    }

    pub fn lanes_ready(&self) -> Vec<Lane> {
        let lane = |effect: &Effect| if let Effect::LaneReady(lane) = effect { Some(lane.clone()) } else { None };
        self.effects.iter().filter_map(lane).collect()
    }
}

pub fn task_leases(effects: &[Effect]) -> Vec<TaskLease> {
    let lease =
        |effect: &Effect| if let Effect::TaskLeased { lease, .. } = effect { Some(lease.clone()) } else { None };
    effects.iter().filter_map(lease).collect()
}

pub fn run_leases(effects: &[Effect]) -> Vec<RunLease> {
    let lease = |effect: &Effect| if let Effect::RunLeased { lease, .. } = effect { Some(lease.clone()) } else { None };
    effects.iter().filter_map(lease).collect()
}

/// Shorthand for a successful outcome.
pub fn ok(result: &str) -> WorkOutcome {
    Ok(make::json(result))
}

pub fn text(payload: &Payload) -> String {
    String::from_utf8_lossy(&payload.data).into_owned()
}

pub fn failure(message: &str) -> Failure {
    make::failure(message)
}
