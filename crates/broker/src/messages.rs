//! Everything actors say to each other, on one page.

use coda_engine::entry::Lane;
use coda_protocol::ids::{LeaseId, Name, RunId, SessionId, Timestamp};
use coda_protocol::push::{RunLease, StepEnded};
use ractor::{ActorRef, RpcReplyPort};
use tokio::task::JoinHandle;

use crate::dispatch::Epoch;

/// To the root: what happens to sessions, groups and the node.
pub enum SupervisorMsg {
    /// This node leads the group in this term, or does not any more.
    Leadership {
        leads: Option<u64>,
    },
    /// A connection ended; `goodbye` when its session ended with it.
    SessionClosed {
        session: SessionId,
        goodbye: bool,
    },
    /// The session holds leases and is not connected.
    SessionAway {
        session: SessionId,
    },
    /// Its time to come back is over, unless it came and went again meanwhile.
    GraceOver {
        session: SessionId,
        absence: u64,
    },
    Shutdown(RpcReplyPort<()>),
}

/// To the leader of a group.
pub enum LeaderMsg {
    /// The proposer ended: leadership is over, or it failed.
    ProposerEnded(&'static str),
    /// The first subscription to a queue needs its actor; answers whether there may be another one.
    Queue { queue: Name, reply: RpcReplyPort<bool> },
    /// The first run of a workflow name needs the actor at its place.
    Workflow { place: u64, reply: RpcReplyPort<ActorRef<WorkflowMsg>> },
}

/// To a queue's actor. Subscriptions and credits come from outside, without a bound, and so not through a mailbox:
/// sessions use [`crate::queue::QueueHandle`].
pub enum QueueMsg {
    LaneReady(Lane),
}

/// To the actor of a workflow name.
pub enum WorkflowMsg {
    Leased { session: SessionId, epoch: Epoch, lease: RunLease, has_memo: bool },
    Resumed { session: SessionId, run: RunId, lease: LeaseId },
    StepEnded { session: SessionId, step: StepEnded },
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
