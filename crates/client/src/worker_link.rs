//! A worker's connection: leases in, outcomes out, credit given back by itself. The Rust worker and the Python SDK
//! both stand on this.
//!
//! The contract with the user: each lease that [`WorkerEvent::TaskStart`] or [`WorkerEvent::RunStart`] delivers ends
//! with exactly one of `complete_task`, `complete_run`, `release`, a successful `park_run`, or `abandon`. That frees its
//! slot, and the node hears of the free slot in the same write.

mod handler;

use std::sync::Arc;
use std::time::Duration;

use coda_protocol::frame::Welcome;
use coda_protocol::ids::{LeaseId, RunId, TaskId, Work};
use coda_protocol::payload::{Payload, WorkOutcome};
use coda_protocol::push::{RunLease, TaskLease};
use coda_protocol::reply::{Reply, StepState};
use coda_protocol::request::{
    CompleteRun, CompleteTask, ParkRun, RecordStep, Release, Request, Spawn, SpawnStep, StepKey,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::courier::{Courier, Packed};
use crate::error::ClientError;
use crate::events::{Events, events};
use crate::leases::{Hold, Intent, Leases, Salt, Served, Verdict};
use crate::link::Answered;
use crate::options::ConnectOptions;
use handler::{Ticket, To, WorkerHandler, intent};

/// What a worker is told, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum WorkerEvent {
    /// Execute this task.
    TaskStart(TaskLease),
    /// Execute this workflow function from the top; `memo` is everything the run already knows.
    RunStart { lease: RunLease, memo: Vec<(StepKey, WorkOutcome)> },
    /// A step that this execution has spawned has ended.
    StepEnded { run: RunId, lease: LeaseId, key: StepKey, outcome: WorkOutcome, steps_ended: u32 },
    /// A step that this execution has not spawned has ended; the answer to its spawn will say how.
    StepsSeen { run: RunId, lease: LeaseId, steps_ended: u32 },
    /// Stop working on it, then call [`WorkerLink::abandon`]. Results will be refused.
    LeaseLost { work: Work, lease: LeaseId },
    /// The answer to [`WorkerLink::post`].
    Answered { token: u64, result: Answered },
    /// Connected, for the first time or again. Leases were resumed and unanswered requests sent again.
    Connected { first: bool, welcome: Welcome },
    /// Go on working: leases survive a reconnect.
    Disconnected,
    /// The link will not connect again. The last event.
    Failed(ClientError),
}

/// A request that waits for room; give it to [`WorkerLink::post_parcel`].
pub struct WorkerParcel(Packed<Ticket>);

/// A worker's connection to the cluster. Cheap to clone; closes with its last clone.
#[derive(Clone)]
pub struct WorkerLink(Arc<Inner>);

struct Inner(Arc<Courier<WorkerHandler>>);

impl Drop for Inner {
    fn drop(&mut self) {
        self.0.begin_close();
    }
}

impl WorkerLink {
    /// Connects and offers all slots. Waits for the first connection up to the options' `connect_timeout`.
    ///
    /// # Errors
    /// [`ClientError::BadOptions`] for more slots, queues or names than a session may have, and as `Link::open`.
    pub async fn open(
        options: ConnectOptions,
        served: Vec<Served>,
    ) -> Result<(Self, Events<WorkerEvent>), ClientError> {
        let (addresses, timeout) = (options.addresses.join(","), options.connect_timeout);
        let (events_in, events) = events();
        let handler =
            WorkerHandler { leases: Mutex::new(Leases::new(served, Salt(rand::random()))?), events: events_in };
        let link = Self(Arc::new(Inner(Courier::start(options, handler)?)));
        link.courier().ready(&addresses, timeout).await?;
        Ok((link, events))
    }

