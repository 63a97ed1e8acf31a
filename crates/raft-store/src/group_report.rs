//! What an operator is told of a group's copy on this node.

use std::sync::atomic::Ordering;
use std::time::Duration;

use coda_protocol::ids::{Millis, NodeId};
use coda_protocol::operate::{FollowerReport, ReplicaReport};
use openraft::async_runtime::watch::WatchReceiver;

use crate::group::{Group, Leadership};
use crate::hung::followers;
use crate::types::LogId;

fn millis(duration: Duration) -> Millis {
    Millis(duration.as_millis() as u64)
}

impl Group {
    /// Where the group stands on this node, and if it leads, how far the others are. Never blocks: while the disk hangs it
    /// is what was known before.
    #[must_use]
    pub fn report(&self) -> ReplicaReport {
        let inner = self.inner();
        let Leadership { leader, is_me, failure, .. } = self.leadership().borrow().clone();
        let followers = if is_me { followers(&inner.raft, inner.options.node) } else { Vec::new() };
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<LogId>| id.as_ref().map_or(0, LogId::index);
        let membership = metrics.membership_config.membership();
        ReplicaReport {
            group: inner.options.group,
            term: metrics.current_term,
            leader,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            durable: inner.shared.durable_end.load(Ordering::Acquire).saturating_sub(1),
            purged: index(&metrics.purged),
            log_bytes: inner.log.kept_bytes(),
            checkpoint_age: inner.shared.checkpointed.elapsed().map(millis),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            followers: followers
                .into_iter()
                .map(|one| FollowerReport { node: one.node, matched: one.matched, heard: one.heard.map(millis) })
                .collect(),
            failure: failure.map(Into::into),
        }
    }
}
