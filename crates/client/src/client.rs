//! Starting runs, submitting tasks, waiting for their results, and asking why something waits.

use std::time::Duration;

use coda_protocol::ids::{Position, RunId, SessionId, TaskId};
use coda_protocol::payload::{Failure, Payload, WorkOutcome};
use coda_protocol::reply::{
    LaneList, NodeDescription, QueueList, QueueSummary, Reply, RunDescription, TaskDescription,
};
use coda_protocol::request::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::admin::Admin;
use crate::error::ClientError;
use crate::link::Link;
use crate::options::ConnectOptions;
use crate::payloads::from_json;
use crate::start::{StartOptions, SubmitOptions};

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RunError {
    /// The work has failed, all retries included.
    #[error("{}: {}", .0.kind, .0.message)]
    Failed(Failure),
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl RunError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Failed(_) => "CODA4016",
            Self::Client(error) => error.code(),
        }
    }
}

/// A connection to the cluster for programs that start work. Cheap to clone; closes with its last clone or handle.
#[derive(Clone)]
pub struct Client {
    link: Link,
}

/// A run that was started, by this program or another.
#[derive(Clone)]
pub struct RunHandle {
    link: Link,
    run: RunId,
    existed: bool,
    position: Option<Position>,
}

/// A task that was submitted, by this program or another.
#[derive(Clone)]
pub struct TaskHandle {
    link: Link,
    task: TaskId,
    existed: bool,
    position: Option<Position>,
}

/// Unpacks the one reply that fits a request.
macro_rules! expect {
    ($answer:expr, $variant:ident) => {
        match $answer.await?.0 {
            Reply::$variant(value) => Ok(value),
            _ => Err(ClientError::UnexpectedReply { expected: stringify!($variant) }),
        }
    };
}

impl Client {
    /// Connects, waiting for a first node up to the options' `connect_timeout`.
    ///
    /// # Errors
    /// As [`Link::open`].
    pub async fn connect(options: ConnectOptions) -> Result<Self, ClientError> {
        // A client has no use for events.
        let (link, _events) = Link::open(options).await?;
        Ok(Self { link })
    }

    /// Starts a run. When this returns, a quorum has it on disk.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn start(&self, options: StartOptions) -> Result<RunHandle, ClientError> {
        let run = options.0.run;
        let (existed, position) = self.started(Request::StartRun(options.0)).await?;
        Ok(RunHandle { link: self.link.clone(), run, existed, position })
    }

    /// Submits a task of its own. When this returns, a quorum has it on disk.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn submit(&self, options: SubmitOptions) -> Result<TaskHandle, ClientError> {
        let task = options.0.task;
        let (existed, position) = self.started(Request::SubmitTask(options.0)).await?;
        Ok(TaskHandle { link: self.link.clone(), task, existed, position })
    }

    /// Starts a run in the default queue with a JSON input.
    ///
    /// # Errors
    /// As [`Client::start`], and [`ClientError::BadPayload`].
    pub async fn start_json<T: Serialize + ?Sized>(&self, workflow: &str, input: &T) -> Result<RunHandle, ClientError> {
        self.start(StartOptions::new(workflow).input_json(input)?).await
    }

    /// Submits a task to the default queue with JSON arguments.
    ///
    /// # Errors
    /// As [`Client::submit`], and [`ClientError::BadPayload`].
    pub async fn submit_json<T: Serialize + ?Sized>(&self, name: &str, args: &T) -> Result<TaskHandle, ClientError> {
        self.submit(SubmitOptions::new(name).args_json(args)?).await
    }

    /// A handle of a run that exists already.
    #[must_use]
    pub fn run(&self, run: RunId) -> RunHandle {
        RunHandle { link: self.link.clone(), run, existed: true, position: None }
    }

    /// A handle of a task that exists already.
    #[must_use]
    pub fn task(&self, task: TaskId) -> TaskHandle {
        TaskHandle { link: self.link.clone(), task, existed: true, position: None }
    }

    /// All queues that hold work, are paused, or have workers, by name: as many pages as there are.
    ///
    /// # Errors
    /// As [`Link::request`]; so for all below.
    pub async fn list_queues(&self) -> Result<Vec<QueueSummary>, ClientError> {
        let (mut all, mut from) = (QueueList::default(), None);
        loop {
            let page = expect!(self.link.request(Request::ListQueuesFrom(from)), QueuePage)?;
            from = all.add(page);
            if from.is_none() {
                return Ok(all.into_queues());
            }
        }
    }

    /// Why does a queue's work wait?
    ///
    /// # Errors
    /// As [`Link::request`].
    pub async fn describe_queue(&self, queue: &str) -> Result<LaneList, ClientError> {
        expect!(self.link.request(Request::DescribeLanes(queue.into())), Lanes)
    }

    /// No new leases from this queue until it is unpaused.
    ///
    /// # Errors
    /// As [`Link::request`].
    pub async fn pause_queue(&self, queue: &str) -> Result<(), ClientError> {
        self.link.request(Request::PauseQueue(queue.into())).await.map(drop)
    }

    /// # Errors
    /// As [`Link::request`].
    pub async fn unpause_queue(&self, queue: &str) -> Result<(), ClientError> {
        self.link.request(Request::UnpauseQueue(queue.into())).await.map(drop)
    }

    /// # Errors
    /// As [`Link::request`].
    pub async fn describe_run(&self, run: RunId) -> Result<RunDescription, ClientError> {
        expect!(self.link.request(Request::DescribeRun(run)), Run)
    }

    /// # Errors
    /// As [`Link::request`].
    pub async fn describe_task(&self, task: TaskId) -> Result<TaskDescription, ClientError> {
        expect!(self.link.request(Request::DescribeTask(task)), Task)
    }

    /// The node that this client is connected to.
    ///
    /// # Errors
    /// As [`Link::request`].
    pub async fn describe_node(&self) -> Result<NodeDescription, ClientError> {
        expect!(self.link.request(Request::DescribeNode), Node)
    }

    /// Tells the cluster that a process this program supervised is dead, so that its leases are handed out at once.
    ///
    /// # Errors
    /// As [`Link::request`].
    pub async fn end_session(&self, session: SessionId) -> Result<(), ClientError> {
        self.link.request(Request::EndSession(session)).await.map(drop)
    }

    /// The cluster as its operators see it. Each of its questions is given up after `limit`.
    #[must_use]
    pub fn admin(&self, limit: Duration) -> Admin {
        Admin::new(self.link.clone(), limit)
    }

    /// The link below, for everything that has no method here.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Says goodbye. Requests and results that are still awaited fail with [`ClientError::Closed`].
    pub async fn close(&self) {
        self.link.close().await;
    }

    async fn started(&self, request: Request) -> Result<(bool, Option<Position>), ClientError> {
        match self.link.request(request).await? {
            (Reply::Started { existed }, position) => Ok((existed, position.known())),
            _ => Err(ClientError::UnexpectedReply { expected: "Started" }),
        }
    }
}

