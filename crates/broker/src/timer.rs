//! The timer of a group: proposes a tick when the next thing is due. Never early: the proposer's clock decides.

use std::sync::Arc;
use std::time::Duration;

use coda_engine::command::Command;
use coda_protocol::ids::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::clock::Clock;
use crate::messages::{AbortOnDrop, LeaderMsg, TimerMsg};
use crate::proposer::Proposer;

/// The clock is looked at again at least this often: it may be set while we sleep.
const SLEEP_MAX: Duration = Duration::from_secs(60);

pub struct Timer;

pub struct TimerState {
    proposer: Proposer,
    clock: Arc<dyn Clock>,
    next: Option<Timestamp>,
    sleep: Option<AbortOnDrop>,
}

impl Timer {
    /// Starts the actor under its leader.
    ///
    /// # Errors
    /// When the leader is stopping.
    pub async fn start(
        leader: &ActorRef<LeaderMsg>,
        proposer: Proposer,
        clock: Arc<dyn Clock>,
    ) -> Result<ActorRef<TimerMsg>, ActorProcessingErr> {
        let state = TimerState { proposer, clock, next: None, sleep: None };
        let (actor, _) = Actor::spawn_linked(None, Self, state, leader.get_cell()).await?;
        Ok(actor)
    }
}

impl TimerState {
    /// Sleeps until the next due time, or a part of the way.
    fn arm(&mut self, me: &ActorRef<TimerMsg>) {
        let Some(next) = self.next else { return };
        let left = Duration::from_millis(next.0.saturating_sub(self.clock.now().0)).min(SLEEP_MAX);
        let me = me.clone();
        let sleep = tokio::spawn(async move {
            tokio::time::sleep(left).await;
            drop(me.cast(TimerMsg::Fire));
        });
        self.sleep = Some(AbortOnDrop(sleep));
    }
}

impl Actor for Timer {
    type Msg = TimerMsg;
    type State = TimerState;
    type Arguments = TimerState;

    async fn pre_start(&self, _: ActorRef<TimerMsg>, state: TimerState) -> Result<TimerState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<TimerMsg>,
        message: TimerMsg,
        state: &mut TimerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            TimerMsg::WakeAt(at) if state.next.is_none_or(|next| at < next) => {
                state.next = Some(at);
                state.arm(&me);
            }
            // The clock may have been set forward while we sleep.
            TimerMsg::WakeAt(_) if state.next.is_some_and(|next| next <= state.clock.now()) => state.arm(&me),
            TimerMsg::WakeAt(_) => {}
            TimerMsg::Fire if state.next.is_some_and(|next| next <= state.clock.now()) => {
                state.next = None;
                // The tick's own effects say when to wake again.
                state.proposer.insist_soon(Command::Tick);
            }
            TimerMsg::Fire => state.arm(&me),
        }
        Ok(())
    }
}
