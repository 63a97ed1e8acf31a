//! What a group does when its node's disk does not answer: it lets another node lead.
//!
//! A leader's writes are not waited for by openraft's core, nor are they needed: what its followers have written commits,
//! and is answered. So at first nothing seems to be wrong, but one more failure would stop the group, and so does the
//! moment when as much waits for the disk as may (see `group_log`), or the core itself waits for it, as for a vote. So a
//! leader hands over to the follower that is furthest, which ends its heartbeats: if that one does not take over, another
//! will. From then on this node counts as leading nothing in that term, though openraft may think so until the disk lets
//! it hear of the next.
//!
//! A group without other voters stays as it is: who waits for its disk waits for the only one there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coda_protocol::ids::NodeId;
use openraft::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::disk::DiskState;
use crate::group::{Group, GroupOptions, GroupRaft};
use crate::types::LogId;

/// Between two looks, while the disk hangs, at whether this node leads: it may have won just then.
const RESIGN_EVERY: Duration = Duration::from_millis(250);
/// How long openraft's core may take to hear of it. One that is itself waiting for the disk sends no heartbeats either.
const RESIGN_PATIENCE: Duration = Duration::from_millis(250);

/// Whether this node may lead a group, as far as its disk is concerned.
pub(crate) struct Standing {
    /// The first term that it has not given up.
    first_term: watch::Sender<u64>,
    aside: AtomicBool,
}

impl Default for Standing {
    fn default() -> Self {
        Self { first_term: watch::Sender::new(0), aside: AtomicBool::new(false) }
    }
}

impl Standing {
    /// Changes whenever a leadership is given up.
    pub fn given_up(&self) -> watch::Receiver<u64> {
        self.first_term.subscribe()
    }

    /// A leadership that was given up never comes back, it is won anew.
    pub fn may_lead_in(&self, term: u64) -> bool {
        term >= *self.first_term.borrow()
    }

    /// Whether it stands for no election.
    pub fn is_aside(&self) -> bool {
        self.aside.load(Ordering::Relaxed)
    }
}

impl Group {
    /// Ends this node's leadership, if it leads and there are other voters, and keeps it from standing for election until
    /// [`Group::stand`]. Calls under way get [`ProposeError::Uncertain`](crate::group::ProposeError), or `NotLeader` if
    /// they change nothing. Happens by itself when the disk hangs and is watched, until it answers again.
    pub async fn resign(&self) {
        let inner = self.inner();
        resign(&inner.raft, &inner.standing, &inner.options).await;
    }

    /// Lets this node stand for election again.
    pub fn stand(&self) {
        stand(&self.inner().raft, &self.inner().standing);
    }
}

/// Resigns and stands as the disk does.
pub(crate) async fn follow_disk(
    raft: GroupRaft,
    standing: Arc<Standing>,
    options: GroupOptions,
    mut disk: watch::Receiver<DiskState>,
) {
    // What was resigned on somebody's word is not taken up again on the disk's.
    let mut resigned = false;
    loop {
        let state = *disk.borrow_and_update();
        let changed = match state {
            DiskState::Hung { .. } => {
                resigned = true;
                resign(&raft, &standing, &options).await;
                tokio::time::timeout(RESIGN_EVERY, disk.changed()).await.unwrap_or(Ok(()))
            }
            DiskState::Good | DiskState::Full { .. } => {
                if std::mem::take(&mut resigned) {
                    stand(&raft, &standing);
                }
                disk.changed().await
            }
        };
        if changed.is_err() {
            return;
        }
    }
}

fn stand(raft: &GroupRaft, standing: &Standing) {
    standing.aside.store(false, Ordering::Relaxed);
    raft.runtime_config().elect(true);
    raft.runtime_config().heartbeat(true);
}

async fn resign(raft: &GroupRaft, standing: &Standing, options: &GroupOptions) {
    let (term, leads, voters) = {
        let servers = raft.server_metrics();
        let server = servers.borrow_watched();
        let voters: Vec<NodeId> = server.membership_config.voter_ids().map(NodeId).collect();
        (server.vote.leader_id().term, server.state.is_leader(), voters)
    };
    let me = options.node;
    if !voters.iter().any(|voter| *voter != me) {
        return;
    }
    standing.aside.store(true, Ordering::Relaxed);
    raft.runtime_config().elect(false);
    if !leads || !standing.may_lead_in(term) {
        return;
    }
    // Takes effect even if the core cannot be told anything.
    raft.runtime_config().heartbeat(false);
    let followers = followers(raft, me);
    let successor = successor(&followers, |node| voters.contains(&node), options.election_min);
    let (group, to) = (options.group.0, successor.map(|node| node.0));
    tracing::warn!(group, term, to, "CODA4152 the disk does not answer, this node gives the leadership up");
    standing.first_term.send_replace(term + 1);
    if let Some(to) = successor {
        // It has no more to say than that openraft has stopped, or that its core does not listen.
        let _ = tokio::time::timeout(RESIGN_PATIENCE, raft.trigger().transfer_leader(to.0)).await;
    }
}

/// What a leader knows of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Follower {
    pub node: NodeId,
    pub matched: Option<u64>,
    pub heard: Option<Duration>,
}

/// What a leader knows of the others; nothing if this node does not lead.
pub(crate) fn followers(raft: &GroupRaft, me: NodeId) -> Vec<Follower> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let heard = |node: &u64| {
        let at = metrics.heartbeat.as_ref()?.get(node)?.as_ref()?;
        Some(at.elapsed())
    };
    let others = metrics.replication.iter().flatten().filter(|(node, _)| **node != me.0);
    let follower = |(node, matched): (&u64, &Option<LogId>)| Follower {
        node: NodeId(*node),
        matched: matched.as_ref().map(LogId::index),
        heard: heard(node),
    };
    others.map(follower).collect()
}

/// Who should lead next: of the voters that answered lately the one that has most, and if none did, of all. Of equals the
/// one that answered last.
fn successor(followers: &[Follower], is_voter: impl Fn(NodeId) -> bool, lately: Duration) -> Option<NodeId> {
    let voters = followers.iter().filter(|follower| is_voter(follower.node));
    let best = voters.max_by_key(|follower| {
        let heard = follower.heard.unwrap_or(Duration::MAX);
        (heard <= lately, follower.matched, std::cmp::Reverse((heard, follower.node)))
    });
    best.map(|follower| follower.node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_voter_that_has_most_and_answered_lately_leads_next() {
        let follower = |node, matched, heard: Option<u64>| Follower {
            node: NodeId(node),
            matched,
            heard: heard.map(Duration::from_millis),
        };
        let next = |followers: &[Follower]| {
            successor(followers, |node| node.0 < 10, Duration::from_millis(400)).map(|node| node.0)
        };
        assert_eq!(next(&[]), None);
        assert_eq!(next(&[follower(11, Some(99), Some(1))]), None, "a learner");
        assert_eq!(next(&[follower(2, Some(90), Some(10)), follower(3, Some(99), Some(300))]), Some(3));
        assert_eq!(next(&[follower(2, Some(90), Some(10)), follower(3, Some(99), Some(500))]), Some(2));
        assert_eq!(next(&[follower(2, Some(90), None), follower(3, Some(99), Some(500))]), Some(3));
        assert_eq!(next(&[follower(2, Some(99), Some(10)), follower(3, Some(99), Some(5))]), Some(3));
        assert_eq!(next(&[follower(3, None, None), follower(2, None, None)]), Some(2), "anybody");
    }
}
