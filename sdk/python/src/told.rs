//! What the link tells, as tuples for Python. The first item is the tag; `python/coda/_wire.py` names them all.

use coda_client::protocol::ids::{Work, WorkKind};
use coda_client::protocol::payload::{Payload, WorkOutcome};
use coda_client::protocol::push::{RunLease, TaskLease};
use coda_client::protocol::reply::{QueueCursor, QueuePlace, Reply, StepState};
use coda_client::protocol::request::{Request, StepKey, StepKind};
use coda_client::{ClientError, Event, WorkerEvent};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::describe;

const ANSWERED: u8 = 0;
const REFUSED: u8 = 1;
const TASK: u8 = 2;
const RUN: u8 = 3;
const STEP: u8 = 4;
const SEEN: u8 = 5;
const LOST: u8 = 6;
const CONNECTED: u8 = 7;
const DISCONNECTED: u8 = 8;
const OVER: u8 = 9;

/// Either link's event, or what this module has to tell itself.
pub(crate) enum Told {
    Client(Event),
    Worker(WorkerEvent),
    /// A request that could not be taken.
    NotTaken {
        ticket: u64,
        error: ClientError,
    },
    /// The link could not be opened.
    NotOpened(ClientError),
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        Self::Client(event)
    }
}

impl From<WorkerEvent> for Told {
    fn from(event: WorkerEvent) -> Self {
        Self::Worker(event)
    }
}

type Tuple<'py> = PyResult<Bound<'py, PyAny>>;

/// What the link knows a request by: Python's token, and whether its answer may wait until Python listens anyway. Ends of
/// work and spawns are asked for all the time, and "done" is no news about them.
pub(crate) fn ticket(token: u64, request: &Request) -> u64 {
    let can_wait =
        matches!(request, Request::Spawn(_) | Request::CompleteTask(_) | Request::CompleteRun(_) | Request::Release(_));
    token << 1 | u64::from(can_wait)
}

fn token(ticket: u64) -> u64 {
    ticket >> 1
}

impl Told {
    /// Whether Python need not be woken for it.
    pub(crate) fn can_wait(&self) -> bool {
        let Self::Worker(WorkerEvent::Answered { token: ticket, result: Ok((reply, _)) }) = self else { return false };
        let is_no_news = match reply {
            Reply::Done => true,
            Reply::Spawned(states) => states.iter().all(|state| *state == StepState::Pending),
            _ => false,
        };
        ticket & 1 == 1 && is_no_news
    }

    /// `None` for what Python has no use for.
    pub(crate) fn into_tuple(self, py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
        match self {
            Self::Client(Event::Answered { token: ticket, result })
            | Self::Worker(WorkerEvent::Answered { token: ticket, result }) => match result {
                Ok((answer, _)) => (ANSWERED, token(ticket), reply(py, answer)?).into_bound_py_any(py),
                Err(error) => refused(py, ticket, &error),
            },
            Self::NotTaken { ticket, error } => refused(py, ticket, &error),
            Self::Client(Event::Connected { first, welcome })
            | Self::Worker(WorkerEvent::Connected { first, welcome }) => {
                (CONNECTED, first, welcome.node.0, welcome.server.as_str()).into_bound_py_any(py)
            }
            Self::Client(Event::Disconnected) | Self::Worker(WorkerEvent::Disconnected) => {
                (DISCONNECTED,).into_bound_py_any(py)
            }
            Self::Client(Event::Failed(error)) | Self::Worker(WorkerEvent::Failed(error)) | Self::NotOpened(error) => {
                (OVER, error.code(), error.to_string()).into_bound_py_any(py)
            }
            Self::Client(Event::Push(_)) => return Ok(None),
            Self::Worker(WorkerEvent::TaskStart(lease)) => task(py, &lease),
            Self::Worker(WorkerEvent::RunStart { lease, memo }) => run(py, &lease, memo),
            Self::Worker(WorkerEvent::StepEnded { run, lease, key, outcome, steps_ended }) => {
                let (kind, name, cache_key) = step_key(py, &key);
                let outcome = ended(py, &outcome)?;
                (STEP, PyBytes::new(py, &run.0), lease.0, kind, name, cache_key, outcome, steps_ended)
                    .into_bound_py_any(py)
            }
            Self::Worker(WorkerEvent::StepsSeen { run, lease, steps_ended }) => {
                (SEEN, PyBytes::new(py, &run.0), lease.0, steps_ended).into_bound_py_any(py)
            }
            Self::Worker(WorkerEvent::LeaseLost { work, lease }) => {
                (LOST, work_kind(work.kind()), work_id(py, &work), lease.0).into_bound_py_any(py)
            }
        }
        .map(Some)
    }
}

fn refused<'py>(py: Python<'py>, ticket: u64, error: &ClientError) -> Tuple<'py> {
    (REFUSED, token(ticket), error.code(), error.to_string()).into_bound_py_any(py)
}

