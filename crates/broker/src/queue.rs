//! The actor of one queue: asks for an entry when ready work meets a free slot and nothing else would make one.

use std::sync::Arc;

use coda_protocol::ids::SessionId;
use coda_protocol::request::Credit;
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::dispatch::{Dispatch, Epoch};
use crate::messages::QueueMsg;
use crate::proposer::Proposer;

/// A queue as its leader's other parts see it.
#[derive(Clone)]
pub struct QueueHandle {
    pub actor: ActorRef<QueueMsg>,
    pub dispatch: Arc<Mutex<Dispatch>>,
    proposer: Proposer,
}

impl QueueHandle {
    /// Adds free slots, before anything the same session says next.
    pub fn credit(&self, session: SessionId, epoch: Epoch, credit: &Credit) {
        if self.dispatch.lock().credit(session, epoch, credit.kind, credit.slots) {
            self.proposer.kick();
        }
    }
}

pub struct Queue;

pub struct QueueState {
    dispatch: Arc<Mutex<Dispatch>>,
    proposer: Proposer,
}

impl Queue {
    /// Starts the actor under its leader.
    ///
    /// # Errors
    /// When the leader is stopping.
    pub async fn start(
        leader: &ActorRef<crate::messages::LeaderMsg>,
        proposer: Proposer,
    ) -> Result<QueueHandle, ActorProcessingErr> {
        let dispatch = Arc::new(Mutex::new(Dispatch::default()));
        let state = QueueState { dispatch: dispatch.clone(), proposer: proposer.clone() };
        let (actor, _) = Actor::spawn_linked(None, Self, state, leader.get_cell()).await?;
        Ok(QueueHandle { actor, dispatch, proposer })
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
        message: QueueMsg,
        state: &mut QueueState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            QueueMsg::LaneReady(lane) => {
                if state.dispatch.lock().lane_ready(lane) {
                    state.proposer.kick();
                }
            }
        }
        Ok(())
    }
}
