//! The actor of one queue: finds in state which of the lanes that somebody serves hold ready work, when no hint has named
//! them. Hints, subscriptions and credits come without a bound, and so not through its mailbox: see [`QueueHandle`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coda_engine::entry::Lane;
use coda_engine::query;
use coda_protocol::ids::Name;
use coda_raft_store::group::Group;
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::dispatch::Dispatch;
use crate::held::Held;
use crate::messages::{LeaderMsg, QueueMsg, Subscription};
use crate::proposer::Proposer;

/// A queue as its leader's other parts see it.
#[derive(Clone)]
pub struct QueueHandle {
    pub actor: ActorRef<QueueMsg>,
    pub dispatch: Arc<Mutex<Dispatch>>,
    proposer: Proposer,
    /// The actor was asked to look and has not begun.
    asked: Arc<AtomicBool>,
}

impl QueueHandle {
    /// A session serves the queue.
    pub fn subscribe(&self, subscription: &Subscription) {
        let Subscription { session, epoch, subscribe, slots, .. } = subscription;
        self.dispatch.lock().subscribe(*session, *epoch, subscribe.clone(), slots.clone());
    }

    /// Slots of a subscriber have become free.
    pub fn slots_added(&self) {
        if self.dispatch.lock().wants_entry() {
            self.proposer.kick();
        }
    }

    /// Slots of a subscriber have gone, and it perhaps with them: what waits for others now is to be seen.
    pub fn slots_gone(&self) {
        if self.dispatch.lock().lanes() > 0 {
            self.proposer.kick();
        }
    }

    /// A lane holds ready work.
    pub fn lane_ready(&self, lane: Lane) {
        if self.dispatch.lock().lane_ready(lane) {
            self.proposer.kick();
        }
    }

    /// Any lane may hold ready work. However often it is said, one message waits.
    pub fn look(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            drop(self.actor.cast(QueueMsg::Look));
        }
    }
}

pub struct Queue;

pub struct QueueState {
    name: Name,
    group: Group,
    dispatch: Arc<Mutex<Dispatch>>,
    proposer: Proposer,
    asked: Arc<AtomicBool>,
}

impl Queue {
    /// Starts the actor under its leader.
    ///
    /// # Errors
    /// When the leader is stopping.
    pub async fn start(
        leader: &ActorRef<LeaderMsg>,
        name: Name,
        group: Group,
        proposer: Proposer,
        held: Arc<Held>,
    ) -> Result<QueueHandle, ActorProcessingErr> {
        let dispatch = Arc::new(Mutex::new(Dispatch::new(held)));
        let asked = Arc::new(AtomicBool::new(false));
        let state =
            QueueState { name, group, dispatch: dispatch.clone(), proposer: proposer.clone(), asked: asked.clone() };
        let (actor, _) = Actor::spawn_linked(None, Self, state, leader.get_cell()).await?;
        Ok(QueueHandle { actor, dispatch, proposer, asked })
    }
}

impl QueueState {
    fn look(&self) {
        // Before the look: what becomes ready during it asks again.
        self.asked.store(false, Ordering::Release);
        let services = self.dispatch.lock().services();
        for service in services {
            let lane = |name: &Name| Lane { queue: self.name.clone(), kind: service.kind, name: name.clone() };
            let mut lanes: Vec<Lane> = service.names.iter().map(lane).collect();
            self.group.read(|view, _| lanes.retain(|lane| query::is_ready(view, self.group.id(), lane)));
            let mut dispatch = self.dispatch.lock();
            for lane in lanes {
                dispatch.lane_ready(lane);
            }
            // For slots, or to be seen to wait for some.
            if dispatch.lanes() > 0 {
                self.proposer.kick();
            }
        }
    }
}

impl Actor for Queue {
    type Msg = QueueMsg;
    type State = QueueState;
    type Arguments = QueueState;

    async fn pre_start(&self, _: ActorRef<QueueMsg>, state: QueueState) -> Result<QueueState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<QueueMsg>,
        QueueMsg::Look: QueueMsg,
        state: &mut QueueState,
    ) -> Result<(), ActorProcessingErr> {
        state.look();
        Ok(())
    }
}
