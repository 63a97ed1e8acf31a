//! Who belongs to a group, and handing the leadership around.

use std::collections::BTreeSet;

use coda_protocol::ids::{NodeId, Position};
use openraft::ChangeMembers;

use crate::group::{Group, ProposeError};
use crate::peers::Peer;

impl Group {
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
        let voters: BTreeSet<u64> = voters.into_iter().map(|node| node.0).collect();
        let change = self.inner().raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false);
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
