//! What every connection of a node shares: who the node is, who is connected, and where each group is led.

use std::sync::Arc;

use coda_protocol::cluster::{ClusterMap, Registration};
use coda_protocol::ids::{ClusterId, GroupId, NodeId, SessionId, Slot};
use coda_protocol::reject::{Refusal, Reject, Unavailable};
use coda_raft_store::store::NodeStore;
use ractor::ActorRef;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::cluster::{Asking, ClusterView, Hosting, Rebalance};
use crate::dispatch::Epoch;
use crate::intake::Intake;
use crate::messages::SupervisorMsg;
use crate::router::Router;
use crate::routes::Routes;
use crate::sessions::Sessions;

/// Cheap to clone.
#[derive(Clone)]
pub struct Host {
    pub node: NodeId,
    pub incarnation: u64,
    pub started: Instant,
    pub store: NodeStore,
    pub sessions: Sessions,
    pub supervisor: ActorRef<SupervisorMsg>,
    pub routes: Routes,
    /// What this node says of itself.
    pub registration: Arc<Registration>,
    pub cluster: ClusterView,
    pub hosting: Hosting,
    pub asking: Asking,
    pub rebalance: Rebalance,
    pub clock: Arc<dyn Clock>,
    /// Room for large frames of clients.
    pub intake: Intake,
    /// As its certificate says.
    pub cluster_id: ClusterId,
}

impl Host {
    /// What clients route by; none before there is a cluster, or before this node has joined it.
    #[must_use]
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.cluster.map()
    }

    /// # Errors
    /// [`Reject::NoCluster`], before this node has heard of it.
    pub fn group_of(&self, slot: Slot) -> Result<GroupId, Reject> {
        Ok(self.map().ok_or(Reject::NoCluster)?.group_of(slot))
    }

    /// The data groups of the cluster.
    ///
    /// # Errors
    /// [`Reject::NoCluster`], before this node has heard of it.
    pub fn groups(&self) -> Result<Vec<GroupId>, Reject> {
        let map = self.map().ok_or(Reject::NoCluster)?;
        Ok(map.groups.iter().map(|group| group.group).filter(|group| *group != GroupId::META).collect())
    }

    /// The router of a slot's group, if it is led here.
    ///
    /// # Errors
    /// [`Reject::NoCluster`] or [`Unavailable::NotLeader`].
    pub fn led_of(&self, slot: Slot) -> Result<Router, Refusal> {
        Ok(self.led(self.group_of(slot)?)?)
    }

    /// Who leads a group, as this node's copy has heard. Of one that has no copy here others know:
    /// [`Asking::find_leader`].
    #[must_use]
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        if self.routes.get(group).is_some() {
            return Some(self.node);
        }
        self.routes.leader(group).filter(|node| *node != self.node)
    }

    /// The group's router, if it is led here.
    ///
    /// # Errors
    /// [`Unavailable::NotLeader`].
    pub fn led(&self, group: GroupId) -> Result<Router, Unavailable> {
        self.routes.get(group).ok_or(Unavailable::NotLeader { leader: None })
    }

    /// A connection is gone: nothing more is leased to it or answered on it. Its outbox was closed before.
    pub fn session_gone(&self, session: SessionId, epoch: Epoch) {
        self.routes.all().iter().for_each(|router| router.session_gone(session, epoch));
    }
}
