//! Python's tuples as requests: `(tag, token, ...)`. `python/coda/_wire.py` names the tags and their items.

use bytes::Bytes;
use coda_client::Served;
use coda_client::protocol::cache_key::CacheKey;
use coda_client::protocol::ids::{GroupId, LeaseId, Millis, Name, RunId, SessionId, TaskId, Work, WorkKind};
use coda_client::protocol::payload::{Failure, Payload, WorkOutcome};
use coda_client::protocol::policy::RetryPolicy;
use coda_client::protocol::reply::{QueueCursor, QueuePlace};
use coda_client::protocol::request::Subscribe;
use coda_client::protocol::request::{
    CompleteRun, CompleteTask, ParkRun, RecordStep, Release, Request, Spawn, SpawnStep, StartRun, StepKey, StepKind,
    SubmitTask,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

const START_RUN: u8 = 0;
const SUBMIT_TASK: u8 = 1;
const AWAIT_RUN: u8 = 2;
const AWAIT_TASK: u8 = 3;
const SPAWN: u8 = 4;
const RECORD_STEP: u8 = 5;
const COMPLETE_TASK: u8 = 6;
const COMPLETE_RUN: u8 = 7;
const RELEASE: u8 = 8;
const PARK_RUN: u8 = 9;
const END_SESSION: u8 = 10;
const LIST_QUEUES: u8 = 11;
const DESCRIBE_QUEUE: u8 = 12;
const PAUSE_QUEUE: u8 = 13;
const UNPAUSE_QUEUE: u8 = 14;
const DESCRIBE_RUN: u8 = 15;
const DESCRIBE_TASK: u8 = 16;
const DESCRIBE_NODE: u8 = 17;

/// The items of one tuple.
struct Items<'a, 'py>(&'a Bound<'py, PyTuple>);

/// A request and the token its answer will carry.
pub(crate) fn request(tuple: &Bound<'_, PyTuple>) -> PyResult<(u64, Request)> {
    let items = Items(tuple);
    let token = items.int(1)?;
    let request = match items.small(0)? {
        START_RUN => Request::StartRun(StartRun {
            run: RunId(items.id(2)?),
            workflow: items.name(3)?,
            queue: items.name(4)?,
            input: items.payload(5)?,
            priority: items.small(6)?,
            policy: items.policy(7)?,
            delay: Millis(items.int(8)?),
        }),
        SUBMIT_TASK => Request::SubmitTask(SubmitTask {
            task: TaskId(items.id(2)?),
            name: items.name(3)?,
            queue: items.name(4)?,
            args: items.payload(5)?,
            priority: items.small(6)?,
            policy: items.policy(7)?,
            delay: Millis(items.int(8)?),
        }),
        AWAIT_RUN => Request::AwaitRun(RunId(items.id(2)?)),
        AWAIT_TASK => Request::AwaitTask(TaskId(items.id(2)?)),
        SPAWN => Request::Spawn(Spawn {
            run: RunId(items.id(2)?),
            lease: LeaseId(items.int(3)?),
            steps: items
                .0
                .get_item(4)?
                .cast::<PyList>()?
                .iter()
                .map(|step| spawn_step(&step))
                .collect::<PyResult<_>>()?,
        }),
        RECORD_STEP => Request::RecordStep(RecordStep {
            run: RunId(items.id(2)?),
            lease: LeaseId(items.int(3)?),
            key: StepKey { kind: StepKind::Inline, name: items.name(4)?, cache_key: items.cache_key(5)? },
            result: items.payload(6)?,
        }),
        COMPLETE_TASK => Request::CompleteTask(CompleteTask {
            task: TaskId(items.id(2)?),
            lease: LeaseId(items.int(3)?),
            outcome: items.outcome(4)?,
        }),
        COMPLETE_RUN => Request::CompleteRun(CompleteRun {
            run: RunId(items.id(2)?),
            lease: LeaseId(items.int(3)?),
            outcome: items.outcome(4)?,
        }),
        RELEASE => {
            Request::Release(Release { work: work(items.small(2)?, items.id(3)?)?, lease: LeaseId(items.int(4)?) })
        }
        PARK_RUN => Request::ParkRun(ParkRun {
            run: RunId(items.id(2)?),
            lease: LeaseId(items.int(3)?),
            seen: u32::try_from(items.int(4)?)?,
        }),
        END_SESSION => Request::EndSession(SessionId(items.id(2)?)),
        LIST_QUEUES if tuple.len() == 2 => Request::ListQueuesFrom(None),
        LIST_QUEUES => Request::ListQueuesFrom(Some(items.cursor()?)),
        DESCRIBE_QUEUE => Request::DescribeLanes(items.name(2)?),
        PAUSE_QUEUE => Request::PauseQueue(items.name(2)?),
        UNPAUSE_QUEUE => Request::UnpauseQueue(items.name(2)?),
        DESCRIBE_RUN => Request::DescribeRun(RunId(items.id(2)?)),
        DESCRIBE_TASK => Request::DescribeTask(TaskId(items.id(2)?)),
        DESCRIBE_NODE => Request::DescribeNode,
        tag => return Err(PyValueError::new_err(format!("unknown request tag {tag}"))),
    };
    Ok((token, request))
}

/// `(kind, name, cache_key, queue, payload, priority, policy, delay_ms)`.
fn spawn_step(step: &Bound<'_, PyAny>) -> PyResult<SpawnStep> {
    let items = Items(step.cast::<PyTuple>()?);
    let kind = match items.small(0)? {
        0 => StepKind::Task,
        1 => StepKind::Workflow,
        kind => return Err(PyValueError::new_err(format!("a step of kind {kind} cannot be spawned"))),
    };
    Ok(SpawnStep {
        key: StepKey { kind, name: items.name(1)?, cache_key: items.cache_key(2)? },
        queue: items.name(3)?,
        args: items.payload(4)?,
        priority: items.small(5)?,
        policy: items.policy(6)?,
        delay: Millis(items.int(7)?),
    })
}

/// `(queue, [task], [workflow], task_slots, run_slots)`.
pub(crate) fn served(served: &Bound<'_, PyAny>) -> PyResult<Served> {
    let items = Items(served.cast::<PyTuple>()?);
    let names = |index: usize| -> PyResult<Vec<Name>> {
        items.0.get_item(index)?.cast::<PyList>()?.iter().map(|name| name_of(&name)).collect()
    };
    Ok(Served {
        subscribe: Subscribe { queue: items.name(0)?, tasks: names(1)?, workflows: names(2)? },
        task_slots: u32::try_from(items.int(3)?)?,
        run_slots: u32::try_from(items.int(4)?)?,
    })
}

pub(crate) fn work(kind: u8, id: [u8; 16]) -> PyResult<Work> {
    match kind {
        0 => Ok(Work::Task(TaskId(id))),
        1 => Ok(Work::Run(RunId(id))),
        kind => Err(PyValueError::new_err(format!("unknown kind of work {kind}"))),
    }
}

pub(crate) fn id_of(bytes: &Bound<'_, PyAny>) -> PyResult<[u8; 16]> {
    let bytes = bytes.cast::<PyBytes>()?.as_bytes();
    bytes.try_into().map_err(|_| PyValueError::new_err(format!("an id has 16 bytes, not {}", bytes.len())))
}

fn name_of(name: &Bound<'_, PyAny>) -> PyResult<Name> {
    Ok(Name::new(name.cast::<PyString>()?.to_cow()?))
}

fn payload_of(payload: &Bound<'_, PyTuple>) -> PyResult<Payload> {
    let codec = name_of(&payload.get_item(0)?)?;
    let data = payload.get_item(1)?;
    Ok(Payload { codec, data: Bytes::copy_from_slice(data.cast::<PyBytes>()?.as_bytes()) })
}

impl Items<'_, '_> {
    fn int(&self, index: usize) -> PyResult<u64> {
        self.0.get_item(index)?.extract()
    }

    fn small(&self, index: usize) -> PyResult<u8> {
        self.0.get_item(index)?.extract()
    }

    fn id(&self, index: usize) -> PyResult<[u8; 16]> {
        id_of(&self.0.get_item(index)?)
    }

    fn name(&self, index: usize) -> PyResult<Name> {
        name_of(&self.0.get_item(index)?)
    }

    /// Where a page of queues begins, as the page before it said.
    fn cursor(&self) -> PyResult<QueueCursor> {
        let group = GroupId(self.0.get_item(2)?.extract()?);
        let queue = self.name(4)?;
        let place = match self.small(3)? {
            0 => {
                let kind = if self.small(5)? == 0 { WorkKind::Task } else { WorkKind::Run };
                QueuePlace::Lane { queue, kind, name: self.name(6)? }
            }
            1 => QueuePlace::Paused(queue),
            2 => QueuePlace::Served(queue),
            3 => QueuePlace::First,
            part => return Err(PyValueError::new_err(format!("a list of queues has no part {part}"))),
        };
        Ok(QueueCursor { group, place })
    }

    fn payload(&self, index: usize) -> PyResult<Payload> {
        payload_of(self.0.get_item(index)?.cast::<PyTuple>()?)
    }

    fn cache_key(&self, index: usize) -> PyResult<CacheKey> {
        let key = self.0.get_item(index)?;
        let key = CacheKey::stored(Bytes::copy_from_slice(key.cast::<PyBytes>()?.as_bytes()));
        key.check().map_err(|reject| PyValueError::new_err(reject.to_string()))?;
        Ok(key)
    }

    fn outcome(&self, index: usize) -> PyResult<WorkOutcome> {
        let outcome = self.0.get_item(index)?;
        let outcome = outcome.cast::<PyTuple>()?;
        if outcome.len() == 2 {
            return payload_of(outcome).map(Ok);
        }
        let (kind, message, traceback, retryable) = outcome.extract()?;
        Ok(Err(Failure { kind, message, traceback, retryable }))
    }

    fn policy(&self, index: usize) -> PyResult<RetryPolicy> {
        let (max_retries, initial, factor_percent, max, jitter_percent) = self.0.get_item(index)?.extract()?;
        Ok(RetryPolicy { max_retries, initial: Millis(initial), factor_percent, max: Millis(max), jitter_percent })
    }
}
