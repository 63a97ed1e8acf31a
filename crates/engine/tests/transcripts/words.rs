//! Outcomes, effects and descriptions in words.

use coda_engine::command::Outcome;
use coda_engine::effect::Effect;
use coda_engine::kv::MemKv;
use coda_engine::query;
use coda_protocol::ids::{LeaseId, RunId, Work, WorkKind};
use coda_protocol::payload::WorkOutcome;
use coda_protocol::reply::{Reply, StepState, Wait};

use crate::book::{Book, key_name, session_name};
use crate::support::{GROUP, text};

pub fn ended(outcome: &WorkOutcome) -> String {
    match outcome {
        Ok(result) => text(result),
        Err(failure) => format!("{} {:?}", failure.kind, failure.message),
    }
}

pub fn outcome(book: &Book, outcome: &Outcome) -> String {
    let leases =
        |leases: &[LeaseId]| leases.iter().map(|lease| book.number(*lease).to_string()).collect::<Vec<_>>().join(", ");
    match outcome {
        Err(reject) => format!("{}: {reject}", reject.code()),
        Ok(Reply::Done) => "done".into(),
        Ok(Reply::Started { existed: false }) => "accepted".into(),
        Ok(Reply::Started { existed: true }) => "accepted before".into(),
        Ok(Reply::Spawned(states)) => {
            let state = |state: &StepState| match state {
                StepState::Pending => "pending".to_owned(),
                StepState::Ended(outcome) => ended(outcome),
            };
            states.iter().map(state).collect::<Vec<_>>().join(", ")
        }
        Ok(Reply::Recorded(result)) => format!("recorded is {}", text(result)),
        Ok(Reply::Resumed { lost }) if lost.is_empty() => "all still held".into(),
        Ok(Reply::Resumed { lost }) => format!("lost: lease {}", leases(lost)),
        Ok(other) => format!("{other:?}"),
    }
}

fn memo(book: &Book, kv: &MemKv, run: RunId) -> String {
    let memo = query::memo(kv, GROUP, run);
    if memo.items.is_empty() {
        return String::new();
    }
    let item = |(key, outcome): &(_, _)| format!("{}: {}", key_name(key), ended(outcome));
    let _ = book;
    format!(", knowing {}", memo.items.iter().map(item).collect::<Vec<_>>().join(", "))
}

pub fn effect(book: &Book, kv: &MemKv, effect: &Effect) -> String {
    let work = |work| book.name(work);
    match effect {
        Effect::TaskLeased { session, lease } => {
            let (to, name) = (session_name(*session), work(Work::Task(lease.task)));
            format!("{to} gets {name} under lease {}, attempt {}", book.number(lease.lease), lease.attempt)
        }
        Effect::RunLeased { session, lease, .. } => {
            let (to, name) = (session_name(*session), work(Work::Run(lease.run)));
            let known = memo(book, kv, lease.run);
            format!("{to} gets {name} under lease {}, attempt {}{known}", book.number(lease.lease), lease.attempt)
        }
        Effect::MemoWanted { session, run, .. } => {
            let known = memo(book, kv, *run);
            format!("{} goes on with {}{known}", session_name(*session), work(Work::Run(*run)))
        }
        Effect::StepEnded { session, step, .. } => {
            let key = key_name(&step.key);
            let run = work(Work::Run(step.run));
            format!("{} is told: {run}/{key} ended with {}", session_name(*session), ended(&step.outcome))
        }
        Effect::LeaseLost { session, work, .. } => {
            format!("{} is told: stop {}", session_name(*session), book.name(*work))
        }
        Effect::RunEnded { run, outcome } => format!("{} ended with {}", work(Work::Run(*run)), ended(outcome)),
        Effect::TaskEnded { task, outcome } => format!("{} ended with {}", work(Work::Task(*task)), ended(outcome)),
        Effect::LaneReady(lane) => format!("{} {} waits in {}", kind(lane.kind), lane.name, lane.queue),
        Effect::QueueUnpaused(queue) => format!("{queue} hands out again"),
        Effect::LeasesEnded { session, count } => format!("{} holds {count} fewer", session_name(*session)),
        Effect::WakeAt(at) => format!("wake at {}", at.0),
        Effect::SessionHolds(session) => format!("{} holds leases", session_name(*session)),
        Effect::EndSessionAgain(session) => format!("{} still holds leases", session_name(*session)),
        Effect::MapChanged(version) => format!("the map is at version {version}"),
    }
}

fn kind(kind: WorkKind) -> &'static str {
    match kind {
        WorkKind::Task => "task",
        WorkKind::Run => "run",
    }
}

pub fn wait(wait: Wait) -> String {
    match wait {
        Wait::No => "nothing waits".into(),
        Wait::QueuePaused => "the queue is paused".into(),
        Wait::NoWorker => "no worker".into(),
        Wait::WorkersBusy => "workers are busy".into(),
        Wait::DelayedUntil(at) => format!("delayed until {}", at.0),
        Wait::RetryingAt(at) => format!("retried at {}", at.0),
        Wait::Steps => "for its steps".into(),
        Wait::Running => "it runs".into(),
        Wait::Soon => "for a worker".into(),
    }
}

/// What a description says of a piece of work.
pub fn describe(kv: &MemKv, work: Work) -> Vec<String> {
    match work {
        Work::Task(task) => match query::task(kv, GROUP, task) {
            Ok(task) => {
                let mut lines =
                    vec![format!("{:?}, attempts {}, waits: {}", task.state, task.attempts, wait(task.waits))];
                lines.extend(task.outcome.map(|outcome| format!("outcome {}", ended(&outcome))));
                lines
            }
            Err(reject) => vec![reject.code().into()],
        },
        Work::Run(run) => match query::run(kv, GROUP, run) {
            Ok(run) => {
                let mut lines = vec![format!(
                    "{:?}, attempt {}, steps pending {}, waits: {}",
                    run.state,
                    run.attempt,
                    run.steps_pending,
                    wait(run.waits)
                )];
                lines.extend(run.steps.iter().map(|step| format!("step {}: {:?}", step.name, step.state)));
                lines.extend(run.outcome.map(|outcome| format!("outcome {}", ended(&outcome))));
                lines
            }
            Err(reject) => vec![reject.code().into()],
        },
    }
}

pub fn queue(kv: &MemKv, queue: &str) -> Vec<String> {
    let lanes = query::lanes(kv, GROUP, &queue.into()).lanes;
    let lane = |lane: &coda_protocol::reply::LaneDescription| {
        format!(
            "{} {}: ready {}, leased {}, delayed {}, waits: {}",
            kind(lane.kind),
            lane.name,
            lane.ready,
            lane.leased,
            lane.delayed,
            wait(lane.waits)
        )
    };
    if lanes.is_empty() { vec!["empty".into()] } else { lanes.iter().map(lane).collect() }
}