fn task<'py>(py: Python<'py>, lease: &TaskLease) -> Tuple<'py> {
    (
        TASK,
        PyBytes::new(py, &lease.task.0),
        lease.lease.0,
        lease.queue.as_str(),
        lease.name.as_str(),
        payload(py, &lease.args)?,
        lease.attempt,
        lease.retries_left,
        lease.run.map(|run| PyBytes::new(py, &run.0)),
    )
        .into_bound_py_any(py)
}

fn run<'py>(py: Python<'py>, lease: &RunLease, memo: Vec<(StepKey, WorkOutcome)>) -> Tuple<'py> {
    let memo = memo.into_iter().map(|(key, outcome)| {
        let (kind, name, cache_key) = step_key(py, &key);
        (kind, name, cache_key, ended(py, &outcome)?).into_bound_py_any(py)
    });
    (
        RUN,
        PyBytes::new(py, &lease.run.0),
        lease.lease.0,
        lease.queue.as_str(),
        lease.workflow.as_str(),
        payload(py, &lease.input)?,
        lease.attempt,
        lease.steps_ended,
        PyList::new(py, memo.collect::<PyResult<Vec<_>>>()?)?,
    )
        .into_bound_py_any(py)
}

fn reply(py: Python<'_>, reply: Reply) -> Tuple<'_> {
    match reply {
        Reply::Done => Ok(py.None().into_bound(py)),
        Reply::Started { existed } => existed.into_bound_py_any(py),
        Reply::Ended(outcome) => ended(py, &outcome).map(Bound::into_any),
        Reply::Resumed { lost } => lost.into_iter().map(|lease| lease.0).collect::<Vec<_>>().into_bound_py_any(py),
        Reply::Spawned(states) => {
            let states = states.iter().map(|state| match state {
                StepState::Pending => Ok(None),
                StepState::Ended(outcome) => ended(py, outcome).map(Some),
            });
            Ok(PyList::new(py, states.collect::<PyResult<Vec<_>>>()?)?.into_any())
        }
        Reply::Recorded(result) => payload(py, &result).map(Bound::into_any),
        Reply::Queues(queues) => {
            let queues = queues.iter().map(|queue| describe::queue_summary(py, queue));
            Ok(PyList::new(py, queues.collect::<PyResult<Vec<_>>>()?)?.into_any())
        }
        Reply::QueuePage(page) => {
            let queues = page.queues.iter().map(|queue| describe::queue_summary(py, queue));
            let queues = PyList::new(py, queues.collect::<PyResult<Vec<_>>>()?)?;
            (queues, page.next.map(cursor)).into_bound_py_any(py)
        }
        Reply::Lanes(list) => describe::queue(py, &list).map(Bound::into_any),
        // Answers to requests that this module does not send.
        Reply::Queue(_) | Reply::Cluster(_) | Reply::Withdrawn { .. } => Ok(py.None().into_bound(py)),
        Reply::Run(run) => describe::run(py, &run).map(Bound::into_any),
        Reply::Task(task) => describe::task(py, &task).map(Bound::into_any),
        Reply::Node(node) => describe::node(py, &node).map(Bound::into_any),
        Reply::TokenCreated { expires } => expires.0.into_bound_py_any(py),
    }
}

/// What the request for the next page has behind its token.
fn cursor(QueueCursor { group, place }: QueueCursor) -> (u32, u8, String, u8, String) {
    match place {
        QueuePlace::Lane { queue, kind, name } => (group.0, 0, queue.into(), work_kind(kind), name.into()),
        QueuePlace::Paused(queue) => (group.0, 1, queue.into(), 0, String::new()),
        QueuePlace::Served(queue) => (group.0, 2, queue.into(), 0, String::new()),
        QueuePlace::First => (group.0, 3, String::new(), 0, String::new()),
    }
}

pub(crate) fn payload<'py>(py: Python<'py>, payload: &Payload) -> PyResult<Bound<'py, PyTuple>> {
    (payload.codec.as_str(), PyBytes::new(py, &payload.data)).into_pyobject(py)
}

/// Two items are a result, four a failure.
pub(crate) fn ended<'py>(py: Python<'py>, outcome: &WorkOutcome) -> PyResult<Bound<'py, PyTuple>> {
    match outcome {
        Ok(result) => payload(py, result),
        Err(failure) => {
            (failure.kind.as_str(), failure.message.as_str(), failure.traceback.as_str(), failure.retryable)
                .into_pyobject(py)
        }
    }
}

fn step_key<'py, 'key>(py: Python<'py>, key: &'key StepKey) -> (u8, &'key str, Bound<'py, PyBytes>) {
    (step_kind(key.kind), key.name.as_str(), PyBytes::new(py, key.cache_key.as_bytes()))
}

pub(crate) fn step_kind(kind: StepKind) -> u8 {
    match kind {
        StepKind::Task => 0,
        StepKind::Workflow => 1,
        StepKind::Inline => 2,
    }
}

fn work_kind(kind: WorkKind) -> u8 {
    match kind {
        WorkKind::Task => 0,
        WorkKind::Run => 1,
    }
}

fn work_id<'py>(py: Python<'py>, work: &Work) -> Bound<'py, PyBytes> {
    match work {
        Work::Task(task) => PyBytes::new(py, &task.0),
        Work::Run(run) => PyBytes::new(py, &run.0),
    }
}
