//! The Rust worker: register functions, run until told to stop, drain.

mod crew;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use coda_protocol::ids::{Name, Work};
use coda_protocol::request::Subscribe;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::error::ClientError;
use crate::events::Events;
use crate::functions::{self, Functions};
use crate::leases::Served;
use crate::options::ConnectOptions;
use crate::payloads::BoxError;
use crate::start::QUEUE_DEFAULT;
use crate::worker_link::{WorkerEvent, WorkerLink};
use crate::workflow::WorkflowContext;
use crew::{Crew, Working};

/// Slots of either kind, per queue, unless told otherwise.
pub const SLOTS_DEFAULT: u32 = 64;
/// How long a draining worker waits for its tasks before it hands them back.
pub const DRAIN_TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// How long a run may only wait before it gives up its slot.
pub const PARK_AFTER_MS_DEFAULT: u64 = 30_000;

/// How long functions that were told to stop have to reach an `.await`.
const STOP_TIMEOUT: Duration = Duration::from_millis(2_000);
/// How long a worker that stops waits for the answers to what it has handed back.
const ANSWERS_TIMEOUT: Duration = Duration::from_millis(2_000);
const EVENTS_PER_TURN_MAX: usize = 256;

/// A worker with its functions, not connected yet.
pub struct Worker {
    options: ConnectOptions,
    served: Vec<Served>,
    functions: Arc<Functions>,
    drain_timeout: Duration,
    park_after: Option<Duration>,
}

/// Collects a worker's functions. Every function is served from every queue.
#[must_use]
pub struct WorkerBuilder {
    options: ConnectOptions,
    queues: Vec<Name>,
    task_slots: u32,
    run_slots: u32,
    functions: Functions,
    drain_timeout: Duration,
    park_after: Option<Duration>,
}

impl Worker {
    pub fn builder(options: ConnectOptions) -> WorkerBuilder {
        WorkerBuilder {
            options,
            queues: Vec::new(),
            task_slots: SLOTS_DEFAULT,
            run_slots: SLOTS_DEFAULT,
            functions: Functions::default(),
            drain_timeout: Duration::from_millis(DRAIN_TIMEOUT_MS_DEFAULT),
            park_after: Some(Duration::from_millis(PARK_AFTER_MS_DEFAULT)),
        }
    }

    /// Works until `shutdown` completes, then drains: takes nothing new, lets tasks end, hands back runs that only
    /// wait, and after the drain timeout everything else.
    ///
    /// # Errors
    /// What made working impossible; a lost connection is not among it.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), ClientError> {
        self.run_until_hurried(shutdown, std::future::pending()).await
    }

    /// As [`Worker::run_until`]; `hurry` ends the drain at once, say at a second interrupt.
    ///
    /// # Errors
    /// As [`Worker::run_until`].
    pub async fn run_until_hurried(
        self,
        shutdown: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), ClientError> {
        let (link, events) = WorkerLink::open(self.options, self.served).await?;
        let crew = Arc::new(Crew {
            link,
            functions: self.functions,
            park_after: self.park_after,
            working: Mutex::default(),
            one_left: Notify::new(),
        });
        let mut loop_ = EventLoop { crew, events, batch: Vec::new() };
        let worked = loop_.until(shutdown).await;
        if worked.is_ok() {
            loop_.drain(self.drain_timeout, hurry).await;
        }
        loop_.stop().await;
        worked
    }
}

impl WorkerBuilder {
    /// Serves this queue too. Without any, the queue is `default`.
    pub fn queue(mut self, queue: &str) -> Self {
        self.queues.push(queue.into());
        self
    }

    /// Tasks executed at once, per queue.
    pub fn task_slots(mut self, slots: u32) -> Self {
        self.task_slots = slots;
        self
    }

    /// Runs resident at once, per queue.
    pub fn run_slots(mut self, slots: u32) -> Self {
        self.run_slots = slots;
        self
    }

    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// How long a run may only wait for steps before it gives up its slot; `None`: for ever. A parked run is executed
    /// again from the top, so what it does beside awaiting steps belongs in tasks or inline steps. Where runs never give
    /// up their slots, their child runs belong in a queue of their own: all slots could be held by runs that wait for one.
    pub fn park_after(mut self, idle: Option<Duration>) -> Self {
        self.park_after = idle;
        self
    }

