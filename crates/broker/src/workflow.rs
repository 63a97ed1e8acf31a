//! The actor of a workflow name, or of several: brings memos to the sessions where their runs are resident.
//!
//! Nothing bounds a memo, and a session may be slow: a page is read when those before it have gone, each from state as it
//! is by then, so that no snapshot is held meanwhile. A step that ends later than its run was leased is pushed by itself,
//! behind the run: whether a page has it too makes no difference.

use coda_engine::query;
use coda_protocol::ids::{LeaseId, RunId};
use coda_protocol::push::{MemoPage, Push};
use coda_protocol::request::StepKey;
use coda_raft_store::group::Group;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::messages::{LeaderMsg, WorkflowMsg};
use crate::outbox::{MemoRoom, Outbox};

pub struct Workflow;

/// A memo on its way to one connection.
pub struct Delivery {
    outbox: Outbox,
    run: RunId,
    lease: LeaseId,
    /// What has been sent.
    after: Option<StepKey>,
    /// As the first page said: all that had ended by then lies in the pages.
    steps_ended: Option<u32>,
}

impl Delivery {
    #[must_use]
    pub fn new(outbox: Outbox, run: RunId, lease: LeaseId) -> Self {
        Self { outbox, run, lease, after: None, steps_ended: None }
    }

    /// Asks for the next page once there is room for it. Ends with the connection.
    pub fn go_on(self, workflow: &ActorRef<WorkflowMsg>) {
        if let Some(room) = self.outbox.try_memo_room() {
            drop(workflow.cast(WorkflowMsg::Page { delivery: self, room }));
            return;
        }
        let workflow = workflow.clone();
        tokio::spawn(async move {
            if let Some(room) = self.outbox.memo_room().await {
                drop(workflow.cast(WorkflowMsg::Page { delivery: self, room }));
            }
        });
    }

    /// Sends the next page; what is left to deliver.
    fn page(mut self, group: &Group, room: MemoRoom) -> Option<Self> {
        let Self { run, lease, .. } = self;
        let page = group.read(|view, _| query::memo_page(view, group.id(), run, self.after.as_ref()));
        // Its session was told, or handed it back itself.
        if page.lease != Some(lease) {
            return self.sent();
        }
        let steps_ended = *self.steps_ended.get_or_insert(page.steps_ended);
        if !page.items.is_empty() {
            self.outbox.push_memo(MemoPage { run, lease, steps_ended, items: page.items }, room);
        }
        if page.next.is_some() {
            self.after = page.next;
            return Some(self);
        }
        self.outbox.push(Push::MemoEnd { run, lease, steps_ended });
        self.sent()
    }

    /// From the beginning, if it is wanted once more.
    fn sent(self) -> Option<Self> {
        let Self { outbox, run, lease, .. } = self;
        outbox.memo_sent(run, lease).then(|| Self::new(outbox, run, lease))
    }
}

impl Workflow {
    /// Starts the actor under its leader.
    ///
    /// # Errors
    /// When the leader is stopping.
    pub async fn start(
        leader: &ActorRef<LeaderMsg>,
        group: Group,
    ) -> Result<ActorRef<WorkflowMsg>, ActorProcessingErr> {
        let (actor, _) = Actor::spawn_linked(None, Self, group, leader.get_cell()).await?;
        Ok(actor)
    }
}

impl Actor for Workflow {
    type Msg = WorkflowMsg;
    type State = Group;
    type Arguments = Group;

    async fn pre_start(&self, _: ActorRef<WorkflowMsg>, group: Group) -> Result<Group, ActorProcessingErr> {
        Ok(group)
    }

    async fn handle(
        &self,
        me: ActorRef<WorkflowMsg>,
        WorkflowMsg::Page { delivery, room }: WorkflowMsg,
        group: &mut Group,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(rest) = delivery.page(group, room) {
            rest.go_on(&me);
        }
        Ok(())
    }
}
