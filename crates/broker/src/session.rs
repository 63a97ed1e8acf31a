//! One connection of a client or worker: what it says becomes commands, questions and credits.
//!
//! The struct [`Session`] decides on frames and knows no socket; the actor beside it owns the connection's tasks, so
//! that a panic in any of them closes that connection and nothing else.

mod withdraw;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coda_engine::command::Command;
use coda_protocol::frame::{CLOSE_REPLACED, Frame, FrameError};
use coda_protocol::ids::{GroupId, Name, Position, SessionId, Slot, Slotted, Work};
use coda_protocol::limits::{LEASES_PER_SESSION_MAX, REQUESTS_IN_FLIGHT_MAX, SUBSCRIPTIONS_PER_SESSION_MAX};
use coda_protocol::planted::{self, Bug};
use coda_protocol::reject::{Refusal, Reject, Unavailable};
use coda_protocol::reply::{LaneList, QueueCursor, QueueDescription, QueuePage, Reply};
use coda_protocol::request::{Credit, Request, Resume, Subscribe};
use parking_lot::Mutex;
use quinn::VarInt;
use tokio::task::JoinSet;
use tracing::warn;

use crate::cluster::{self, everyone};
use crate::config::RETRY_AFTER_MS;
use crate::describe::{self, Described, Seen};
use crate::dispatch::Epoch;
use crate::free_slots::FreeSlots;
use crate::host::Host;
use crate::messages::Subscription;
use crate::outbox::Outbox;
use crate::proposer::ReplyTo;
use crate::router::Router;

/// What a connection's requests are answered with.
pub struct Session {
    pub id: SessionId,
    pub epoch: Epoch,
    pub outbox: Outbox,
    pub host: Host,
    pub serving: Mutex<Serving>,
    /// Complained about once.
    pub told_full: AtomicBool,
}

/// What a connection has said about its work.
#[derive(Default)]
pub struct Serving {
    queues: BTreeMap<Name, Served>,
    /// The groups whose work may be leased to it, each since a leadership to which it said what it holds.
    resumed: BTreeMap<GroupId, u64>,
}

