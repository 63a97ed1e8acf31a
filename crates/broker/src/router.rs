//! The one `match` from effects to actors, and the leader's view of queues for the proposer.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::{Entry, Lane};
use coda_engine::kv::Read;
use coda_engine::query;
use coda_protocol::ids::{GroupId, LeaseId, Name, NodeId, Position, RunId, SessionId, Work, WorkKind};
use coda_protocol::push::{GroupLeader, MEMO_PAGES_OPEN, Push};
use coda_protocol::reject::{Refusal, Unavailable};
use coda_protocol::reply::Reply;
use coda_protocol::request::{Release, Subscribe};
use coda_raft_store::group::Group;
use parking_lot::{Mutex, RwLock};
use ractor::{ActorRef, call};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::config::{QUEUES_SERVED_MAX, RETRY_AFTER_MS, WORKFLOW_ACTORS_MAX};
use crate::dispatch::{Backlog, Epoch, Room, Starved, Taken};
use crate::held::Held;
use crate::messages::{LeaderMsg, Subscription, SupervisorMsg, TimerMsg, WorkflowMsg};
use crate::outbox::Outbox;
use crate::proposer::{Proposer, ReplyTo};
use crate::queue::QueueHandle;
use crate::routes::Routes;
use crate::sessions::Sessions;
use crate::waiters::Waiters;
use crate::workflow::Delivery;

/// How often it is looked whether what was proposed is applied.
const HOLD_LOOK: Duration = Duration::from_millis(1);

/// What the leader's parts share. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    pub shared: Arc<Shared>,
}

pub struct Shared {
    pub group: Group,
    /// Of this leadership.
    pub term: u64,
    pub counters: Counters,
    pub sessions: Sessions,
    /// The other groups that are led here.
    pub routes: Routes,
    pub waiters: Waiters,
    pub proposer: Proposer,
    pub leader: ActorRef<LeaderMsg>,
    pub timer: ActorRef<TimerMsg>,
    pub supervisor: ActorRef<SupervisorMsg>,
    /// Those with a subscriber.
    pub queues: RwLock<BTreeMap<Name, QueueHandle>>,
    pub held: Arc<Held>,
    /// By the hash of the workflow's name.
    pub workflows: RwLock<BTreeMap<u64, ActorRef<WorkflowMsg>>>,
    /// Which queue is first in the next entry.
    pub turn: AtomicUsize,
    /// Nothing is proposed before then.
    pub held_until: Mutex<Option<Instant>>,
}

/// Totals of this leadership.
#[derive(Default)]
pub struct Counters {
    pub entries: AtomicU64,
    pub commands: AtomicU64,
    pub leases: AtomicU64,
    pub rejects: AtomicU64,
}

impl Router {
    /// Which leadership it is of.
    #[must_use]
    pub fn key(&self) -> (GroupId, u64) {
        (self.shared.group.id(), self.shared.term)
    }

    /// What sessions are told of this leadership.
    #[must_use]
    pub fn leader(&self, node: NodeId) -> GroupLeader {
        GroupLeader { group: self.shared.group.id(), term: self.shared.term, leader: Some(node) }
    }

    /// Makes sure with a quorum that this is still the leadership: what is read then is what everybody was told.
    ///
    /// # Errors
    /// [`Unavailable::NotLeader`].
    pub async fn confirm(&self) -> Result<(), Unavailable> {
        self.shared.group.linearize().await.map(drop).map_err(|_| Unavailable::NotLeader { leader: None })
    }

    /// Proposes nothing for so long, and waits until all that was proposed is applied here: what all copies come to then is
    /// equal. The index of it.
    pub async fn hold(&self, now: Instant, time: Duration) -> u64 {
        *self.shared.held_until.lock() = Some(now + time);
        let settled = async {
            loop {
                let status = self.shared.group.status();
                if status.applied == status.last_log {
                    return status.applied.unwrap_or_default();
                }
                sleep(HOLD_LOOK).await;
            }
        };
        match timeout(time, settled).await {
            Ok(index) => index,
            Err(_) => self.shared.group.status().applied.unwrap_or_default(),
        }
    }

    /// Waits while [`Router::hold`] holds.
    pub async fn wait_while_held(&self) {
        let until = *self.shared.held_until.lock();
        if let Some(until) = until {
            sleep_until(until).await;
            let mut held = self.shared.held_until.lock();
            if *held == Some(until) {
                *held = None;
            }
        }
    }

