//! The root actor: starts and restarts what leads, and decides when a session that went away is gone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use coda_engine::command::Command;
use coda_protocol::ids::SessionId;
use coda_raft_store::group::Group;
use coda_raft_store::store::NodeStore;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info};

use crate::clock::Clock;
use crate::config::{LEADER_RESTART_WINDOW, LEADER_RESTARTS_MAX, RECLAIM_GRACE, SESSION_GRACE};
use crate::endpoint;
use crate::leader::{Leader, LeaderArgs, Led};
use crate::messages::{LeaderMsg, SupervisorMsg};
use crate::sessions::Sessions;

pub struct Supervisor;

pub struct SupervisorArgs {
    pub group: Group,
    pub store: NodeStore,
    pub sessions: Sessions,
    pub clock: Arc<dyn Clock>,
    pub led: Arc<Led>,
    /// Told why, when the node cannot go on.
    pub failed: watch::Sender<Option<String>>,
}

pub struct SupervisorState {
    args: SupervisorArgs,
    leader: Option<ActorRef<LeaderMsg>>,
    leads: Option<u64>,
    restarts: VecDeque<Instant>,
    /// Sessions that have time to come back, and the number of the absence.
    away: BTreeMap<SessionId, u64>,
    absences: u64,
    stopping: bool,
}

impl SupervisorState {
    async fn lead(&mut self, me: &ActorRef<SupervisorMsg>) -> Result<(), ActorProcessingErr> {
        let Some(term) = self.leads.filter(|_| self.leader.is_none() && !self.stopping) else { return Ok(()) };
        let args = LeaderArgs {
            group: self.args.group.clone(),
            store: self.args.store.clone(),
            term,
            sessions: self.args.sessions.clone(),
            clock: self.args.clock.clone(),
            supervisor: me.clone(),
            led: self.args.led.clone(),
        };
        let (leader, _) = Actor::spawn_linked(None, Leader, args, me.get_cell()).await?;
        self.leader = Some(leader);
        Ok(())
    }

    /// The leader is gone, and what sessions told it with it: they come back and say it again.
    async fn leader_ended(&mut self, me: &ActorRef<SupervisorMsg>) -> Result<(), ActorProcessingErr> {
        self.leader = None;
        self.args.led.send_replace(None);
        endpoint::send_away(&self.args.sessions, "leadership changed");
        if self.stopping || self.leads.is_none() {
            return Ok(());
        }
        let now = self.args.clock.instant();
        self.restarts.retain(|at| now - *at < LEADER_RESTART_WINDOW);
        self.restarts.push_back(now);
        if self.restarts.len() > LEADER_RESTARTS_MAX {
            let why = format!("the leader failed {} times within {LEADER_RESTART_WINDOW:?}", self.restarts.len());
            error!(%why, "giving up");
            self.args.failed.send_replace(Some(why));
            return Ok(());
        }
        self.lead(me).await
    }

    /// Gives a session time to come back. A later absence starts anew.
    fn grace(&mut self, me: &ActorRef<SupervisorMsg>, session: SessionId, grace: Duration) {
        if !self.args.sessions.is_connected(session) {
            self.absences += 1;
            let absence = self.absences;
            self.away.insert(session, absence);
            drop(me.send_after(grace, move || SupervisorMsg::GraceOver { session, absence }));
        }
    }

    fn grace_over(&mut self, session: SessionId, absence: u64) {
        if self.away.get(&session) != Some(&absence) {
            return;
        }
        self.away.remove(&session);
        if !self.args.sessions.is_connected(session) {
            self.end_session(session);
        }
    }

    /// Hands back what a session holds, through the log.
    fn end_session(&self, session: SessionId) {
        let router = self.args.led.borrow().clone();
        if let Some(router) = router.filter(|router| router.holds_leases(session)) {
            info!(%session, "a session is gone, its leases are handed back");
            router.shared.proposer.insist_soon(Command::EndSession { session });
        }
    }
}

impl Actor for Supervisor {
    type Msg = SupervisorMsg;
    type State = SupervisorState;
    type Arguments = SupervisorArgs;

    async fn pre_start(
        &self,
        _: ActorRef<SupervisorMsg>,
        args: SupervisorArgs,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        Ok(SupervisorState {
            args,
            leader: None,
            leads: None,
            restarts: VecDeque::new(),
            away: BTreeMap::new(),
            absences: 0,
            stopping: false,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<SupervisorMsg>,
        message: SupervisorMsg,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMsg::Leadership { leads } => {
                state.leads = leads;
                match &state.leader {
                    Some(leader) if leads.is_none() => leader.stop(Some("leadership lost".into())),
                    Some(_) => {}
                    None => state.lead(&me).await?,
                }
            }
            SupervisorMsg::SessionClosed { session, goodbye: true } => state.end_session(session),
            SupervisorMsg::SessionClosed { session, goodbye: false } => state.grace(&me, session, SESSION_GRACE),
            SupervisorMsg::SessionAway { session } => state.grace(&me, session, RECLAIM_GRACE),
            SupervisorMsg::GraceOver { session, absence } => state.grace_over(session, absence),
            SupervisorMsg::CountAway(reply) => drop(reply.send(state.away.len())),
            SupervisorMsg::Shutdown(done) => {
                state.stopping = true;
                endpoint::send_away(&state.args.sessions, "the node is shutting down");
                if let Some(leader) = &state.leader {
                    // Its mailbox first: what it was asked is answered.
                    drop(leader.stop_and_wait(None, Some(crate::config::SHUTDOWN_TIMEOUT)).await);
                }
                drop(done.send(()));
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<SupervisorMsg>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        // Sessions end all the time; only the leader's end is news.
        let is_leader =
            |actor: &ActorCell| state.leader.as_ref().is_some_and(|leader| leader.get_id() == actor.get_id());
        match event {
            SupervisionEvent::ActorFailed(who, why) if is_leader(&who) => {
                error!(%why, "the leader failed");
                state.leader_ended(&me).await?;
            }
            SupervisionEvent::ActorTerminated(who, _, why) if is_leader(&who) => {
                info!(why = why.as_deref().unwrap_or("asked to"), "the leader ended");
                state.leader_ended(&me).await?;
            }
            SupervisionEvent::ActorFailed(_, why) => error!(%why, "a session failed, its connection is closed"),
            SupervisionEvent::ActorTerminated(..)
            | SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}
