//! Reading state for people and programs. Never changes anything.

use std::ops::ControlFlow;

use coda_protocol::ids::{GroupId, Name, RunId, SessionId, TaskId, Timestamp, Work};
use coda_protocol::limits::{LIST_FAILURE_BYTES_MAX, LIST_ROWS_MAX, MEMO_PAGE_BYTES_MAX, MEMO_PAGE_ITEMS_MAX};
use coda_protocol::payload::{Failure, WorkOutcome, outcome_bytes};
use coda_protocol::reject::Reject;
use coda_protocol::reply::{
    LaneDescription, QueueSummary, RunDescription, StepDescription, TaskDescription, Wait, WorkState,
};
use coda_protocol::request::StepKey;

use crate::entry::Lane;
use crate::kv::Read;
use crate::rows::{LaneRow, Life, MemoRow};
use crate::tables::{Key, LANE, LEASE, MEMO, QUEUE, READY, RUN, RUN_OUTCOME, TASK, TASK_OUTCOME, write_name};

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

/// What an execution of a run needs to know from before.
#[derive(Debug, Default)]
pub struct Memo {
    pub steps_ended: u32,
    /// In pages that fit a frame.
    pub pages: Vec<Vec<(StepKey, WorkOutcome)>>,
}

/// The memo of a run, as its current attempt sees it. Steps that only an earlier execution could ask for are left out.
#[must_use]
pub fn memo(kv: &dyn Read, group: GroupId, run: RunId) -> Memo {
    let Some(row) = RUN.get(kv, group, &run) else { return Memo::default() };
    let lease = row.life.lease().map(|(_, lease)| lease);
    let mut pages: Vec<Vec<(StepKey, WorkOutcome)>> = Vec::new();
    let mut bytes = 0;
    MEMO.scan(
        kv,
        group,
        |out| run.write(out),
        |key, memo| {
            let of = key.step.cache_key.fresh_lease();
            if of.is_some() && of != lease {
                return ControlFlow::Continue(());
            }
            let Some(outcome) = memo.outcome(row.attempt) else { return ControlFlow::Continue(()) };
            let size = outcome_bytes(&outcome) + key.step.cache_key.as_bytes().len() + key.step.name.len();
            match pages.last_mut() {
                Some(page) if bytes + size <= MEMO_PAGE_BYTES_MAX && page.len() < MEMO_PAGE_ITEMS_MAX => {
                    page.push((key.step, outcome));
                    bytes += size;
                }
                Some(_) | None => {
                    pages.push(vec![(key.step, outcome)]);
                    bytes = size;
                }
            }
            ControlFlow::Continue(())
        },
    );
    Memo { steps_ended: row.steps_ended, pages }
}

/// What a run is doing, and why it waits.
///
/// # Errors
/// [`Reject::NoSuchRun`].
pub fn run(kv: &dyn Read, group: GroupId, run: RunId) -> Result<RunDescription, Reject> {
    let row = RUN.get(kv, group, &run).ok_or_else(|| Reject::NoSuchRun { run: run.to_string() })?;
    let outcome = RUN_OUTCOME.get(kv, group, &run);
    let mut steps = Vec::new();
    let mut failure_bytes = 0;
    let mut truncated = false;
    MEMO.scan(
        kv,
        group,
        |out| run.write(out),
        |key, memo| {
            if steps.len() == LIST_ROWS_MAX || failure_bytes >= LIST_FAILURE_BYTES_MAX {
                truncated = true;
                return ControlFlow::Break(());
            }
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

/// All queues that hold live work or are paused, by name. Worker counts are the leader's to add.
#[must_use]
pub fn queues(kv: &dyn Read, group: GroupId) -> Vec<QueueSummary> {
    let mut summaries: std::collections::BTreeMap<Name, QueueSummary> = std::collections::BTreeMap::new();
    QUEUE.scan(
        kv,
        group,
        |_| {},
        |queue, row| {
            summaries.insert(queue.clone(), summary(queue, row.paused));
            ControlFlow::Continue(())
        },
    );
    LANE.scan(
        kv,
        group,
        |_| {},
        |lane, row| {
            let known = summaries.entry(lane.queue.clone()).or_insert_with(|| summary(lane.queue, false));
            known.ready += row.ready;
            known.leased += row.leased;
            known.delayed += row.delayed;
            ControlFlow::Continue(())
        },
    );
    summaries.into_values().collect()
}

fn summary(queue: Name, paused: bool) -> QueueSummary {
    QueueSummary { queue, paused, ready: 0, leased: 0, delayed: 0, workers: 0 }
}

/// A queue's lanes. Worker counts, and the `Soon` of waiting lanes, are the leader's to refine.
#[must_use]
pub fn lanes(kv: &dyn Read, group: GroupId, queue: &Name) -> Vec<LaneDescription> {
    let paused = is_paused(kv, group, queue);
    let mut rows: Vec<(Lane, LaneRow)> = Vec::new();
    LANE.scan(
        kv,
        group,
        |out| write_name(queue, out),
        |lane, row| {
            rows.push((lane, row));
            if rows.len() < LIST_ROWS_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    );
    let describe = |(lane, row): (Lane, LaneRow)| LaneDescription {
        kind: lane.kind,
        ready: row.ready,
        leased: row.leased,
        delayed: row.delayed,
        workers: 0,
        free_slots: 0,
        oldest: oldest(kv, group, &lane, &row),
        waits: match row.ready {
            0 => Wait::No,
            _ if paused => Wait::QueuePaused,
            _ => Wait::Soon,
        },
        name: lane.name,
    };
    rows.into_iter().map(describe).collect()
}

/// Whether a lane holds work that could run now, its queue unpaused.
#[must_use]
pub fn is_ready(kv: &dyn Read, group: GroupId, lane: &Lane) -> bool {
    LANE.get(kv, group, lane).is_some_and(|row| row.ready > 0) && !is_paused(kv, group, &lane.queue)
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

/// When the work that is next in a lane was accepted.
fn oldest(kv: &dyn Read, group: GroupId, lane: &Lane, row: &LaneRow) -> Option<Timestamp> {
    if row.ready == 0 {
        return None;
    }
    let mut first = None;
    let from = |out: &mut Vec<u8>| {
        if let Some(place) = row.ready_from {
            place.write(out);
        }
    };
    READY.scan_from(
        kv,
        group,
        |out| lane.write(out),
        from,
        |key, ()| {
            first = Some(key.work);
            ControlFlow::Break(())
        },
    );
    match first? {
        Work::Task(task) => TASK.get(kv, group, &task).map(|row| row.created),
        Work::Run(run) => RUN.get(kv, group, &run).map(|row| row.created),
    }
}