    /// Reads applied state at one moment, with the position of the last entry in it.
    pub fn read<T>(&self, read: impl FnOnce(&dyn Read, Position) -> T) -> T {
        self.shared.group.read_at(read)
    }

    /// Acts on what an entry meant.
    pub async fn effects(&self, position: Position, effects: Vec<Effect>, granted: &Granted) {
        for effect in effects {
            self.effect(position, effect, granted).await;
        }
    }

    async fn effect(&self, position: Position, effect: Effect, granted: &Granted) {
        let shared = &self.shared;
        match effect {
            Effect::TaskLeased { session, lease } => {
                let release = Release { work: Work::Task(lease.task), lease: lease.lease };
                if self.lease_to(session, granted, Push::Task(lease)).is_none() {
                    // Its session left between grant and lease.
                    shared.proposer.insist_soon(Command::Release(release));
                }
            }
            Effect::RunLeased { session, mut lease, has_memo } => {
                let (run, id, workflow) = (lease.run, lease.lease, lease.workflow.clone());
                lease.memo_pages = if has_memo { MEMO_PAGES_OPEN } else { 0 };
                match self.lease_to(session, granted, Push::Run(lease)) {
                    Some(outbox) if has_memo => self.send_memo(outbox, &workflow, run, id).await,
                    Some(_) => {}
                    // As for a task.
                    None => shared.proposer.insist_soon(Command::Release(Release { work: Work::Run(run), lease: id })),
                }
            }
            Effect::MemoWanted { session, workflow, run, lease } => {
                if let Some(outbox) = shared.sessions.outbox(session) {
                    self.send_memo(outbox, &workflow, run, lease).await;
                }
            }
            // Behind the run, which was pushed when it was leased; before, after or among the pages of its memo.
            Effect::StepEnded { session, step } => drop(shared.sessions.push(session, Push::Step(step))),
            Effect::LeaseLost { session, work, lease } => {
                shared.sessions.push(session, Push::LeaseLost { work, lease });
            }
            Effect::RunEnded { run, outcome } => shared.waiters.ended(Work::Run(run), &outcome, position),
            Effect::TaskEnded { task, outcome } => shared.waiters.ended(Work::Task(task), &outcome, position),
            Effect::LaneReady(lane) => {
                // Without a subscriber it waits in state, where the first one finds it.
                if let Some(queue) = shared.queues.read().get(&lane.queue) {
                    queue.lane_ready(lane);
                }
            }
            Effect::QueueUnpaused(queue) => {
                if let Some(queue) = shared.queues.read().get(&queue) {
                    queue.look();
                }
            }
            Effect::LeasesEnded { session, count } => shared.held.ended(session, count),
            Effect::WakeAt(at) => drop(shared.timer.cast(TimerMsg::WakeAt(at))),
            Effect::SessionHolds(session) => drop(shared.supervisor.cast(SupervisorMsg::SessionAway { session })),
            Effect::EndSessionAgain(session) => {
                shared.proposer.insist_soon(Command::EndSession { session });
            }
            // Only of the meta group; who follows the map asks for its version.
            Effect::MapChanged(_) => {}
        }
    }

    /// Pushes a lease, if the connection that offered its slot is still there. A session that is behind by now is granted
    /// no more until it has caught up.
    fn lease_to(&self, session: SessionId, granted: &Granted, push: Push) -> Option<Outbox> {
        let outbox = self.shared.sessions.outbox_of(session, granted.epoch(session))?;
        if !outbox.push(push) {
            return None;
        }
        if outbox.is_behind() && self.shared.held.set_behind(session, true) {
            let (outbox, held, proposer) = (outbox.clone(), self.shared.held.clone(), self.shared.proposer.clone());
            tokio::spawn(async move {
                outbox.caught_up().await;
                held.set_behind(session, false);
                proposer.kick();
            });
        }
        Some(outbox)
    }

    /// Has a memo read and sent, unless it is on its way already.
    async fn send_memo(&self, outbox: Outbox, workflow: &Name, run: RunId, lease: LeaseId) {
        if outbox.want_memo(run, lease)
            && let Some(workflow) = self.workflow(workflow).await
        {
            Delivery::new(outbox, run, lease).go_on(&workflow);
        }
    }