    /// Executes tasks of this name. An error or a panic is a failure, retried by the task's policy.
    pub fn task<T, R, E, F, Fut>(mut self, name: &str, function: F) -> Self
    where
        T: DeserializeOwned,
        R: Serialize + 'static,
        E: Into<BoxError> + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.functions.tasks.insert(name.into(), functions::task(function));
        self
    }

    /// Executes runs of this workflow.
    pub fn workflow<T, R, E, F, Fut>(mut self, name: &str, function: F) -> Self
    where
        T: DeserializeOwned,
        R: Serialize + 'static,
        E: Into<BoxError> + 'static,
        F: Fn(WorkflowContext, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.functions.workflows.insert(name.into(), functions::workflow(function));
        self
    }

    /// # Errors
    /// [`ClientError::BadOptions`] when no function is registered.
    pub fn build(self) -> Result<Worker, ClientError> {
        if self.functions.tasks.is_empty() && self.functions.workflows.is_empty() {
            let why = "the worker has no function: register at least one with `.task(..)` or `.workflow(..)`";
            return Err(ClientError::BadOptions { why: why.into() });
        }
        let sorted = |names: Vec<Name>| {
            let mut names = names;
            names.sort_unstable();
            names
        };
        let queues = if self.queues.is_empty() { vec![QUEUE_DEFAULT.into()] } else { self.queues };
        let serve = |queue: Name| Served {
            subscribe: Subscribe {
                queue,
                tasks: sorted(self.functions.tasks.keys().cloned().collect()),
                workflows: sorted(self.functions.workflows.keys().cloned().collect()),
            },
            task_slots: self.task_slots,
            run_slots: self.run_slots,
        };
        Ok(Worker {
            options: self.options,
            served: queues.into_iter().map(serve).collect(),
            functions: Arc::new(self.functions),
            drain_timeout: self.drain_timeout,
            park_after: self.park_after,
        })
    }
}

struct EventLoop {
    crew: Arc<Crew>,
    events: Events<WorkerEvent>,
    batch: Vec<WorkerEvent>,
}

impl EventLoop {
    async fn until(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), ClientError> {
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                _ = self.events.recv_many(&mut self.batch, EVENTS_PER_TURN_MAX) => self.handle()?,
            }
        }
    }

    async fn drain(&mut self, timeout: Duration, hurry: impl Future<Output = ()>) {
        info!(working = self.crew.working.lock().len(), "draining");
        self.crew.link.drain();
        for working in self.crew.all() {
            match working {
                Working::Task(_) => {}
                Working::Run(resident) => resident.drain(),
            }
        }
        let crew = self.crew.clone();
        let deadline = tokio::time::sleep(timeout);
        tokio::pin!(hurry, deadline);
        let empty = crew.empty();
        tokio::pin!(empty);
        loop {
            tokio::select! {
                () = &mut empty => return,
                () = &mut hurry => return,
                () = &mut deadline => return,
                _ = self.events.recv_many(&mut self.batch, EVENTS_PER_TURN_MAX) => if self.handle().is_err() {
                    return;
                },
            }
        }
    }

    /// Hands back what is still held and says goodbye.
    async fn stop(&mut self) {
        self.crew.all().iter().for_each(Working::stop);
        if tokio::time::timeout(STOP_TIMEOUT, self.crew.empty()).await.is_err() {
            warn!(left = self.crew.working.lock().len(), "functions did not stop in time, leaving them");
        }
        // A goodbye that overtakes them would have the node count their workers as lost.
        if tokio::time::timeout(ANSWERS_TIMEOUT, self.crew.link.settled()).await.is_err() {
            warn!("what was handed back is not answered, closing all the same");
        }
        self.crew.link.close().await;
    }

    fn handle(&mut self) -> Result<(), ClientError> {
        for event in self.batch.drain(..) {
            match event {
                WorkerEvent::TaskStart(lease) => self.crew.start_task(lease),
                WorkerEvent::RunStart { lease, memo } => self.crew.start_run(lease, memo),
                WorkerEvent::StepEnded { run, lease, key, outcome, steps_ended } => {
                    if let Some(Working::Run(resident)) = self.crew.find((Work::Run(run), lease)) {
                        resident.step_ended(&key, outcome, steps_ended);
                    }
                }
                WorkerEvent::StepsSeen { run, lease, steps_ended } => {
                    if let Some(Working::Run(resident)) = self.crew.find((Work::Run(run), lease)) {
                        resident.steps_seen(steps_ended);
                    }
                }
                WorkerEvent::LeaseLost { work, lease } => {
                    debug!(?work, ?lease, "lease lost");
                    match self.crew.find((work, lease)) {
                        Some(working) => working.stop(),
                        None => self.crew.link.abandon(work, lease),
                    }
                }
                WorkerEvent::Answered { .. } | WorkerEvent::Connected { .. } | WorkerEvent::Disconnected => {}
                WorkerEvent::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }
}
