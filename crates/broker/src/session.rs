//! One connection of a client or worker: what it says becomes commands, questions and credits.
//!
//! The struct [`Session`] decides on frames and knows no socket; the actor beside it owns the connection's tasks, so
//! that a panic in any of them closes that connection and nothing else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coda_engine::command::Command;
use coda_protocol::frame::{CLOSE_REPLACED, Frame, FrameError};
use coda_protocol::ids::{Name, NodeId, Position, SessionId, Work, check_name};
use coda_protocol::limits::{LEASES_PER_SESSION_MAX, REQUESTS_IN_FLIGHT_MAX, SUBSCRIPTIONS_PER_SESSION_MAX};
use coda_protocol::reject::{Refusal, Reject, Unavailable};
use coda_protocol::reply::{LaneList, QueueCursor, QueueDescription, QueuePage, Reply};
use coda_protocol::request::{Credit, Request, Subscribe};
use parking_lot::Mutex;
use quinn::VarInt;
use tokio::time::Instant;
use tracing::warn;

use crate::describe;
use crate::dispatch::Epoch;
use crate::messages::Subscription;
use crate::outbox::Outbox;
use crate::proposer::ReplyTo;
use crate::queue::QueueHandle;
use crate::router::Router;

/// What a connection's requests are answered with.
pub struct Session {
    pub id: SessionId,
    pub epoch: Epoch,
    pub outbox: Outbox,
    /// The leader at the time of the handshake: when it ends, so does the connection.
    pub router: Router,
    pub node: NodeId,
    pub node_started: Instant,
    /// The queues it serves.
    pub queues: Mutex<BTreeMap<Name, QueueHandle>>,
    /// What is said, or complained about, once.
    pub once: Once,
}

#[derive(Default)]
pub struct Once {
    resumed: AtomicBool,
    full: AtomicBool,
}

impl Session {
    /// Acts on a frame.
    ///
    /// # Errors
    /// [`FrameError`]: the connection must be closed.
    pub async fn on_frame(&self, frame: Frame) -> Result<(), FrameError> {
        match frame {
            Frame::Request { id, request } => {
                self.on_request(id, request).await;
                Ok(())
            }
            Frame::Hello { .. } => Err(FrameError::Unexpected { what: "a second hello" }),
            Frame::Welcome(_) => Err(FrameError::Unexpected { what: "a welcome" }),
            Frame::Answer { .. } => Err(FrameError::Unexpected { what: "an answer" }),
            Frame::Push(_) => Err(FrameError::Unexpected { what: "a push" }),
        }
    }

    async fn on_request(&self, id: u64, request: Request) {
        let reply = match id {
            0 => ReplyTo::Nobody,
            id => {
                let reply = ReplyTo::Session { session: self.id, epoch: self.epoch, outbox: self.outbox.clone(), id };
                if self.outbox.expect_answer() > REQUESTS_IN_FLIGHT_MAX {
                    return reply.refuse(Unavailable::Overloaded { retry_after_ms: crate::config::RETRY_AFTER_MS });
                }
                reply
            }
        };
        match request {
            Request::StartRun(start) => self.command(Command::StartRun(start), reply),
            Request::SubmitTask(submit) => self.command(Command::SubmitTask(submit), reply),
            Request::AwaitRun(run) => self.router.shared.proposer.wait_for(Work::Run(run), reply),
            Request::AwaitTask(task) => self.router.shared.proposer.wait_for(Work::Task(task), reply),
            Request::Subscribe(subscribe) => self.subscribe(subscribe, reply).await,
            Request::Credit(credit) => self.credit(&credit, reply),
            Request::Resume(resume) => {
                self.resume(Command::ResumeSession { session: self.id, held: resume.held }, reply).await;
            }
            Request::Spawn(spawn) => self.command(Command::Spawn(spawn), reply),
            Request::RecordStep(record) => self.command(Command::RecordStep(record), reply),
            Request::CompleteTask(complete) => self.command(Command::CompleteTask(complete), reply),
            Request::CompleteRun(complete) => self.command(Command::CompleteRun(complete), reply),
            Request::Release(release) => self.command(Command::Release(release), reply),
            Request::ParkRun(park) => self.command(Command::ParkRun(park), reply),
            Request::EndSession(session) => {
                if let Some(one) = self.router.shared.sessions.find(session) {
                    one.connection.close(VarInt::from_u32(CLOSE_REPLACED), b"session ended");
                }
                self.command(Command::EndSession { session }, reply);
            }
            Request::ListQueues => {
                let first = |QueuePage { queues, .. }| Reply::Queues(queues);
                answer(reply, Ok(describe::queues(&self.router, None)).map(|(at, page)| (at, first(page))));
            }
            Request::DescribeQueue(name) => {
                let some = |LaneList { summary, lanes, .. }| Reply::Queue(QueueDescription { summary, lanes });
                answer(reply, self.lanes(&name).map(|(at, list)| (at, some(list))));
            }
            Request::PauseQueue(queue) => self.command(Command::PauseQueue { queue }, reply),
            Request::UnpauseQueue(queue) => self.command(Command::UnpauseQueue { queue }, reply),
            Request::DescribeRun(run) => answer(reply, describe::run(&self.router, run)),
            Request::DescribeTask(task) => answer(reply, describe::task(&self.router, task)),
            Request::DescribeNode => answer(reply, describe::node(&self.router, self.node, self.uptime())),
            Request::ListQueuesFrom(from) => {
                let checked = from.as_ref().map_or(Ok(()), QueueCursor::check);
                let page = checked.map(|()| describe::queues(&self.router, from.as_ref()));
                answer(reply, page.map(|(at, page)| (at, Reply::QueuePage(page))));
            }
            Request::DescribeLanes(name) => {
                answer(reply, self.lanes(&name).map(|(at, list)| (at, Reply::Lanes(list))));
            }
        }
    }