    /// A session serves a queue from now on. The first subscriber starts the queue's actor.
    ///
    /// # Errors
    /// When the leader is gone, or serves too many queues already.
    pub async fn subscribe(&self, subscription: Subscription) -> Result<(), Unavailable> {
        let Subscribe { queue, tasks, workflows } = &subscription.subscribe;
        let names = |kind, names: &[Name]| {
            let lane = |name: &Name| Lane { queue: queue.clone(), kind, name: name.clone() };
            names.iter().map(lane).collect::<Vec<_>>()
        };
        let mut lanes = names(WorkKind::Task, tasks);
        lanes.extend(names(WorkKind::Run, workflows));
        let queue = loop {
            if let Some(queue) = self.subscribe_to(&subscription) {
                break queue;
            }
            let first = subscription.clone();
            let started = call!(self.shared.leader, |reply| LeaderMsg::Queue { first, reply });
            match started {
                Ok(true) => {}
                Ok(false) => return Err(Unavailable::Overloaded { retry_after_ms: RETRY_AFTER_MS }),
                Err(_) => return Err(Unavailable::NotLeader { leader: None }),
            }
        };
        // Read behind the subscription: a lane that becomes ready now is hinted at, one that was is seen here.
        let group = self.shared.group.id();
        self.read(|view, _| lanes.retain(|lane| query::is_ready(view, group, lane)));
        lanes.into_iter().for_each(|lane| queue.lane_ready(lane));
        queue.slots_gone();
        Ok(())
    }

    /// A subscriber of the queue has free slots.
    pub fn slots_added(&self, queue: &Name) {
        if let Some(queue) = self.shared.queues.read().get(queue) {
            queue.slots_added();
        }
    }

    /// Free slots of a subscriber were taken back.
    pub fn slots_gone(&self, queue: &Name) {
        if let Some(queue) = self.shared.queues.read().get(queue) {
            queue.slots_gone();
        }
    }

    /// Under the lock, so that the queue cannot be dropped for want of subscribers meanwhile.
    fn subscribe_to(&self, subscription: &Subscription) -> Option<QueueHandle> {
        let queues = self.shared.queues.read();
        let queue = queues.get(&subscription.subscribe.queue)?;
        queue.subscribe(subscription);
        Some(queue.clone())
    }

    /// Whether another queue may be served; `None` when it is already.
    #[must_use]
    pub fn has_room_for(&self, queue: &Name) -> Option<bool> {
        let queues = self.shared.queues.read();
        if queues.contains_key(queue) { None } else { Some(queues.len() < QUEUES_SERVED_MAX) }
    }

    async fn workflow(&self, workflow: &Name) -> Option<ActorRef<WorkflowMsg>> {
        let mut hasher = DefaultHasher::new();
        workflow.hash(&mut hasher);
        let place = hasher.finish() % WORKFLOW_ACTORS_MAX;
        if let Some(known) = self.shared.workflows.read().get(&place) {
            return Some(known.clone());
        }
        call!(self.shared.leader, |reply| LeaderMsg::Workflow { place, reply }).ok()
    }

    /// Moves free slots into an entry: those of the queues that its commands touch, and wherever ready work waits.
    pub fn take_grants(&self, touched: Option<&BTreeSet<Name>>, entry: &mut Entry, taken: &mut Vec<Taken>) {
        let mut room = Room::default();
        let share = self.shared.routes.count().max(1) as u32;
        let queues = self.shared.queues.read();
        // Each entry starts with another queue, so that none is always the last under the bounds of an entry.
        let first = self.shared.turn.fetch_add(1, Ordering::Relaxed) % queues.len().max(1);
        for (name, queue) in queues.iter().skip(first).chain(queues.iter().take(first)) {
            if room.is_full() {
                return;
            }
            let mut dispatch = queue.dispatch.lock();
            if touched.is_some_and(|touched| touched.contains(name)) || dispatch.wants_entry() {
                dispatch.take(name, share, entry, taken, &mut room);
            }
        }
    }

    /// An entry is committed: returns slots that found no work.
    pub fn give_back(&self, taken: &[Taken], unused: &[u32]) {
        let mut any = false;
        for (taken, unused) in taken.iter().zip(unused) {
            self.shared.held.committed(taken.session, taken.slots, *unused);
            taken.from.add(taken.kind, *unused);
            any |= *unused > 0;
        }
        if any && self.shared.routes.count() > 1 {
            let wanting = |router: &Router| router.shared.group.id() != self.shared.group.id() && router.wants_entry();
            self.shared.routes.all().iter().filter(|router| wanting(router)).for_each(|r| r.shared.proposer.kick());
        }
    }

