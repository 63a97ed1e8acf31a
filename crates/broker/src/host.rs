//! What every connection of a node shares: who the node is, who is connected, and where each group is led.

use std::sync::Arc;

use coda_protocol::cluster::ClusterMap;
use coda_protocol::ids::{GroupId, NodeId, SessionId, Slot};
use coda_protocol::reject::Unavailable;
use coda_raft_store::store::NodeStore;
use parking_lot::RwLock;
use ractor::ActorRef;
use tokio::time::Instant;

use crate::dispatch::Epoch;
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
    pub map: Arc<RwLock<Arc<ClusterMap>>>,
}

impl Host {
    #[must_use]
    pub fn map(&self) -> Arc<ClusterMap> {
        self.map.read().clone()
    }

    #[must_use]
    pub fn group_of(&self, slot: Slot) -> GroupId {
        self.map.read().group_of(slot)
    }

    /// The data groups of the cluster.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.map().groups.iter().map(|group| group.group).filter(|group| *group != GroupId::META).collect()
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
