//! The one `match` from effects to actors, and the leader's view of queues for the proposer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::Entry;
use coda_engine::kv::Read;
use coda_engine::query;
use coda_protocol::ids::{Name, Position, SessionId, Work};
use coda_protocol::push::Push;
use coda_protocol::reject::Refusal;
use coda_protocol::reply::Reply;
use coda_protocol::request::Release;
use coda_raft_store::group::Group;
use coda_raft_store::store::NodeStore;
use parking_lot::RwLock;
use ractor::{ActorRef, call};

use crate::dispatch::{Epoch, Taken};
use crate::messages::{LeaderMsg, QueueMsg, SupervisorMsg, TimerMsg, WorkflowMsg};
use crate::proposer::{Proposer, ReplyTo};
use crate::queue::QueueHandle;
use crate::sessions::Sessions;
use crate::waiters::Waiters;

/// What the leader's parts share. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    pub shared: Arc<Shared>,
}

pub struct Shared {
    pub group: Group,
    pub store: NodeStore,
    /// Of this leadership.
    pub term: u64,
    pub counters: Counters,
    pub sessions: Sessions,
    pub waiters: Waiters,
    pub proposer: Proposer,
    pub leader: ActorRef<LeaderMsg>,
    pub timer: ActorRef<TimerMsg>,
    pub supervisor: ActorRef<SupervisorMsg>,
    pub queues: RwLock<BTreeMap<Name, QueueHandle>>,
    pub workflows: RwLock<BTreeMap<Name, ActorRef<WorkflowMsg>>>,
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
    /// Reads applied state at one moment.
    pub fn read<T>(&self, read: impl FnOnce(&dyn Read, Position) -> T) -> T {
        let Shared { group, term, .. } = &*self.shared;
        group.read(|view, index| read(view, Position { group: group.id().0, term: *term, index }))
    }

    /// Acts on what an entry meant.
    pub async fn effects(&self, position: Position, effects: Vec<Effect>) {
        for effect in effects {
            self.effect(position, effect).await;
        }
    }

    async fn effect(&self, position: Position, effect: Effect) {
        let shared = &self.shared;
        match effect {
            Effect::TaskLeased { session, lease } => {
                let release = Release { work: Work::Task(lease.task), lease: lease.lease };
                if !shared.sessions.push(session, Push::Task(lease)) {
                    // Its session left between grant and lease.
                    shared.proposer.command(Command::Release(release), ReplyTo::Nobody);
                }
            }
            Effect::RunLeased { session, lease, has_memo } => {
                let workflow = self.workflow(&lease.workflow).await;
                self.tell(workflow, WorkflowMsg::Leased { session, lease, has_memo });
            }
            Effect::RunResumed { session, workflow, run, lease } => {
                let workflow = self.workflow(&workflow).await;
                self.tell(workflow, WorkflowMsg::Resumed { session, run, lease });
            }
            Effect::StepEnded { session, workflow, step } => {
                let workflow = self.workflow(&workflow).await;
                self.tell(workflow, WorkflowMsg::StepEnded { session, step });
            }
            Effect::LeaseLost { session, work, lease } => {
                shared.sessions.push(session, Push::LeaseLost { work, lease });
            }
            Effect::RunEnded { run, outcome } => shared.waiters.ended(Work::Run(run), &outcome, position),
            Effect::TaskEnded { task, outcome } => shared.waiters.ended(Work::Task(task), &outcome, position),
            Effect::LaneReady(lane) => {
                if let Some(queue) = self.queue(&lane.queue).await {
                    drop(queue.actor.cast(QueueMsg::LaneReady(lane)));
                }
            }
            Effect::WakeAt(at) => drop(shared.timer.cast(TimerMsg::WakeAt(at))),
            Effect::SessionHolds(session) => drop(shared.supervisor.cast(SupervisorMsg::SessionAway { session })),
            Effect::EndSessionAgain(session) => {
                shared.proposer.command(Command::EndSession { session }, ReplyTo::Nobody);
            }
        }
    }

    fn tell(&self, workflow: Option<ActorRef<WorkflowMsg>>, message: WorkflowMsg) {
        if let Some(workflow) = workflow {
            drop(workflow.cast(message));
        }
    }

    /// The queue's actor, started when this is the first that is heard of it. None when the leader is gone.
    pub async fn queue(&self, queue: &Name) -> Option<QueueHandle> {
        if let Some(known) = self.shared.queues.read().get(queue) {
            return Some(known.clone());
        }
        call!(self.shared.leader, |reply| LeaderMsg::Queue { queue: queue.clone(), reply }).ok()
    }

    async fn workflow(&self, workflow: &Name) -> Option<ActorRef<WorkflowMsg>> {
        if let Some(known) = self.shared.workflows.read().get(workflow) {
            return Some(known.clone());
        }
        call!(self.shared.leader, |reply| LeaderMsg::Workflow { workflow: workflow.clone(), reply }).ok()
    }

    /// Moves free slots into an entry: those of the queues that its commands touch, and wherever ready work waits.
    pub fn take_grants(&self, touched: Option<&BTreeSet<Name>>, entry: &mut Entry, taken: &mut Vec<Taken>) {
        for (name, queue) in self.shared.queues.read().iter() {
            let mut dispatch = queue.dispatch.lock();
            if touched.is_some_and(|touched| touched.contains(name)) || dispatch.wants_entry() {
                dispatch.take(name, entry, taken);
            }
        }
    }

    /// Returns slots that found no work.
    pub fn give_back(&self, taken: &[Taken], unused: &[u32]) {
        let queues = self.shared.queues.read();
        for (taken, unused) in taken.iter().zip(unused) {
            if *unused > 0
                && let Some(queue) = queues.get(&taken.queue)
            {
                queue.dispatch.lock().give_back(taken, *unused);
            }
        }
    }

    /// Whether an entry of grants alone is wanted.
    #[must_use]
    pub fn wants_entry(&self) -> bool {
        self.shared.queues.read().values().any(|queue| queue.dispatch.lock().wants_entry())
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
                let outcome = match work {
                    Work::Run(run) => query::run_outcome(view, group, run),
                    Work::Task(task) => query::task_outcome(view, group, task),
                };
                // Ends are applied by the loop that calls this: none can slip in between.
                match outcome {
                    Ok(Some(outcome)) => reply.answer(position, Ok(Reply::Ended(outcome))),
                    Ok(None) => shared.waiters.add(work, reply),
                    Err(reject) => reply.answer(position, Err(Refusal::Reject(reject))),
                }
            }
        });
    }

    /// A connection is gone: nothing more is leased to it or answered on it.
    pub fn session_gone(&self, session: SessionId, epoch: Epoch) {
        self.shared.waiters.gone(session, epoch);
        for queue in self.shared.queues.read().values() {
            queue.dispatch.lock().unsubscribe(session, epoch);
        }
    }
}