    /// Asks anything and waits for the answer. Requests of a lease (complete, spawn, ...) are accounted for as by the
    /// methods named after them.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the rules refuse; otherwise what ended the link. An end of a lease that another
    /// attempt has superseded is no error: the reply is `Done`.
    pub async fn request(&self, request: Request) -> Answered {
        let (ticket, answer) = oneshot::channel();
        let packed = self.pack(request, To::Once(ticket))?;
        self.courier().admit(&packed).await?;
        self.dispatch(packed);
        answer.await.unwrap_or(Err(ClientError::Closed))
    }

    /// As [`WorkerLink::request`] with a deadline. The request may still take effect after it.
    ///
    /// # Errors
    /// As [`WorkerLink::request`], and [`ClientError::Deadline`].
    pub async fn request_within(&self, request: Request, limit: Duration) -> Answered {
        let (ticket, answer) = oneshot::channel();
        let packed = self.pack(request, To::Once(ticket))?;
        let id = packed.id;
        let asked = async {
            self.courier().admit(&packed).await?;
            self.dispatch(packed);
            answer.await.unwrap_or(Err(ClientError::Closed))
        };
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(self.courier().deadline(id, limit)))
    }

    /// Asks anything; the answer arrives as [`WorkerEvent::Answered`] with this token. Waits only for room.
    ///
    /// # Errors
    /// The request could not be taken; no event will follow, and its lease, if any, is still to be ended.
    pub async fn post(&self, token: u64, request: Request) -> Result<(), ClientError> {
        self.post_parcel(WorkerParcel(self.pack(request, To::Token(token))?)).await
    }

    /// As [`WorkerLink::post`], never waiting: with no room at this moment the parcel comes back, for
    /// [`WorkerLink::post_parcel`].
    ///
    /// # Errors
    /// As [`WorkerLink::post`].
    pub fn try_post(&self, token: u64, request: Request) -> Result<Option<WorkerParcel>, ClientError> {
        let packed = self.pack(request, To::Token(token))?;
        if !self.courier().try_admit(&packed)? {
            return Ok(Some(WorkerParcel(packed)));
        }
        self.dispatch(packed);
        Ok(None)
    }

    /// Waits for room and sends.
    ///
    /// # Errors
    /// As [`WorkerLink::post`].
    pub async fn post_parcel(&self, parcel: WorkerParcel) -> Result<(), ClientError> {
        self.courier().admit(&parcel.0).await?;
        self.dispatch(parcel.0);
        Ok(())
    }

    /// Spawns steps of a resident run; one state per step, in order. A pending step ends with a
    /// [`WorkerEvent::StepEnded`], which may come before this answer.
    ///
    /// # Errors
    /// As [`WorkerLink::request`].
    pub async fn spawn(
        &self,
        run: RunId,
        lease: LeaseId,
        steps: Vec<SpawnStep>,
    ) -> Result<Vec<StepState>, ClientError> {
        let count = steps.len();
        match self.request(Request::Spawn(Spawn { run, lease, steps })).await?.0 {
            Reply::Spawned(states) if states.len() == count => Ok(states),
            _ => Err(ClientError::UnexpectedReply { expected: "Spawned" }),
        }
    }

    /// Records what an inline step returned. The recorded result is another execution's if that came first.
    ///
    /// # Errors
    /// As [`WorkerLink::request`].
    pub async fn record_step(
        &self,
        run: RunId,
        lease: LeaseId,
        key: StepKey,
        result: Payload,
    ) -> Result<Payload, ClientError> {
        match self.request(Request::RecordStep(RecordStep { run, lease, key, result })).await?.0 {
            Reply::Recorded(payload) => Ok(payload),
            _ => Err(ClientError::UnexpectedReply { expected: "Recorded" }),
        }
    }

    /// Ends a task's lease. Returns when the outcome is durable, or superseded.
    ///
    /// # Errors
    /// As [`WorkerLink::request`]. After [`ClientError::Refused`] the lease is still to be ended, say with a failure.
    pub async fn complete_task(&self, task: TaskId, lease: LeaseId, outcome: WorkOutcome) -> Result<(), ClientError> {
        self.request(Request::CompleteTask(CompleteTask { task, lease, outcome })).await.map(drop)
    }

    /// Ends a run's lease, once its spawns are answered. Otherwise as [`WorkerLink::complete_task`].
    ///
    /// # Errors
    /// As [`WorkerLink::complete_task`].
    pub async fn complete_run(&self, run: RunId, lease: LeaseId, outcome: WorkOutcome) -> Result<(), ClientError> {
        self.request(Request::CompleteRun(CompleteRun { run, lease, outcome })).await.map(drop)
    }

    /// Hands leased work back unharmed.
    ///
    /// # Errors
    /// As [`WorkerLink::request`].
    pub async fn release(&self, work: Work, lease: LeaseId) -> Result<(), ClientError> {
        self.request(Request::Release(Release { work, lease })).await.map(drop)
    }

    /// Gives up the slot of a run that only waits. `seen` is the largest `steps_ended` among its lease and the events
    /// that the user has handled; no spawn of it may be unanswered.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `NotIdle`: there is news, the run goes on under its lease. Else as
    /// [`WorkerLink::request`].
    pub async fn park_run(&self, run: RunId, lease: LeaseId, seen: u32) -> Result<(), ClientError> {
        self.request(Request::ParkRun(ParkRun { run, lease, seen })).await.map(drop)
    }

    /// The user has stopped working under a lost lease: its slot is free. A lease that is not lost is released.
    pub fn abandon(&self, work: Work, lease: LeaseId) {
        let done = self.leases().lock().abandon((work, lease));
        if !done {
            self.let_go((work, lease));
        }
        self.courier().wake();
    }

    /// Takes no further work: credit is withdrawn, and work that the user has not received yet is released. What the
    /// user holds goes on and is ended as usual.
    pub fn drain(&self) {
        let mut leases = self.leases().lock();
        let (assembling, unsubscribe) = leases.drain();
        let fresh = |event: &WorkerEvent| matches!(event, WorkerEvent::TaskStart(_) | WorkerEvent::RunStart { .. });
        let unseen = self.courier().handler.events.take_back(fresh);
        drop(leases);
        for subscribe in unsubscribe {
            self.courier().submit_everywhere(&Request::Subscribe(subscribe), || Ticket::quiet(Intent::Ask));
        }
        for (work, lease) in assembling {
            self.courier().submit_internal(Request::Release(Release { work, lease }), Ticket::quiet(Intent::Ask));
        }
        for event in unseen {
            match event {
                WorkerEvent::TaskStart(task) => self.let_go((Work::Task(task.task), task.lease)),
                WorkerEvent::RunStart { lease, .. } => self.let_go((Work::Run(lease.run), lease.lease)),
                _ => unreachable!("only leases were taken back"),
            }
        }
    }

    /// How many leases were delivered and not ended yet.
    #[must_use]
    pub fn held(&self) -> usize {
        self.leases().lock().count()
    }

    /// Waits until the node has answered everything that was asked of it, hand-backs included. After that a goodbye takes
    /// nothing away that was meant to be handed back.
    pub async fn settled(&self) {
        self.courier().settled().await;
    }

    /// Ends the session with a goodbye; the node hands out its leases at once. Unanswered requests fail.
    pub async fn close(&self) {
        self.courier().begin_close();
        self.courier().closed().await;
    }

    fn pack(&self, request: Request, to: To) -> Result<Packed<Ticket>, ClientError> {
        let intent = intent(&request)?;
        self.courier().pack(request, Ticket { intent, to })
    }

    fn let_go(&self, (work, lease): Hold) {
        let intent = Intent::End { hold: (work, lease) };
        if self.leases().lock().begin(&intent) == Verdict::Send {
            self.courier().submit_internal(Request::Release(Release { work, lease }), Ticket::quiet(intent));
        }
    }

    fn dispatch(&self, packed: Packed<Ticket>) {
        self.courier().handler.dispatch(self.courier(), packed);
    }

    fn leases(&self) -> &Mutex<Leases<Packed<Ticket>>> {
        &self.courier().handler.leases
    }

    fn courier(&self) -> &Courier<WorkerHandler> {
        &self.0.0
    }
}
