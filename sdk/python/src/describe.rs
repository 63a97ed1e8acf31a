//! Descriptions as dictionaries: the field names are those of the dataclasses in `python/coda/_descriptions.py`.

use coda_client::protocol::ids::WorkKind;
use coda_client::protocol::payload::{Failure, WorkOutcome};
use coda_client::protocol::reply::{
    LaneDescription, LaneList, NodeDescription, QueueSummary, RunDescription, TaskDescription, Wait, WorkState,
};
use coda_client::protocol::request::StepKind;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::told::ended;

type Dict<'py> = PyResult<Bound<'py, PyDict>>;

macro_rules! dict {
    ($py:expr, $($name:ident: $value:expr),* $(,)?) => {{
        let dict = PyDict::new($py);
        $(dict.set_item(stringify!($name), $value)?;)*
        Ok(dict)
    }};
}

pub(crate) fn queue_summary<'py>(py: Python<'py>, queue: &QueueSummary) -> Dict<'py> {
    dict!(py,
        queue: queue.queue.as_str(),
        paused: queue.paused,
        ready: queue.ready,
        leased: queue.leased,
        delayed: queue.delayed,
        workers: queue.workers,
    )
}

pub(crate) fn queue<'py>(py: Python<'py>, queue: &LaneList) -> Dict<'py> {
    let lanes = queue.lanes.iter().map(|each| lane(py, each)).collect::<PyResult<Vec<_>>>()?;
    let dict = queue_summary(py, &queue.summary)?;
    dict.set_item("lanes", PyList::new(py, lanes)?)?;
    dict.set_item("lanes_total", queue.lanes_total)?;
    dict.set_item("counted_all", queue.counted_all)?;
    Ok(dict)
}

fn lane<'py>(py: Python<'py>, lane: &LaneDescription) -> Dict<'py> {
    let kind = match lane.kind {
        WorkKind::Task => "task",
        WorkKind::Run => "run",
    };
    dict!(py,
        kind: kind,
        name: lane.name.as_str(),
        ready: lane.ready,
        leased: lane.leased,
        delayed: lane.delayed,
        workers: lane.workers,
        free_slots: lane.free_slots,
        oldest: lane.oldest.map(|at| at.0),
        waits: wait(lane.waits),
    )
}

pub(crate) fn run<'py>(py: Python<'py>, run: &RunDescription) -> Dict<'py> {
    let steps = run.steps.iter().map(|step| {
        let kind = match step.kind {
            StepKind::Task => "task",
            StepKind::Workflow => "workflow",
            StepKind::Inline => "inline",
        };
        dict!(py,
            name: step.name.as_str(),
            kind: kind,
            state: state(step.state),
            attempts: step.attempts,
            last_failure: failure(py, step.last_failure.as_ref())?,
        )
    });
    let steps = steps.collect::<PyResult<Vec<_>>>()?;
    dict!(py,
        id: run.run.to_string(),
        workflow: run.workflow.as_str(),
        queue: run.queue.as_str(),
        state: state(run.state),
        waits: wait(run.waits),
        attempt: run.attempt,
        steps_pending: run.steps_pending,
        steps_ended: run.steps_ended,
        created: run.created.0,
        outcome: outcome(py, run.outcome.as_ref())?,
        steps: PyList::new(py, steps)?,
        truncated: run.truncated,
    )
}

pub(crate) fn task<'py>(py: Python<'py>, task: &TaskDescription) -> Dict<'py> {
    dict!(py,
        id: task.task.to_string(),
        name: task.name.as_str(),
        queue: task.queue.as_str(),
        state: state(task.state),
        waits: wait(task.waits),
        attempts: task.attempts,
        created: task.created.0,
        last_failure: failure(py, task.last_failure.as_ref())?,
        outcome: outcome(py, task.outcome.as_ref())?,
    )
}

pub(crate) fn node<'py>(py: Python<'py>, node: &NodeDescription) -> Dict<'py> {
    let groups = node.groups.iter().map(|group| {
        dict!(py,
            group: group.group,
            leader: group.leader.map(|leader| leader.0),
            term: group.term,
            applied: group.applied,
        )
    });
    let groups = groups.collect::<PyResult<Vec<Bound<'py, PyDict>>>>()?;
    let counters: Bound<'py, PyDict> = {
        let totals: Dict<'py> = dict!(py,
            entries: node.counters.entries,
            commands: node.counters.commands,
            log_syncs: node.counters.log_syncs,
            log_bytes: node.counters.log_bytes,
            leases: node.counters.leases,
            rejects: node.counters.rejects,
        );
        totals?
    };
    dict!(py,
        node: node.node.0,
        version: node.version.as_str(),
        uptime_ms: node.uptime_ms,
        groups: PyList::new(py, groups)?,
        sessions: node.sessions,
        counters: counters,
    )
}

fn outcome<'py>(py: Python<'py>, outcome: Option<&WorkOutcome>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    outcome.map(|outcome| ended(py, outcome)).transpose()
}

fn failure<'py>(py: Python<'py>, failure: Option<&Failure>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    failure.map(|failure| ended(py, &Err(failure.clone()))).transpose()
}

/// A reason, and the moment it is about, if any.
fn wait(wait: Wait) -> (&'static str, Option<u64>) {
    match wait {
        Wait::No => ("nothing", None),
        Wait::QueuePaused => ("queue_paused", None),
        Wait::NoWorker => ("no_worker", None),
        Wait::WorkersBusy => ("workers_busy", None),
        Wait::DelayedUntil(at) => ("delayed_until", Some(at.0)),
        Wait::RetryingAt(at) => ("retrying_at", Some(at.0)),
        Wait::Steps => ("steps", None),
        Wait::Running => ("running", None),
        Wait::Soon => ("soon", None),
    }
}

fn state(state: WorkState) -> &'static str {
    match state {
        WorkState::Delayed => "delayed",
        WorkState::Ready => "ready",
        WorkState::Running => "running",
        WorkState::Parked => "parked",
        WorkState::Retrying => "retrying",
        WorkState::Succeeded => "succeeded",
        WorkState::Failed => "failed",
    }
}
