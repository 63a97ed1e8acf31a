//! The actor of a workflow name, or of several: brings runs to the sessions where they are resident, each with its memo.
//!
//! A memo can be long, and reading it must not hold up the proposer. One mailbox keeps the order: lease, memo, steps.

use coda_engine::command::Command;
use coda_engine::query;
use coda_protocol::ids::{LeaseId, RunId, SessionId, Work};
use coda_protocol::push::{MemoPage, Push, RunLease};
use coda_protocol::request::Release;
use coda_raft_store::group::Group;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::dispatch::Epoch;
use crate::messages::{LeaderMsg, WorkflowMsg};
use crate::proposer::Proposer;
use crate::sessions::Sessions;

pub struct Workflow;

pub struct WorkflowState {
    pub group: Group,
    pub sessions: Sessions,
    pub proposer: Proposer,
}

impl Workflow {
    /// Starts the actor under its leader.
    ///
    /// # Errors
    /// When the leader is stopping.
    pub async fn start(
        leader: &ActorRef<LeaderMsg>,
        state: WorkflowState,
    ) -> Result<ActorRef<WorkflowMsg>, ActorProcessingErr> {
        let (actor, _) = Actor::spawn_linked(None, Self, state, leader.get_cell()).await?;
        Ok(actor)
    }
}

impl WorkflowState {
    fn leased(&self, session: SessionId, epoch: Epoch, mut lease: RunLease, has_memo: bool) {
        let release = Release { work: Work::Run(lease.run), lease: lease.lease };
        let pages = if has_memo { self.memo(lease.run, lease.lease) } else { Vec::new() };
        lease.memo_pages = pages.len() as u32;
        // What the memo holds, the worker has seen.
        lease.steps_ended = pages.first().map_or(lease.steps_ended, |page| page.steps_ended);
        let delivered = self.sessions.push_to(session, epoch, Push::Run(lease));
        if !delivered {
            // As for a task.
            self.proposer.insist_soon(Command::Release(release));
            return;
        }
        for page in pages {
            self.sessions.push_to(session, epoch, Push::Memo(page));
        }
    }

    fn memo(&self, run: RunId, lease: LeaseId) -> Vec<MemoPage> {
        let memo = self.group.read(|view, _| query::memo(view, self.group.id(), run));
        let page = |items| MemoPage { run, lease, steps_ended: memo.steps_ended, items };
        memo.pages.into_iter().map(page).collect()
    }
}

impl Actor for Workflow {
    type Msg = WorkflowMsg;
    type State = WorkflowState;
    type Arguments = WorkflowState;

    async fn pre_start(
        &self,
        _: ActorRef<WorkflowMsg>,
        state: WorkflowState,
    ) -> Result<WorkflowState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<WorkflowMsg>,
        message: WorkflowMsg,
        state: &mut WorkflowState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            WorkflowMsg::Leased { session, epoch, lease, has_memo } => state.leased(session, epoch, lease, has_memo),
            WorkflowMsg::Resumed { session, run, lease } => {
                for page in state.memo(run, lease) {
                    state.sessions.push(session, Push::Memo(page));
                }
            }
            WorkflowMsg::StepEnded { session, step } => {
                state.sessions.push(session, Push::Step(step));
            }
        }
        Ok(())
    }
}