impl RunHandle {
    #[must_use]
    pub fn id(&self) -> RunId {
        self.run
    }

    /// Whether a run of this id had been started before.
    #[must_use]
    pub fn existed(&self) -> bool {
        self.existed
    }

    /// Where in the log of its group the answer to its start stands; `None` of a handle that was made of an id alone.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// As [`RunHandle::result`], a failure of the run being an outcome like any other, and where in the log it is known.
    ///
    /// # Errors
    /// What ended the link.
    pub async fn outcome(&self) -> Result<(WorkOutcome, Position), ClientError> {
        outcome(&self.link, Request::AwaitRun(self.run)).await
    }

    /// Waits until the run has ended, through any number of reconnects. May be called many times.
    ///
    /// # Errors
    /// [`RunError::Failed`] with the remote failure.
    pub async fn result(&self) -> Result<Payload, RunError> {
        result(&self.link, Request::AwaitRun(self.run)).await
    }

    /// As [`RunHandle::result`], decoded.
    ///
    /// # Errors
    /// As [`RunHandle::result`], and [`ClientError::BadPayload`].
    pub async fn result_json<T: DeserializeOwned>(&self) -> Result<T, RunError> {
        Ok(from_json(&self.result().await?)?)
    }
}

impl TaskHandle {
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.task
    }

    /// Whether a task of this id had been submitted before.
    #[must_use]
    pub fn existed(&self) -> bool {
        self.existed
    }

    /// Where in the log of its group the answer to its submission stands; `None` of a handle that was made of an id alone.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// As [`TaskHandle::result`], a failure of the task being an outcome like any other, and where in the log it is known.
    ///
    /// # Errors
    /// What ended the link.
    pub async fn outcome(&self) -> Result<(WorkOutcome, Position), ClientError> {
        outcome(&self.link, Request::AwaitTask(self.task)).await
    }

    /// Waits until the task has ended, through any number of reconnects. May be called many times.
    ///
    /// # Errors
    /// [`RunError::Failed`] with the remote failure.
    pub async fn result(&self) -> Result<Payload, RunError> {
        result(&self.link, Request::AwaitTask(self.task)).await
    }

    /// As [`TaskHandle::result`], decoded.
    ///
    /// # Errors
    /// As [`TaskHandle::result`], and [`ClientError::BadPayload`].
    pub async fn result_json<T: DeserializeOwned>(&self) -> Result<T, RunError> {
        Ok(from_json(&self.result().await?)?)
    }
}

async fn result(link: &Link, request: Request) -> Result<Payload, RunError> {
    outcome(link, request).await?.0.map_err(RunError::Failed)
}

async fn outcome(link: &Link, request: Request) -> Result<(WorkOutcome, Position), ClientError> {
    match link.request(request).await? {
        (Reply::Ended(outcome), position) => Ok((outcome, position)),
        _ => Err(ClientError::UnexpectedReply { expected: "Ended" }),
    }
}
