//! The root actor: starts and restarts what leads, and decides when a session that went away is gone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use coda_engine::command::Command;
use coda_protocol::ids::{GroupId, SessionId};
use coda_protocol::push::{GroupLeader, Push};
use coda_raft_store::group::{Group, Leadership};
use coda_raft_store::store::DiskState;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info};

use crate::clock::Clock;
use crate::config::{LEADER_RESTART_WINDOW, LEADER_RESTARTS_MAX, RECLAIM_GRACE, SESSION_GRACE, SHUTDOWN_TIMEOUT};
use crate::endpoint;
use crate::leader::{Leader, LeaderArgs, REFUSED};
use crate::messages::{AbortOnDrop, LeaderMsg, SupervisorMsg};
use crate::routes::Routes;
use crate::sessions::Sessions;

/// Raft says that the term is over, or that it is being handed over, a moment after it refuses whoever leads in it. Asked
/// sooner, it would refuse again; if it says nothing, the term goes on.
const LEAD_AGAIN_AFTER: Duration = Duration::from_millis(100);

pub struct Supervisor;

pub struct SupervisorArgs {
    pub sessions: Sessions,
    pub clock: Arc<dyn Clock>,
    pub routes: Routes,
    pub disk: watch::Receiver<DiskState>,
    /// Told why, when the node cannot go on.
    pub failed: watch::Sender<Option<String>>,
}

pub struct SupervisorState {
    args: SupervisorArgs,
    groups: BTreeMap<GroupId, Hosted>,
    /// Sessions that have time to come back, and the number of the absence.
    away: BTreeMap<SessionId, u64>,
    absences: u64,
    stopping: bool,
}

/// A group with a replica on this node.
struct Hosted {
    group: Group,
    _watching: AbortOnDrop,
    /// The term in which this node leads it.
    leads: Option<u64>,
    leader: Option<Leading>,
    restarts: VecDeque<Instant>,
}

/// How a leader came to its end.
#[derive(Clone, Copy)]
enum End {
    /// Raft refused what it asked. No failure of anything here.
    Refused,
    Failed,
}

struct Leading {
    term: u64,
    actor: ActorRef<LeaderMsg>,
}

impl SupervisorState {
    fn host(&mut self, me: &ActorRef<SupervisorMsg>, group: Group) {
        let watching = AbortOnDrop(tokio::spawn(watch_leadership(group.clone(), me.clone())));
        let id = group.id();
        let hosted = Hosted { group, _watching: watching, leads: None, leader: None, restarts: VecDeque::new() };
        self.groups.insert(id, hosted);
    }

    async fn unhost(&mut self, group: GroupId) {
        let Some(hosted) = self.groups.remove(&group) else { return };
        if let Some(Leading { term, actor }) = hosted.leader {
            drop(actor.stop_and_wait(Some("the group leaves this node".into()), Some(SHUTDOWN_TIMEOUT)).await);
            self.args.routes.end(group, term);
        }
    }

    async fn leadership(
        &mut self,
        me: &ActorRef<SupervisorMsg>,
        group: GroupId,
        now: Leadership,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(why) = now.failure {
            self.args.failed.send_replace(Some(format!("group {}: {why}", group.0)));
        }
        let Some(hosted) = self.groups.get_mut(&group) else { return Ok(()) };
        hosted.leads = now.is_me.then_some(now.term);
        let news = GroupLeader { group, term: now.term, leader: now.leader };
        self.args.routes.heard(news);
        // Who leads here is told when it has recovered.
        if !now.is_me {
            self.args.sessions.push_all(&Push::Leader(news));
        }
        match &hosted.leader {
            // Leads again when it has ended, if there is a term to lead in.
            Some(leading) if hosted.leads != Some(leading.term) => {
                leading.actor.stop(Some("leadership has changed".into()));
                Ok(())
            }
            Some(_) => Ok(()),
            None => self.lead(me, group).await,
        }
    }

    async fn lead(&mut self, me: &ActorRef<SupervisorMsg>, group: GroupId) -> Result<(), ActorProcessingErr> {
        let Some(hosted) = self.groups.get_mut(&group).filter(|_| !self.stopping) else { return Ok(()) };
        let Some(term) = hosted.leads else { return Ok(()) };
        let args = LeaderArgs {
            group: hosted.group.clone(),
            term,
            sessions: self.args.sessions.clone(),
            clock: self.args.clock.clone(),
            supervisor: me.clone(),
            routes: self.args.routes.clone(),
            disk: self.args.disk.clone(),
        };
        let (actor, _) = Actor::spawn_linked(None, Leader, args, me.get_cell()).await?;
        hosted.leader = Some(Leading { term, actor });
        Ok(())
    }

    fn group_led_by(&self, actor: ActorId) -> Option<GroupId> {
        let leads = |hosted: &Hosted| hosted.leader.as_ref().is_some_and(|leading| leading.actor.get_id() == actor);
        self.groups.iter().find(|(_, hosted)| leads(hosted)).map(|(group, _)| *group)
    }

