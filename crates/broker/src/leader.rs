//! Leadership is the lifetime of this actor: what it owns exists while this node leads the group, and no flag says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use coda_engine::query;
use coda_engine::recover::recover;
use coda_protocol::push::Push;
use coda_raft_store::group::Group;
use coda_raft_store::store::DiskState;
use parking_lot::RwLock;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tracing::{error, info};

use crate::clock::{Clock, LeaderClock};
use crate::messages::{AbortOnDrop, LeaderMsg, SupervisorMsg};
use crate::proposer::{self, PROPOSAL_FAILED, ProposerLoop};
use crate::queue::Queue;
use crate::router::{Granted, Router, Shared};
use crate::routes::Routes;
use crate::sessions::Sessions;
use crate::timer::Timer;
use crate::workflow::Workflow;

/// Ends that are Raft's word, and no failure.
pub const REFUSED: [&str; 2] = [PROPOSAL_FAILED, ENDED_BEFORE];
const ENDED_BEFORE: &str = "leadership ended before it began";

pub struct Leader;

pub struct LeaderArgs {
    pub group: Group,
    pub term: u64,
    pub sessions: Sessions,
    pub clock: Arc<dyn Clock>,
    pub supervisor: ActorRef<SupervisorMsg>,
    /// Where sessions find the leader: from when it has recovered until it ends.
    pub routes: Routes,
    pub disk: watch::Receiver<DiskState>,
}

pub struct LeaderState {
    router: Router,
    _proposer: AbortOnDrop,
}

impl Actor for Leader {
    type Msg = LeaderMsg;
    type State = LeaderState;
    type Arguments = LeaderArgs;

    async fn pre_start(&self, me: ActorRef<LeaderMsg>, args: LeaderArgs) -> Result<LeaderState, ActorProcessingErr> {
        let (proposer, inbox) = proposer::channel(args.disk);
        let clock = Arc::new(LeaderClock::new(args.clock));
        let timer = Timer::start(&me, proposer.clone(), clock.clone()).await?;
        let router = Router {
            shared: Arc::new(Shared {
                group: args.group.clone(),
                term: args.term,
                counters: Default::default(),
                sessions: args.sessions,
                routes: args.routes.clone(),
                waiters: Default::default(),
                proposer,
                leader: me.clone(),
                timer,
                supervisor: args.supervisor,
                queues: RwLock::new(BTreeMap::new()),
                held: Default::default(),
                workflows: RwLock::new(BTreeMap::new()),
                turn: Default::default(),
                held_until: Default::default(),
            }),
        };
        let turns = ProposerLoop::new(inbox, args.group.clone(), clock.clone(), router.clone());
        let lead = lead(args.group, args.term, router.clone(), clock, turns);
        let task = tokio::spawn(async move {
            let mut end = ProposerEnd { leader: me, why: "the proposer failed" };
            end.why = lead.await;
        });
        Ok(LeaderState { router, _proposer: AbortOnDrop(task) })
    }

    async fn handle(
        &self,
        me: ActorRef<LeaderMsg>,
        message: LeaderMsg,
        state: &mut LeaderState,
    ) -> Result<(), ActorProcessingErr> {
        let shared = &state.router.shared;
        match message {
            LeaderMsg::ProposerEnded(why) => me.stop(Some(why.into())),
            LeaderMsg::Queue { first, reply } => {
                let queue = first.subscribe.queue.clone();
                let room = state.router.has_room_for(&queue);
                if room == Some(true) {
                    let (group, proposer, held) = (shared.group.clone(), shared.proposer.clone(), shared.held.clone());
                    let handle = Queue::start(&me, queue.clone(), group, proposer, held).await?;
                    // No queue is there without a subscriber, whose end is the queue's if no other comes.
                    handle.subscribe(&first);
                    shared.queues.write().insert(queue, handle);
                }
                drop(reply.send(room != Some(false)));
                // It vanished meanwhile, and whoever cleared away what it left may have come too soon for this.
                if first.outbox.is_closed() {
                    state.router.session_gone(first.session, first.epoch);
                }
            }
            LeaderMsg::Workflow { place, reply } => {
                let known = shared.workflows.read().get(&place).cloned();
                let actor = match known {
                    Some(actor) => actor,
                    None => {
                        let actor = Workflow::start(&me, shared.group.clone()).await?;
                        shared.workflows.write().insert(place, actor.clone());
                        actor
                    }
                };
                drop(reply.send(actor));
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<LeaderMsg>,
        event: SupervisionEvent,
        _: &mut LeaderState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, why) => {
                error!(actor = %who.get_id(), %why, "an actor of the leader failed, leading anew");
                me.stop(Some("an actor failed".into()));
            }
            SupervisionEvent::ActorTerminated(..)
            | SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<LeaderMsg>, state: &mut LeaderState) -> Result<(), ActorProcessingErr> {
        let Shared { routes, group, term, .. } = &*state.router.shared;
        routes.end(group.id(), *term);
        Ok(())
    }
}

/// Tells the leader that its proposer ended, by a panic too.
struct ProposerEnd {
    leader: ActorRef<LeaderMsg>,
    why: &'static str,
}

impl Drop for ProposerEnd {
    fn drop(&mut self) {
        drop(self.leader.cast(LeaderMsg::ProposerEnded(self.why)));
    }
}

/// Waits until all of earlier terms is applied, derives from state what effects would have said, then proposes.
async fn lead(group: Group, term: u64, router: Router, clock: Arc<LeaderClock>, turns: ProposerLoop) -> &'static str {
    if let Err(error) = group.linearize().await {
        info!(group = group.id().0, %error, term, "leadership ended before it began");
        return ENDED_BEFORE;
    }
    let (position, effects, held, time) = router.read(|view, position| {
        let group = group.id();
        (position, recover(view, group), query::leases_held(view, group), query::time(view, group))
    });
    clock.at_least(time);
    router.shared.held.begin(held);
    info!(group = group.id().0, term, index = position.index, effects = effects.len(), "leading");
    router.effects(position, effects, &Granted::default()).await;
    let Shared { routes, sessions, .. } = &*router.shared.clone();
    let leader = router.leader(group.node());
    routes.begin(router);
    sessions.push_all(&Push::Leader(leader));
    turns.run().await
}
