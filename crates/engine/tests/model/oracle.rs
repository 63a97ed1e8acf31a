//! What must be true whatever happens, judged from outside: from commands, their answers and what sessions were told.
//! It shares no rule with the engine.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coda_engine::command::{Command, Outcome};
use coda_engine::effect::Effect;
use coda_protocol::ids::{LeaseId, Millis, RunId, SessionId, TaskId, Work};
use coda_protocol::limits::LEASES_PER_END_MAX;
use coda_protocol::payload::{Payload, WorkOutcome};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::reject::Reject;
use coda_protocol::reply::{Reply, StepState};
use coda_protocol::request::{CompleteTask, Spawn, StepKey};

type Step = (RunId, StepKey);

#[derive(Default)]
pub struct Oracle {
    now: u64,
    last_lease: Option<LeaseId>,
    held: BTreeMap<Work, (SessionId, LeaseId)>,
    /// Ended under this lease.
    ended: BTreeMap<Work, LeaseId>,
    /// Completions of runs that were accepted.
    answered: BTreeSet<(Work, LeaseId)>,
    /// The one result of each step, from the answer that accepted it.
    results: BTreeMap<Step, Payload>,
    /// The failure that an attempt of a run was told.
    failures: BTreeMap<(Step, u32), WorkOutcome>,
    /// Which attempt of a run a lease is, and which attempts asked for a step.
    attempts: BTreeMap<LeaseId, u32>,
    asked: BTreeSet<(Step, u32)>,
    /// Which step a task is, learned from its arguments.
    steps: BTreeMap<Bytes, Step>,
    task_steps: BTreeMap<TaskId, Step>,
    policies: BTreeMap<Bytes, RetryPolicy>,
    task_policies: BTreeMap<TaskId, RetryPolicy>,
    failed: BTreeMap<TaskId, u32>,
    not_before: BTreeMap<Work, u64>,
}

