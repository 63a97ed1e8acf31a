//! Reading state for people and programs. Never changes anything.

pub mod cluster;
mod memo;
mod queues;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use coda_protocol::ids::{GroupId, Name, RunId, SessionId, TaskId, Timestamp, Work};
use coda_protocol::limits::{LIST_FAILURE_BYTES_MAX, LIST_READ_BYTES_MAX, LIST_ROWS_MAX};
use coda_protocol::payload::{Failure, WorkOutcome};
use coda_protocol::reject::Reject;
use coda_protocol::reply::{RunDescription, StepDescription, TaskDescription, Wait, WorkState};

pub use memo::{MemoRead, memo, memo_page};
pub use queues::{is_listed, is_ready, lanes, queues, ready};

use crate::kv::Read;
use crate::rows::{Life, MemoRow};
use crate::tables::{Key, LEASE, MEMO, META, QUEUE, RUN, RUN_OUTCOME, TASK, TASK_OUTCOME};

/// How a run ended; `None` while it has not.
///
/// # Errors
/// [`Reject::NoSuchRun`].
pub fn run_outcome(kv: &dyn Read, group: GroupId, run: RunId) -> Result<Option<WorkOutcome>, Reject> {
    match RUN_OUTCOME.get(kv, group, &run) {
        Some(outcome) => Ok(Some(outcome)),
        None if RUN.has(kv, group, &run) => Ok(None),
        None => Err(Reject::NoSuchRun { run: run.to_string() }),
    }
}

/// How a task of its own ended; `None` while it has not.
///
/// # Errors
/// [`Reject::NoSuchTask`].
pub fn task_outcome(kv: &dyn Read, group: GroupId, task: TaskId) -> Result<Option<WorkOutcome>, Reject> {
    match TASK_OUTCOME.get(kv, group, &task) {
        Some(outcome) => Ok(Some(outcome)),
        None if TASK.has(kv, group, &task) => Ok(None),
        None => Err(Reject::NoSuchTask { task: task.to_string() }),
    }
}

/// What a run is doing, and why it waits.
///
/// # Errors
/// [`Reject::NoSuchRun`].
pub fn run(kv: &dyn Read, group: GroupId, run: RunId) -> Result<RunDescription, Reject> {
    let row = RUN.get(kv, group, &run).ok_or_else(|| Reject::NoSuchRun { run: run.to_string() })?;
    let outcome = RUN_OUTCOME.get(kv, group, &run);
    let mut steps = Vec::new();
    let (mut failure_bytes, mut read_bytes) = (0, 0);
    let mut truncated = false;
    MEMO.scan(
        kv,
        group,
        |out| run.write(out),
        |key, memo| {
            let full = steps.len() == LIST_ROWS_MAX || failure_bytes >= LIST_FAILURE_BYTES_MAX;
            if full || read_bytes >= LIST_READ_BYTES_MAX {
                truncated = true;
                return ControlFlow::Break(());
            }
            read_bytes += memo.bytes();
            let (state, attempts, last_failure) = step_state(kv, group, &memo);
            failure_bytes += last_failure.as_ref().map_or(0, Failure::bytes);
            steps.push(StepDescription { name: key.step.name, kind: key.step.kind, state, attempts, last_failure });
            ControlFlow::Continue(())
        },
    );
    let state = work_state(row.life, outcome.as_ref());
    let waits = wait(row.life, is_paused(kv, group, &row.queue));
    Ok(RunDescription {
        run,
        workflow: row.workflow,
        queue: row.queue,
        state,
        waits,
        attempt: row.attempt,
        steps_pending: row.steps_pending,
        steps_ended: row.steps_ended,
        created: row.created,
        outcome,
        steps,
        truncated,
    })
}

fn step_state(kv: &dyn Read, group: GroupId, memo: &MemoRow) -> (WorkState, u32, Option<Failure>) {
    match memo {
        MemoRow::Ended { attempts, .. } => (WorkState::Succeeded, *attempts, None),
        MemoRow::Failed { failure, attempts, .. } => (WorkState::Failed, *attempts, Some(failure.clone())),
        MemoRow::Pending { work: Work::Task(task), .. } => match TASK.get(kv, group, task) {
            Some(row) => (work_state(row.life, None), row.attempts, row.last_failure),
            None => (WorkState::Ready, 0, None),
        },
        MemoRow::Pending { work: Work::Run(run), .. } => match RUN.get(kv, group, run) {
            Some(row) => (work_state(row.life, None), row.attempt, None),
            None => (WorkState::Ready, 0, None),
        },
    }
}

/// What a task of its own is doing, and why it waits.
///
/// # Errors
/// [`Reject::NoSuchTask`].
pub fn task(kv: &dyn Read, group: GroupId, task: TaskId) -> Result<TaskDescription, Reject> {
    let row = TASK.get(kv, group, &task).ok_or_else(|| Reject::NoSuchTask { task: task.to_string() })?;
    let outcome = TASK_OUTCOME.get(kv, group, &task);
    let state = work_state(row.life, outcome.as_ref());
    let waits = wait(row.life, is_paused(kv, group, &row.queue));
    Ok(TaskDescription {
        task,
        name: row.name,
        queue: row.queue,
        state,
        waits,
        attempts: row.attempts,
        created: row.created,
        last_failure: row.last_failure,
        outcome,
    })
}

fn work_state(life: Life, outcome: Option<&WorkOutcome>) -> WorkState {
    match life {
        Life::Delayed { .. } => WorkState::Delayed,
        Life::Ready => WorkState::Ready,
        Life::Leased { .. } => WorkState::Running,
        Life::Parked => WorkState::Parked,
        Life::Retrying { .. } => WorkState::Retrying,
        Life::Ended { .. } if matches!(outcome, Some(Ok(_))) => WorkState::Succeeded,
        Life::Ended { .. } => WorkState::Failed,
    }
}

/// Why it waits, as far as state knows: whether a worker is there for `Soon` is the leader's to say.
fn wait(life: Life, paused: bool) -> Wait {
    match life {
        Life::Delayed { until } => Wait::DelayedUntil(until),
        Life::Ready if paused => Wait::QueuePaused,
        Life::Ready => Wait::Soon,
        Life::Leased { .. } => Wait::Running,
        Life::Parked => Wait::Steps,
        Life::Retrying { at } => Wait::RetryingAt(at),
        Life::Ended { .. } => Wait::No,
    }
}

fn is_paused(kv: &dyn Read, group: GroupId, queue: &Name) -> bool {
    QUEUE.get(kv, group, queue).is_some_and(|row| row.paused)
}

/// The latest time that a leader of the group has told.
#[must_use]
pub fn time(kv: &dyn Read, group: GroupId) -> Timestamp {
    META.get(kv, group, &()).unwrap_or_default().time
}

/// How many leases each session holds. Reads all of them: for a new leader, who counts from there.
#[must_use]
pub fn leases_held(kv: &dyn Read, group: GroupId) -> BTreeMap<SessionId, u32> {
    let mut held = BTreeMap::new();
    LEASE.scan(
        kv,
        group,
        |_| {},
        |key, _| {
            *held.entry(key.session).or_default() += 1;
            ControlFlow::Continue(())
        },
    );
    held
}

/// Whether a session holds any lease.
#[must_use]
pub fn holds_leases(kv: &dyn Read, group: GroupId, session: SessionId) -> bool {
    let mut holds = false;
    LEASE.scan(
        kv,
        group,
        |out| out.extend_from_slice(&session.0),
        |_, _| {
            holds = true;
            ControlFlow::Break(())
        },
    );
    holds
}