#[derive(Clone)]
struct Served {
    subscribe: Subscribe,
    slots: Arc<FreeSlots>,
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
            0 => ReplyTo::nobody(),
            id => {
                let reply = ReplyTo::session_of(self.id, self.epoch, self.outbox.clone(), id);
                if self.outbox.expect_answer() > REQUESTS_IN_FLIGHT_MAX {
                    if let Request::Withdraw(_) = request {
                        return withdraw::nothing(reply);
                    }
                    return reply.refuse(Unavailable::Overloaded { retry_after_ms: RETRY_AFTER_MS });
                }
                reply
            }
        };
        match request {
            Request::StartRun(start) => self.command(start.run.slot(), Command::StartRun(start), reply),
            Request::SubmitTask(submit) => self.command(submit.task.slot(), Command::SubmitTask(submit), reply),
            Request::AwaitRun(run) => self.wait_for(Work::Run(run), reply),
            Request::AwaitTask(task) => self.wait_for(Work::Task(task), reply),
            Request::Subscribe(subscribe) => self.subscribe(subscribe, reply).await,
            Request::Credit(credit) => self.credit(&credit, reply),
            Request::Resume(resume) => self.resume(resume, reply).await,
            Request::Spawn(spawn) => self.command(spawn.run.slot(), Command::Spawn(spawn), reply),
            Request::RecordStep(record) => self.command(record.run.slot(), Command::RecordStep(record), reply),
            Request::CompleteTask(done) => self.command(done.task.slot(), Command::CompleteTask(done), reply),
            Request::CompleteRun(done) => self.command(done.run.slot(), Command::CompleteRun(done), reply),
            Request::Release(release) => self.command(release.work.slot(), Command::Release(release), reply),
            Request::ParkRun(park) => self.command(park.run.slot(), Command::ParkRun(park), reply),
            Request::EndSession(session) => {
                if let Some(one) = self.host.sessions.find(session) {
                    one.connection.close(VarInt::from_u32(CLOSE_REPLACED), b"session ended");
                }
                self.everywhere(Command::EndSession { session }, reply);
            }
            Request::PauseQueue(queue) => self.everywhere(Command::PauseQueue { queue }, reply),
            Request::UnpauseQueue(queue) => self.everywhere(Command::UnpauseQueue { queue }, reply),
            Request::DescribeRun(run) => self.describe(run.slot(), reply, move |router| describe::run(router, run)),
            Request::DescribeTask(task) => {
                self.describe(task.slot(), reply, move |router| describe::task(router, task));
            }
            Request::DescribeNode => reply.answer(Position::NOWHERE, Ok(describe::node(&self.host))),
            Request::ListQueues => {
                let first = |QueuePage { queues, .. }| Reply::Queues(queues);
                self.everyone(reply, |host| async move {
                    everyone::queues(&host, None).await.map(|(at, page)| (at, first(page)))
                });
            }
            Request::DescribeQueue(name) => {
                let some = |LaneList { summary, lanes, .. }| Reply::Queue(QueueDescription { summary, lanes });
                self.everyone(reply, |host| async move {
                    everyone::lanes(&host, &name).await.map(|(at, list)| (at, some(list)))
                });
            }
            Request::ListQueuesFrom(from) => self.everyone(reply, |host| async move {
                from.as_ref().map_or(Ok(()), QueueCursor::check)?;
                everyone::queues(&host, from).await.map(|(at, page)| (at, Reply::QueuePage(page)))
            }),
            Request::DescribeLanes(name) => self.everyone(reply, |host| async move {
                everyone::lanes(&host, &name).await.map(|(at, list)| (at, Reply::Lanes(list)))
            }),
            Request::Cluster(request) => {
                self.everyone(reply, |host| async move { cluster::operate(&host, request).await });
            }
            Request::Withdraw(withdraw) => self.withdraw(&withdraw, reply),
        }
    }

    /// Refuses here what the engine would refuse anyway, then proposes where the slot is led.
    fn command(&self, slot: Slot, command: Command, reply: ReplyTo) {
        if let Err(reject) = command.check() {
            return reply.refuse(reject);
        }
        match self.host.led_of(slot) {
            Ok(router) => router.shared.proposer.command(command, reply),
            Err(refusal) => reply.refuse(refusal),
        }
    }

    fn wait_for(&self, work: Work, reply: ReplyTo) {
        match self.host.led_of(work.slot()) {
            Ok(router) => router.shared.proposer.wait_for(work, reply),
            Err(refusal) => reply.refuse(refusal),
        }
    }

    fn describe(&self, slot: Slot, reply: ReplyTo, describe: impl FnOnce(&Router) -> Seen + Send + 'static) {
        let led = self.host.led_of(slot);
        tokio::spawn(async move {
            let confirmed = async {
                let router = led?;
                if !planted::is(Bug::StaleRead) {
                    router.confirm().await?;
                }
                Ok::<_, Refusal>(router)
            };
            match confirmed.await {
                Ok(router) => {
                    let (position, seen) = describe(&router);
                    reply.answer(position, seen.map_err(Refusal::Reject));
                }
                Err(refusal) => reply.refuse(refusal),
            }
        });
    }

    /// Answers what may need other nodes, without keeping those waiting that come behind.
    fn everyone<F>(&self, reply: ReplyTo, ask: impl FnOnce(Host) -> F)
    where
        F: Future<Output = Described> + Send + 'static,
    {
        let asked = ask(self.host.clone());
        tokio::spawn(async move { answer(reply, asked.await) });
    }

    /// Proposes a command that concerns all groups, in each of them. Done when all have done it; said again, it does no
    /// harm where it was done before.
    fn everywhere(&self, command: Command, reply: ReplyTo) {
        if let Err(reject) = command.check() {
            return reply.refuse(reject);
        }
        let groups = match self.host.groups() {
            Ok(groups) => groups,
            Err(reject) => return reply.refuse(reject),
        };
        if let [group] = &groups[..]
            && let Ok(router) = self.host.led(*group)
        {
            return router.shared.proposer.command(command, reply);
        }
        let host = self.host.clone();
        tokio::spawn(async move {
            let mut done = JoinSet::new();
            for group in groups {
                let (host, command) = (host.clone(), command.clone());
                done.spawn(async move { host.asking.clone().propose(&host, group, command).await });
            }
            let mut last = Ok((Position::NOWHERE, Reply::Done));
            while let Some(Ok(answer)) = done.join_next().await {
                last = last.and(answer);
            }
            answer(reply, last);
        });
    }

    /// Never refused for overload: said again later, it would hand back what was leased since. For that reason, and
    /// because all of the session's leases are looked at, no connection says it twice to one leader.
    async fn resume(&self, resume: Resume, reply: ReplyTo) {
        let Resume { group, held } = resume;
        let command = Command::ResumeSession { session: self.id, held };
        if let Err(reject) = command.check() {
            return reply.refuse(reject);
        }
        let router = match self.host.led(group) {
            Ok(router) => router,
            Err(unavailable) => return reply.refuse(unavailable),
        };
        let term = router.shared.term;
        let queues: Vec<Served> = {
            let mut serving = self.serving.lock();
            if serving.resumed.insert(group, term) == Some(term) {
                drop(serving);
                return reply.refuse(Reject::ResumedBefore);
            }
            serving.queues.values().cloned().collect()
        };
        router.shared.proposer.insist(command, reply).await;
        for served in queues {
            let subscription = self.subscription(&served);
            if let Err(Unavailable::Overloaded { .. }) = router.subscribe(subscription.clone()).await {
                warn!(session = %self.id, group = group.0, "as many queues as a group serves, trying again");
                tokio::spawn(insist(router.clone(), subscription));
            }
        }
        self.clear_if_gone();
    }

    async fn subscribe(&self, subscribe: Subscribe, reply: ReplyTo) {
        if let Err(reject) = describe::check_subscribe(&subscribe) {
            return reply.refuse(reject);
        }
        let name = subscribe.queue.clone();
        let served = Served { subscribe, slots: Arc::default() };
        let resumed = {
            let mut serving = self.serving.lock();
            if serving.queues.len() >= SUBSCRIPTIONS_PER_SESSION_MAX && !serving.queues.contains_key(&name) {
                drop(serving);
                let max = SUBSCRIPTIONS_PER_SESSION_MAX as u64;
                return reply.refuse(Reject::TooMany { what: "queues".into(), count: max + 1, max });
            }
            serving.queues.insert(name, served.clone());
            serving.resumed.clone()
        };
        let mut result = Ok(Reply::Done);
        for router in resumed.iter().filter_map(|(group, term)| self.host.routes.get_in(*group, *term)) {
            if let Err(unavailable @ Unavailable::Overloaded { .. }) =
                router.subscribe(self.subscription(&served)).await
            {
                result = Err(unavailable.into());
            }
        }
        self.clear_if_gone();
        reply.answer(Position::NOWHERE, result);
    }

    fn subscription(&self, Served { subscribe, slots }: &Served) -> Subscription {
        let (outbox, subscribe, slots) = (self.outbox.clone(), subscribe.clone(), slots.clone());
        Subscription { session: self.id, epoch: self.epoch, outbox, subscribe, slots }
    }

    /// The connection ended meanwhile: whoever cleared away what it left may have come too soon for what it left since.
    fn clear_if_gone(&self) {
        if self.outbox.is_closed() {
            self.host.session_gone(self.id, self.epoch);
        }
    }

    /// A credit for a queue that is not served means nothing. What a full session offers is used once it has ended other
    /// leases. Senders ask for no answer; one who does is told, and has offered nothing then.
    fn credit(&self, credit: &Credit, reply: ReplyTo) {
        let full = || Reject::TooManyLeases { max: LEASES_PER_SESSION_MAX as u64 };
        let routers = self.host.routes.all();
        if credit.slots > 0 && routers.iter().any(|router| router.shared.held.is_full(self.id)) {
            if !self.told_full.swap(true, Ordering::Relaxed) {
                warn!(session = %self.id, code = full().code(), "more slots offered than a session may hold leases");
            }
            if reply.session().is_some() {
                return reply.refuse(full());
            }
        }
        let served = self.serving.lock().queues.get(&credit.queue).cloned();
        if let Some(served) = served {
            served.slots.add(credit.kind, credit.slots);
            routers.iter().for_each(|router| router.slots_added(&credit.queue));
        }
        reply.answer(Position::NOWHERE, Ok(Reply::Done));
    }
}

/// Subscribes once there is room. The session has been told that it serves the queue.
async fn insist(router: Router, subscription: Subscription) {
    loop {
        tokio::time::sleep(Duration::from_millis(RETRY_AFTER_MS)).await;
        if subscription.outbox.is_closed() {
            return;
        }
        if !matches!(router.subscribe(subscription.clone()).await, Err(Unavailable::Overloaded { .. })) {
            break;
        }
    }
    if subscription.outbox.is_closed() {
        router.session_gone(subscription.session, subscription.epoch);
    }
}

fn answer(reply: ReplyTo, described: Described) {
    match described {
        Ok((position, described)) => reply.answer(position, Ok(described)),
        Err(refusal) => reply.refuse(refusal),
    }
}