    /// Whether an entry of grants alone is wanted. Asked after each entry and each kick, so that it is seen here, too, what
    /// no entry helps: work that waits for slots.
    #[must_use]
    pub fn wants_entry(&self) -> bool {
        if self.shared.proposer.is_disk_full() {
            return false;
        }
        let mut wanted = false;
        for (name, queue) in self.shared.queues.read().iter() {
            let Backlog { meets_slots, starves } = queue.dispatch.lock().backlog();
            wanted |= meets_slots;
            if starves {
                self.shared.routes.starving().say(name);
            }
        }
        wanted
    }

    /// What of a queue waits for slots here, and who could do it.
    #[must_use]
    pub fn starved(&self, queue: &Name, lanes_max: usize) -> Vec<Starved> {
        let queues = self.shared.queues.read();
        queues.get(queue).map(|queue| queue.dispatch.lock().starved(lanes_max)).unwrap_or_default()
    }

    /// Answers those whose work has ended already, and remembers the others.
    pub fn await_ends(&self, awaits: Vec<(Work, ReplyTo)>) {
        if awaits.is_empty() {
            return;
        }
        let shared = &self.shared;
        let group = shared.group.id();
        self.read(|view, position| {
            for (work, reply) in awaits {
                // An outcome may be large: it is not read for a connection that could not take it.
                if reply.is_closed() {
                    continue;
                }
                let outcome = match work {
                    Work::Run(run) => query::run_outcome(view, group, run),
                    Work::Task(task) => query::task_outcome(view, group, task),
                };
                // Ends are applied by the loop that calls this: none can slip in between.
                match outcome {
                    Ok(Some(outcome)) => reply.answer(position, Ok(Reply::Ended(outcome))),
                    Ok(None) => shared.waiters.add(work, reply),
                    // What has ended has ended for good, and who waits is answered by nobody else. But whoever leads no
                    // longer, and has not heard of it, may have missed how this began.
                    Err(reject) => {
                        let router = self.clone();
                        tokio::spawn(async move {
                            if router.confirm().await.is_ok() {
                                reply.answer(position, Err(Refusal::Reject(reject)));
                            }
                        });
                    }
                }
            }
        });
    }

    /// A connection is gone: nothing more is leased to it or answered on it. Its outbox was closed before.
    pub fn session_gone(&self, session: SessionId, epoch: Epoch) {
        self.shared.waiters.gone(session, epoch);
        let mut left = Vec::new();
        for (name, queue) in self.shared.queues.read().iter() {
            let mut dispatch = queue.dispatch.lock();
            if !dispatch.unsubscribe(session, epoch) {
                continue;
            }
            if dispatch.workers() == 0 {
                left.push(name.clone());
            }
            drop(dispatch);
            queue.slots_gone();
        }
        for name in left {
            let mut queues = self.shared.queues.write();
            if queues.get(&name).is_some_and(|queue| queue.dispatch.lock().workers() == 0)
                && let Some(queue) = queues.remove(&name)
            {
                queue.actor.stop(None);
            }
        }
    }

    /// Whether the session holds leases that would have to be handed back without it.
    #[must_use]
    pub fn holds_leases(&self, session: SessionId) -> bool {
        self.read(|view, _| query::holds_leases(view, self.shared.group.id(), session))
    }
}

/// The slots that travel with an entry. Where nobody learns what became of it, they are free again: it has pushed no lease,
/// and what it may have leased is handed back when its sessions tell the next leader what they hold.
pub struct Riding {
    router: Router,
    pub taken: Vec<Taken>,
}

impl Riding {
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self { router, taken: Vec::new() }
    }

    /// The entry is committed.
    #[must_use]
    pub fn arrived(mut self) -> Vec<Taken> {
        std::mem::take(&mut self.taken)
    }
}

impl Drop for Riding {
    fn drop(&mut self) {
        let unused: Vec<u32> = self.taken.iter().map(|taken| taken.slots).collect();
        self.router.give_back(&self.taken, &unused);
    }
}

/// On which connections the grants of an entry were offered: only there their leases are expected.
#[derive(Default)]
pub struct Granted(BTreeMap<SessionId, Epoch>);

impl Granted {
    #[must_use]
    pub fn of(taken: &[Taken]) -> Self {
        let mut epochs = BTreeMap::new();
        for taken in taken {
            // Of two connections within one entry the older counts: what it does not get is handed back.
            epochs
                .entry(taken.session)
                .and_modify(|epoch: &mut Epoch| *epoch = taken.epoch.min(*epoch))
                .or_insert(taken.epoch);
        }
        Self(epochs)
    }

    fn epoch(&self, session: SessionId) -> Epoch {
        self.0.get(&session).copied().unwrap_or_default()
    }
}
