//! Who belongs to a group, and handing the leadership around.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coda_protocol::ids::{NodeId, Position};
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;

use crate::group::{Group, ProposeError};
use crate::peers::Peer;

/// Who belongs to a group, as its log says on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub voters: BTreeSet<NodeId>,
    /// Those that receive the log and do not vote.
    pub learners: BTreeSet<NodeId>,
    /// Two sets of voters decide together: one takes over from the other.
    pub is_joint: bool,
    /// A quorum has it.
    pub is_committed: bool,
}

/// What a leader knows of another member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Follower {
    /// The last entry that it is known to have.
    pub matched: Option<u64>,
    /// How far that is behind the leader's last.
    pub lag: u64,
    /// Since it last answered; none if it never did.
    pub heard: Option<Duration>,
}

impl Group {
    /// Who belongs to the group.
    #[must_use]
    pub fn membership(&self) -> Membership {
        let metrics = self.inner().raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let config = &metrics.membership_config;
        let voters: BTreeSet<NodeId> = config.voter_ids().map(NodeId).collect();
        let learners = config.nodes().map(|(node, _)| NodeId(*node)).filter(|node| !voters.contains(node)).collect();
        let is_committed = metrics.committed_membership_config.log_id() == config.log_id();
        Membership { learners, is_joint: config.get_joint_config().len() > 1, is_committed, voters }
    }

    /// What this node knows of the other members, if it leads them.
    #[must_use]
    pub fn followers(&self) -> BTreeMap<NodeId, Follower> {
        let (raft, me) = (&self.inner().raft, self.inner().options.node);
        let last = raft.metrics().borrow_watched().last_log_index.unwrap_or(0);
        let follower = |one: crate::hung::Follower| {
            let lag = last.saturating_sub(one.matched.unwrap_or(0));
            (one.node, Follower { matched: one.matched, lag, heard: one.heard })
        };
        crate::hung::followers(raft, me).into_iter().map(follower).collect()
    }

    /// Adds a node that receives the log and does not vote. It may take long to catch up: see [`Group::followers`].
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn add_learner_soon(&self, peer: Peer) -> Result<Position, ProposeError> {
        let node = openraft::BasicNode::new(peer.addr);
        let added = self.unless_given_up(self.inner().raft.add_learner(peer.node.0, node, false)).await;
        Ok(self.committed(added)?.position)
    }

    /// Takes nodes out that do not vote.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn remove_learners(&self, nodes: impl IntoIterator<Item = NodeId>) -> Result<Position, ProposeError> {
        let nodes: BTreeSet<u64> = nodes.into_iter().map(|node| node.0).collect();
        let change = self.inner().raft.change_membership(ChangeMembers::RemoveNodes(nodes), true);
        let changed = self.unless_given_up(change).await;
        Ok(self.committed(changed)?.position)
    }

    /// Adds a node that receives the log and does not vote, and waits until it has nearly caught up.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn add_learner(&self, peer: Peer) -> Result<Position, ProposeError> {
        let node = openraft::BasicNode::new(peer.addr);
        let added = self.unless_given_up(self.inner().raft.add_learner(peer.node.0, node, true)).await;
        Ok(self.committed(added)?.position)
    }

    /// Makes exactly these nodes the voters. Those that are no voter any more leave the group.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn change_voters(&self, voters: impl IntoIterator<Item = NodeId>) -> Result<Position, ProposeError> {
        self.change_voters_and(voters, false).await
    }

    /// As [`Group::change_voters`]; those that are no voter any more stay as learners.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn demote_others(&self, voters: impl IntoIterator<Item = NodeId>) -> Result<Position, ProposeError> {
        self.change_voters_and(voters, true).await
    }

    async fn change_voters_and(
        &self,
        voters: impl IntoIterator<Item = NodeId>,
        others_stay: bool,
    ) -> Result<Position, ProposeError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|node| node.0).collect();
        let change = self.inner().raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), others_stay);
        let changed = self.unless_given_up(change).await;
        Ok(self.committed(changed)?.position)
    }

    /// Asks for leadership to be handed over, if this node leads. The change shows in [`Group::leadership`].
    ///
    /// # Errors
    /// [`ProposeError::ShuttingDown`] or [`ProposeError::Failed`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ProposeError> {
        self.inner().raft.trigger().transfer_leader(to.0).await.map_err(|fatal| ProposeError::fatal(&fatal))
    }
}
