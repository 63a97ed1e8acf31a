//! What a node holds for those who are connected, who wait, or who may come back: all of its soft state, counted.

use ractor::call;

use crate::host::Host;
use crate::messages::SupervisorMsg;

/// Counts of everything that clients can make grow. With nobody there, all are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Connected sessions.
    pub sessions: usize,
    /// Sessions that have time to come back.
    pub away: usize,
    /// Bytes that wait to be sent, to all sessions and to the slowest.
    pub outbox_bytes: usize,
    pub outbox_bytes_slowest: usize,
    /// Work whose end somebody waits for, and connections that wait.
    pub awaited: usize,
    pub waiting: usize,
    /// Queues with a subscriber, their subscriptions, and the lanes known to hold ready work.
    pub queues: usize,
    pub subscriptions: usize,
    pub lanes: usize,
    /// Sessions that hold leases, connected or not.
    pub holders: usize,
}

/// Counts, each of them at its own moment. What several groups know of counts for each of them.
pub async fn count(host: &Host) -> Usage {
    let all = host.sessions.all();
    let outboxes = || all.iter().map(|one| one.outbox.bytes());
    let mut usage = Usage {
        sessions: all.len(),
        away: call!(host.supervisor, SupervisorMsg::CountAway).unwrap_or_default(),
        outbox_bytes: outboxes().sum(),
        outbox_bytes_slowest: outboxes().max().unwrap_or_default(),
        ..Usage::default()
    };
    for router in host.routes.all() {
        let (awaited, waiting) = router.shared.waiters.count();
        usage.awaited += awaited;
        usage.waiting += waiting;
        usage.holders += router.shared.held.count();
        let queues = router.shared.queues.read();
        usage.queues += queues.len();
        for queue in queues.values() {
            let dispatch = queue.dispatch.lock();
            usage.subscriptions += dispatch.workers() as usize;
            usage.lanes += dispatch.lanes();
        }
    }
    usage
}