impl Oracle {
    pub fn time(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    /// Before the entry that holds the command is applied.
    pub fn sent(&mut self, command: &Command) {
        match command {
            Command::Spawn(spawn) => self.will_spawn(spawn),
            Command::SubmitTask(submit) => {
                self.task_policies.entry(submit.task).or_insert(submit.policy);
            }
            _ => {}
        }
    }

    fn will_spawn(&mut self, spawn: &Spawn) {
        for step in &spawn.steps {
            self.steps.insert(step.args.data.clone(), (spawn.run, step.key.clone()));
            self.policies.entry(step.args.data.clone()).or_insert(step.policy);
        }
    }

    /// After the entry: one command and its answer, in order.
    pub fn answered(&mut self, command: &Command, outcome: &Outcome) {
        match command {
            Command::StartRun(start) => self.accepted(Work::Run(start.run), start.delay, outcome),
            Command::SubmitTask(submit) => self.accepted(Work::Task(submit.task), submit.delay, outcome),
            Command::Spawn(spawn) => {
                self.needs_lease(Work::Run(spawn.run), spawn.lease, outcome);
                if let Ok(Reply::Spawned(states)) = outcome {
                    assert_eq!(states.len(), spawn.steps.len());
                    let attempt = self.attempts[&spawn.lease];
                    for (step, state) in spawn.steps.iter().zip(states) {
                        self.asked.insert(((spawn.run, step.key.clone()), attempt));
                        if let StepState::Ended(Ok(result)) = state {
                            self.sees_result(spawn.run, &step.key, result);
                        }
                    }
                }
            }
            Command::RecordStep(record) => {
                self.needs_lease(Work::Run(record.run), record.lease, outcome);
                if let Ok(Reply::Recorded(result)) = outcome {
                    let step = (record.run, record.key.clone());
                    let first = self.results.entry(step).or_insert_with(|| record.result.clone());
                    assert_eq!(first, result, "the first recorded result is the one that everybody sees");
                }
            }
            Command::CompleteTask(complete) => self.completed(complete, outcome),
            Command::CompleteRun(complete) => {
                let work = Work::Run(complete.run);
                if self.answered.contains(&(work, complete.lease)) {
                    // It ended, or is retried.
                    let again = [Ok(Reply::Done), Err(Reject::StaleLease), Err(Reject::AlreadyEnded)];
                    return assert!(again.contains(outcome), "{outcome:?}");
                }
                self.needs_lease(work, complete.lease, outcome);
                if outcome.is_ok() {
                    self.held.remove(&work);
                    self.answered.insert((work, complete.lease));
                }
            }
            Command::Release(release) => {
                self.needs_lease(release.work, release.lease, outcome);
                if outcome.is_ok() {
                    self.held.remove(&release.work);
                }
            }
            Command::ParkRun(park) => {
                let work = Work::Run(park.run);
                if *outcome != Err(Reject::NotIdle) {
                    self.needs_lease(work, park.lease, outcome);
                }
                if outcome.is_ok() {
                    self.held.remove(&work);
                }
            }
            Command::ResumeSession { session, held } => {
                let lost: Vec<LeaseId> = held.iter().copied().filter(|lease| !self.holds(*session, *lease)).collect();
                let Ok(Reply::Resumed { lost: told }) = outcome else { panic!("{outcome:?}") };
                assert_eq!(told.len(), lost.len());
                assert!(lost.iter().all(|lease| told.contains(lease)));
                self.held.retain(|_, (holder, lease)| holder != session || held.contains(lease));
            }
            Command::EndSession { session } => {
                let count = self.held.values().filter(|(holder, _)| holder == session).count();
                assert!(count < LEASES_PER_END_MAX, "the model stays below the bound");
                self.held.retain(|_, (holder, _)| holder != session);
                assert_eq!(*outcome, Ok(Reply::Done));
            }
            Command::PauseQueue { .. } | Command::UnpauseQueue { .. } | Command::Tick => {
                assert_eq!(*outcome, Ok(Reply::Done));
            }
            Command::Cluster(_) => panic!("the model of work has no cluster, tests/cluster has"),
        }
    }

    fn holds(&self, session: SessionId, lease: LeaseId) -> bool {
        self.held.values().any(|held| *held == (session, lease))
    }

    fn accepted(&mut self, work: Work, delay: Millis, outcome: &Outcome) {
        if *outcome == Ok(Reply::Started { existed: false }) {
            self.not_before.insert(work, self.now + delay.0);
        }
    }

    /// Fencing: only the holder changes anything.
    fn needs_lease(&self, work: Work, lease: LeaseId, outcome: &Outcome) {
        let is_held = self.held.get(&work).is_some_and(|(_, held)| *held == lease);
        match outcome {
            Ok(_) => assert!(is_held, "{work:?} was changed under {lease:?}, held is {:?}", self.held.get(&work)),
            Err(Reject::StaleLease | Reject::AlreadyEnded | Reject::NoSuchRun { .. }) => {
                assert!(!is_held, "{work:?} under {lease:?}: {outcome:?}");
            }
            Err(_) => panic!("{work:?} under {lease:?}: {outcome:?}"),
        }
    }

    fn completed(&mut self, complete: &CompleteTask, outcome: &Outcome) {
        let work = Work::Task(complete.task);
        if self.ended.get(&work) == Some(&complete.lease) {
            let is_step = self.task_steps.contains_key(&complete.task);
            let expected = if is_step { Err(Reject::AlreadyEnded) } else { Ok(Reply::Done) };
            return assert_eq!(*outcome, expected, "ending twice is ending once");
        }
        self.needs_lease(work, complete.lease, outcome);
        if outcome.is_err() {
            return;
        }
        self.held.remove(&work);
        let policy = self.task_policies[&complete.task];
        match &complete.outcome {
            Ok(result) => {
                self.ended.insert(work, complete.lease);
                if let Some(step) = self.task_steps.get(&complete.task) {
                    let before = self.results.insert(step.clone(), result.clone());
                    assert_eq!(before, None, "{step:?} has a second result");
                }
            }
            Err(failure) => {
                let failed = self.failed.entry(complete.task).or_default();
                *failed += 1;
                assert!(*failed <= policy.max_retries + 1, "{work:?} failed {failed} times");
                if failure.retryable && *failed <= policy.max_retries {
                    let delay = policy.delay(*failed, 0);
                    self.not_before.insert(work, self.now + delay.0);
                } else {
                    self.ended.insert(work, complete.lease);
                }
            }
        }
    }

    /// A run has an outcome now.
    pub fn run_ended(&mut self, run: RunId) {
        self.ended.insert(Work::Run(run), LeaseId(0));
    }

    /// What the engine said is to be told, whether it arrives or not.
    pub fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::TaskLeased { session, lease } => {
                self.leased(Work::Task(lease.task), *session, lease.lease);
                if let Some(step) = self.steps.get(&lease.args.data) {
                    assert_eq!(lease.run, Some(step.0));
                    assert!(!self.results.contains_key(step), "{step:?} has a result and runs again");
                    self.task_policies.entry(lease.task).or_insert(self.policies[&lease.args.data]);
                    self.task_steps.insert(lease.task, step.clone());
                }
            }
            Effect::RunLeased { session, lease, .. } => {
                self.attempts.insert(lease.lease, lease.attempt);
                self.leased(Work::Run(lease.run), *session, lease.lease);
            }
            Effect::StepEnded { step, .. } => {
                if let Ok(result) = &step.outcome {
                    self.sees_result(step.run, &step.key, result);
                }
            }
            _ => {}
        }
    }

    fn leased(&mut self, work: Work, session: SessionId, lease: LeaseId) {
        assert!(self.last_lease < Some(lease), "{lease:?} is not larger than {:?}", self.last_lease);
        self.last_lease = Some(lease);
        let before = self.held.insert(work, (session, lease));
        assert_eq!(before, None, "{work:?} is leased twice at once");
        assert!(!self.ended.contains_key(&work), "{work:?} has ended and is leased");
        let not_before = self.not_before.get(&work).copied().unwrap_or(0);
        assert!(self.now >= not_before, "{work:?} is leased at {} and not before {not_before}", self.now);
    }

    /// An execution of a run learns a step's outcome.
    pub fn sees(&mut self, run: RunId, attempt: u32, key: &StepKey, outcome: &WorkOutcome) {
        let step = (run, key.clone());
        if let Ok(result) = outcome {
            self.sees_result(run, key, result);
        } else {
            let asked = self.asked.contains(&(step.clone(), attempt));
            assert!(asked, "attempt {attempt} is told of a failure that it never asked for: {step:?}");
        }
        let told = self.failures.entry((step.clone(), attempt)).or_insert_with(|| outcome.clone());
        assert_eq!(told, outcome, "attempt {attempt} was told two outcomes of {step:?}");
    }

    fn sees_result(&mut self, run: RunId, key: &StepKey, result: &Payload) {
        // A child run's result is learned here: whoever is told first sets what everybody must see.
        let first = self.results.entry((run, key.clone())).or_insert_with(|| result.clone());
        assert_eq!(first, result, "two readers see two results of {key:?} of {run}");
    }
}