    /// A leader is gone, and what sessions told it with it: they say it again to its successor.
    async fn leader_ended(
        &mut self,
        me: &ActorRef<SupervisorMsg>,
        group: GroupId,
        end: End,
    ) -> Result<(), ActorProcessingErr> {
        let Some(hosted) = self.groups.get_mut(&group) else { return Ok(()) };
        let Some(ended) = hosted.leader.take() else { return Ok(()) };
        self.args.routes.end(group, ended.term);
        if self.stopping || hosted.leads.is_none() {
            return Ok(());
        }
        // In a new term it is no failure, and sessions hear of that. In the same one they have to be told otherwise.
        if hosted.leads == Some(ended.term) {
            if let End::Refused = end {
                let term = ended.term;
                drop(me.send_after(LEAD_AGAIN_AFTER, move || SupervisorMsg::LeadAgain { group, term }));
                return Ok(());
            }
            endpoint::send_away(&self.args.sessions, "a leader has failed");
            let now = self.args.clock.instant();
            hosted.restarts.retain(|at| now - *at < LEADER_RESTART_WINDOW);
            hosted.restarts.push_back(now);
            if hosted.restarts.len() > LEADER_RESTARTS_MAX {
                let times = hosted.restarts.len();
                let why =
                    format!("the leader of group {} failed {times} times within {LEADER_RESTART_WINDOW:?}", group.0);
                error!(%why, "giving up");
                self.args.failed.send_replace(Some(why));
                return Ok(());
            }
        }
        self.lead(me, group).await
    }

    /// Leads again in a term in which Raft has refused a leader, unless it has said meanwhile that the term is over.
    async fn lead_again(
        &mut self,
        me: &ActorRef<SupervisorMsg>,
        group: GroupId,
        term: u64,
    ) -> Result<(), ActorProcessingErr> {
        let Some(hosted) = self.groups.get(&group) else { return Ok(()) };
        if hosted.leader.is_some() || hosted.leads != Some(term) {
            return Ok(());
        }
        endpoint::send_away(&self.args.sessions, "a leader begins again");
        self.lead(me, group).await
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

    /// Hands back what a session holds, through the log of each group that is led here.
    fn end_session(&self, session: SessionId) {
        for router in self.args.routes.all().into_iter().filter(|router| router.holds_leases(session)) {
            info!(%session, group = router.shared.group.id().0, "a session is gone, its leases are handed back");
            router.shared.proposer.insist_soon(Command::EndSession { session });
        }
    }

    async fn shutdown(&mut self) {
        self.stopping = true;
        endpoint::send_away(&self.args.sessions, "the node is shutting down");
        for hosted in self.groups.values() {
            if let Some(leading) = &hosted.leader {
                // Its mailbox first: what it was asked is answered.
                drop(leading.actor.stop_and_wait(None, Some(SHUTDOWN_TIMEOUT)).await);
            }
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
        let (groups, away) = (BTreeMap::new(), BTreeMap::new());
        Ok(SupervisorState { args, groups, away, absences: 0, stopping: false })
    }

    async fn handle(
        &self,
        me: ActorRef<SupervisorMsg>,
        message: SupervisorMsg,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMsg::Host(group) => state.host(&me, group),
            SupervisorMsg::Unhost(group, done) => {
                state.unhost(group).await;
                drop(done.send(()));
            }
            SupervisorMsg::Leadership { group, now } => state.leadership(&me, group, now).await?,
            SupervisorMsg::LeadAgain { group, term } => state.lead_again(&me, group, term).await?,
            SupervisorMsg::SessionClosed { session, goodbye: true } => state.end_session(session),
            SupervisorMsg::SessionClosed { session, goodbye: false } => state.grace(&me, session, SESSION_GRACE),
            SupervisorMsg::SessionAway { session } => state.grace(&me, session, RECLAIM_GRACE),
            SupervisorMsg::GraceOver { session, absence } => state.grace_over(session, absence),
            SupervisorMsg::CountAway(reply) => drop(reply.send(state.away.len())),
            SupervisorMsg::Shutdown(done) => {
                state.shutdown().await;
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
        // Sessions end all the time; only a leader's end is news.
        let group_of = |actor: &ActorCell| state.group_led_by(actor.get_id());
        match event {
            SupervisionEvent::ActorFailed(who, why) => match group_of(&who) {
                Some(group) => {
                    error!(group = group.0, %why, "the leader failed");
                    state.leader_ended(&me, group, End::Failed).await?;
                }
                None => error!(%why, "a session failed, its connection is closed"),
            },
            SupervisionEvent::ActorTerminated(who, _, why) => {
                if let Some(group) = group_of(&who) {
                    info!(group = group.0, why = why.as_deref().unwrap_or("asked to"), "the leader ended");
                    let refused = why.as_deref().is_some_and(|why| REFUSED.contains(&why));
                    let end = if refused { End::Refused } else { End::Failed };
                    state.leader_ended(&me, group, end).await?;
                }
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

/// Turns changes of a group's leadership into messages to the root.
async fn watch_leadership(group: Group, supervisor: ActorRef<SupervisorMsg>) {
    let mut leadership = group.leadership();
    loop {
        let now = leadership.borrow_and_update().clone();
        if supervisor.cast(SupervisorMsg::Leadership { group: group.id(), now }).is_err() {
            return;
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}
