//! What the leader's actors should do about an applied entry. Hints: losing one costs latency, never truth.

use coda_protocol::ids::{LeaseId, Name, RunId, SessionId, TaskId, Timestamp, Work};
use coda_protocol::payload::WorkOutcome;
use coda_protocol::push::{RunLease, StepEnded, TaskLease};
use serde::{Deserialize, Serialize};

use crate::entry::Lane;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Send the task to its session.
    TaskLeased {
        session: SessionId,
        lease: TaskLease,
    },
    /// Send the run to its session, with its memo where `has_memo`.
    RunLeased {
        session: SessionId,
        lease: RunLease,
        has_memo: bool,
    },
    /// The session holds the run, and is back or has asked for more than could be said at once: send it the memo again.
    MemoWanted {
        session: SessionId,
        workflow: Name,
        run: RunId,
        lease: LeaseId,
    },
    /// Tell the session where the run is resident.
    StepEnded {
        session: SessionId,
        step: StepEnded,
    },
    /// Tell the session to stop.
    LeaseLost {
        session: SessionId,
        work: Work,
        lease: LeaseId,
    },
    /// Answer those who wait for it.
    RunEnded {
        run: RunId,
        outcome: WorkOutcome,
    },
    TaskEnded {
        task: TaskId,
        outcome: WorkOutcome,
    },
    /// The lane holds ready work that no grant has taken.
    LaneReady(Lane),
    /// Any lane of the queue may hold ready work: look for those that somebody serves.
    QueueUnpaused(Name),
    /// So many leases of the session have ended, however they did: it may hold as many more.
    LeasesEnded {
        session: SessionId,
        count: u32,
    },
    /// Propose a tick then.
    WakeAt(Timestamp),
    /// The session holds leases. While it is not connected, its time to come back runs.
    SessionHolds(SessionId),
    /// More leases of the session are to be handed back: propose the same again.
    EndSessionAgain(SessionId),
    /// Of the meta group: the cluster is at this version now. Tell clients, nodes, and whoever plans.
    MapChanged(u64),
}
