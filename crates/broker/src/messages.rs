//! Everything actors say to each other, on one page.

use std::sync::Arc;

use coda_protocol::ids::{GroupId, SessionId, Timestamp};
use coda_protocol::request::Subscribe;
use coda_raft_store::group::{Group, Leadership};
use ractor::{ActorRef, RpcReplyPort};
use tokio::task::JoinHandle;

use crate::dispatch::Epoch;
use crate::free_slots::FreeSlots;
use crate::outbox::{MemoRoom, Outbox};
use crate::workflow::Delivery;

/// To the root: what happens to sessions, groups and the node.
pub enum SupervisorMsg {
    /// The group has a replica on this node from now on.
    Host(Group),
    /// It has none any more: whoever leads it here ends first.
    Unhost(GroupId, RpcReplyPort<()>),
    /// Who leads the group has changed.
    Leadership {
        group: GroupId,
        now: Leadership,
    },
    /// Raft has refused whoever led in this term: lead in it again, unless it is over by now.
    LeadAgain {
        group: GroupId,
        term: u64,
    },
    /// A connection ended; `goodbye` when its session ended with it.
    SessionClosed {
        session: SessionId,
        goodbye: bool,
    },
    /// The session holds leases of a group that is led anew, and is perhaps not connected.
    SessionAway {
        session: SessionId,
    },
    /// Its time to come back is over, unless it came and went again meanwhile.
    GraceOver {
        session: SessionId,
        absence: u64,
    },
    /// Answers how many sessions have time to come back.
    CountAway(RpcReplyPort<usize>),
    Shutdown(RpcReplyPort<()>),
}

/// To the leader of a group.
pub enum LeaderMsg {
    /// The proposer ended: leadership is over, or it failed.
    ProposerEnded(&'static str),
    /// The first subscription to a queue needs its actor; answers whether there may be another one.
    Queue { first: Subscription, reply: RpcReplyPort<bool> },
    /// The first run of a workflow name needs the actor at its place.
    Workflow { place: u64, reply: RpcReplyPort<ActorRef<WorkflowMsg>> },
}

/// A session serves a queue.
#[derive(Clone)]
pub struct Subscription {
    pub session: SessionId,
    pub epoch: Epoch,
    pub outbox: Outbox,
    pub subscribe: Subscribe,
    pub slots: Arc<FreeSlots>,
}

/// To a queue's actor. Subscriptions, credits and hints come from outside, without a bound, and so not through a mailbox:
/// see [`crate::queue::QueueHandle`].
pub enum QueueMsg {
    /// Any lane may hold ready work. At most one waits.
    Look,
}

/// To the actor of a workflow name.
pub enum WorkflowMsg {
    /// There is room for a page of a memo.
    Page { delivery: Delivery, room: MemoRoom },
}

/// To the timer of a group.
pub enum TimerMsg {
    WakeAt(Timestamp),
    Fire,
}

/// To the actor of a connection.
pub enum SessionMsg {
    /// The reader or the writer ended.
    Ended,
}

/// Ends a task when its owner goes.
pub struct AbortOnDrop(pub JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