    /// Refuses here what the engine would refuse anyway, then proposes.
    fn command(&self, command: Command, reply: ReplyTo) {
        match command.check() {
            Ok(()) => self.router.shared.proposer.command(command, reply),
            Err(reject) => reply.refuse(reject),
        }
    }

    /// Never refused for overload: said again later, it would hand back what was leased since. For that reason, and
    /// because all of the session's leases are looked at, no connection says it twice.
    async fn resume(&self, command: Command, reply: ReplyTo) {
        if let Err(reject) = command.check() {
            return reply.refuse(reject);
        }
        if self.once.resumed.swap(true, Ordering::Relaxed) {
            return reply.refuse(Reject::ResumedBefore);
        }
        self.router.shared.proposer.insist(command, reply).await;
    }

    async fn subscribe(&self, subscribe: Subscribe, reply: ReplyTo) {
        if let Err(reject) = describe::check_subscribe(&subscribe) {
            return reply.refuse(reject);
        }
        let name = subscribe.queue.clone();
        let is_full = {
            let queues = self.queues.lock();
            queues.len() >= SUBSCRIPTIONS_PER_SESSION_MAX && !queues.contains_key(&name)
        };
        if is_full {
            let max = SUBSCRIPTIONS_PER_SESSION_MAX as u64;
            return reply.refuse(Reject::TooMany { what: "queues".into(), count: max + 1, max });
        }
        let subscription = Subscription { session: self.id, epoch: self.epoch, outbox: self.outbox.clone(), subscribe };
        match self.router.subscribe(subscription).await {
            Ok(queue) => drop(self.queues.lock().insert(name, queue)),
            Err(unavailable) => return reply.refuse(unavailable),
        }
        // The connection ended meanwhile: whoever cleared away what it left may have come too soon for this.
        if self.outbox.is_closed() {
            self.router.session_gone(self.id, self.epoch);
        }
        reply.answer(Position::default(), Ok(Reply::Done));
    }

    /// A credit for a queue that is not served means nothing. What a full session offers is used once it has ended other
    /// leases. Senders ask for no answer; one who does is told, and has offered nothing then.
    fn credit(&self, credit: &Credit, reply: ReplyTo) {
        let full = || Reject::TooManyLeases { max: LEASES_PER_SESSION_MAX as u64 };
        if credit.slots > 0 && self.router.shared.held.is_full(self.id) {
            if !self.once.full.swap(true, Ordering::Relaxed) {
                warn!(session = %self.id, code = full().code(), "more slots offered than a session may hold leases");
            }
            if reply.session().is_some() {
                return reply.refuse(full());
            }
        }
        if let Some(queue) = self.queues.lock().get(&credit.queue) {
            queue.credit(self.id, self.epoch, credit);
        }
        reply.answer(Position::default(), Ok(Reply::Done));
    }

    fn lanes(&self, queue: &Name) -> Result<(Position, LaneList), Reject> {
        check_name(queue).map(|()| describe::lanes(&self.router, queue))
    }

    fn uptime(&self) -> Duration {
        self.node_started.elapsed()
    }
}

fn answer(reply: ReplyTo, described: Result<(Position, Reply), Reject>) {
    match described {
        Ok((position, described)) => reply.answer(position, Ok(described)),
        Err(reject) => reply.refuse(Refusal::Reject(reject)),
    }
}
