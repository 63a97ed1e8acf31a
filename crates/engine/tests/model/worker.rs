//! Workers of the model: what a process knows and does.

use std::collections::{BTreeMap, BTreeSet};

use coda_engine::command::Command;
use coda_engine::query::MemoRead;
use coda_protocol::ids::{LeaseId, Name, SessionId, Work};
use coda_protocol::payload::{Failure, Payload, WorkOutcome};
use coda_protocol::push::{RunLease, StepEnded, TaskLease};
use coda_protocol::reply::{Reply, StepState};
use coda_protocol::request::{CompleteRun, CompleteTask, ParkRun, RecordStep, Release, Spawn, StepKey};
use rand::Rng;
use rand::rngs::StdRng;

use crate::oracle::Oracle;
use crate::program::{Input, Program, Turn};

pub struct Worker {
    pub session: SessionId,
    pub names: Vec<Name>,
    pub connected: bool,
    /// Between its hello and the answer to its `Resume` it offers no slots.
    pub resuming: bool,
    pub tasks: BTreeMap<LeaseId, TaskLease>,
    pub runs: BTreeMap<LeaseId, Execution>,
}

/// A workflow function on a worker.
#[derive(Debug)]
pub struct Execution {
    pub lease: RunLease,
    program: Program,
    known: BTreeMap<StepKey, WorkOutcome>,
    asked: BTreeSet<StepKey>,
    seen: u32,
    /// Waits for an answer.
    pub busy: bool,
}

impl Worker {
    pub fn new(session: SessionId, names: Vec<Name>) -> Self {
        Self { session, names, connected: true, resuming: false, tasks: BTreeMap::new(), runs: BTreeMap::new() }
    }

    pub fn held(&self) -> Vec<LeaseId> {
        self.tasks.keys().chain(self.runs.keys()).copied().collect()
    }

    pub fn lose(&mut self, lease: LeaseId) {
        self.tasks.remove(&lease);
        self.runs.remove(&lease);
    }

    /// Some piece of held work goes on. `calm` workers only make progress.
    pub fn act(&mut self, rng: &mut StdRng, results: &mut u64, calm: bool) -> Option<Command> {
        let leases = self.held();
        let idle = |lease: &&LeaseId| self.runs.get(lease).is_none_or(|execution| !execution.busy);
        let leases: Vec<&LeaseId> = leases.iter().filter(idle).collect();
        if leases.is_empty() {
            return None;
        }
        let lease = *leases[rng.random_range(0..leases.len())];
        if let Some(task) = self.tasks.get(&lease) {
            let work = Work::Task(task.task);
            if !calm && rng.random_bool(0.05) {
                self.tasks.remove(&lease);
                return Some(Command::Release(Release { work, lease }));
            }
            let task = self.tasks.remove(&lease).expect("just read");
            *results += 1;
            let outcome = outcome(rng, *results);
            return Some(Command::CompleteTask(CompleteTask { task: task.task, lease, outcome }));
        }
        let execution = self.runs.get_mut(&lease).expect("held");
        if !calm && rng.random_bool(0.03) {
            let work = Work::Run(execution.lease.run);
            self.runs.remove(&lease);
            return Some(Command::Release(Release { work, lease }));
        }
        execution.turn(rng, results, calm)
    }
}

/// How a task body goes: results are never equal to each other.
fn outcome(rng: &mut StdRng, n: u64) -> WorkOutcome {
    match rng.random_range(0..20) {
        0..=14 => Ok(Payload::json(format!("result {n}"))),
        kind => Err(Failure {
            kind: "E".into(),
            message: format!("failure {n}"),
            traceback: String::new(),
            retryable: kind < 19,
        }),
    }
}

impl Execution {
    pub fn new(lease: RunLease) -> Self {
        let program = Program::new(Input::read(&lease.input));
        let seen = lease.steps_ended;
        Self { lease, program, known: BTreeMap::new(), asked: BTreeSet::new(), seen, busy: false }
    }

    pub fn memo(&mut self, memo: MemoRead, oracle: &mut Oracle) {
        self.seen = self.seen.max(memo.steps_ended);
        for (key, outcome) in memo.items {
            oracle.sees(self.lease.run, self.lease.attempt, &key, &outcome);
            self.known.insert(key, outcome);
        }
    }

    pub fn step_ended(&mut self, step: &StepEnded, oracle: &mut Oracle) {
        oracle.sees(self.lease.run, self.lease.attempt, &step.key, &step.outcome);
        self.seen = self.seen.max(step.steps_ended);
        self.known.insert(step.key.clone(), step.outcome.clone());
    }

    /// The next command, from the top.
    fn turn(&mut self, rng: &mut StdRng, results: &mut u64, calm: bool) -> Option<Command> {
        let (run, lease) = (self.lease.run, self.lease.lease);
        let command = match self.program.turn(run, lease, &self.known, |key| self.asked.contains(key)) {
            Turn::Spawn(mut steps) => {
                // In one message, or in several.
                if !calm && rng.random_bool(0.3) {
                    steps.truncate(rng.random_range(1..=steps.len()));
                }
                Command::Spawn(Spawn { run, lease, steps })
            }
            Turn::Record(key) => {
                *results += 1;
                let result = Payload::json(format!("inline {results}"));
                Command::RecordStep(RecordStep { run, lease, key, result })
            }
            Turn::Return(outcome) => Command::CompleteRun(CompleteRun { run, lease, outcome }),
            Turn::Wait => {
                // A replay would run an uncached step anew: parking now would throw its result away.
                let waits_for_fresh =
                    self.asked.iter().any(|key| key.cache_key.is_fresh() && !self.known.contains_key(key));
                if waits_for_fresh || rng.random_bool(0.5) {
                    return None;
                }
                Command::ParkRun(ParkRun { run, lease, seen: self.seen })
            }
        };
        self.busy = true;
        Some(command)
    }

    /// The answer to its own command; `false` when the execution is over.
    pub fn answered(&mut self, command: &Command, reply: &Reply, oracle: &mut Oracle) -> bool {
        self.busy = false;
        let (run, attempt) = (self.lease.run, self.lease.attempt);
        match (command, reply) {
            (Command::Spawn(spawn), Reply::Spawned(states)) => {
                for (step, state) in spawn.steps.iter().zip(states) {
                    self.asked.insert(step.key.clone());
                    if let StepState::Ended(outcome) = state {
                        oracle.sees(run, attempt, &step.key, outcome);
                        self.known.insert(step.key.clone(), outcome.clone());
                    }
                }
                true
            }
            (Command::RecordStep(record), Reply::Recorded(result)) => {
                oracle.sees(run, attempt, &record.key, &Ok(result.clone()));
                self.known.insert(record.key.clone(), Ok(result.clone()));
                true
            }
            _ => false,
        }
    }
}
