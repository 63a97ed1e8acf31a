//! What this node has heard of the cluster: the meta group's state, as far as this node's copy has come.

use std::collections::BTreeMap;
use std::sync::Arc;

use coda_engine::cluster::rows::PlacementRow;
use coda_engine::query;
use coda_protocol::cluster::{ClusterMap, MemberDescription, NodeState};
use coda_protocol::ids::{GroupId, NodeId};
use coda_raft_store::group::Group;
use tokio::sync::watch;

/// The cluster at one moment. Empty before there is one, or before this node has joined it.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub map: Option<Arc<ClusterMap>>,
    /// All that are known, the removed ones too.
    pub members: BTreeMap<NodeId, MemberDescription>,
    pub placements: BTreeMap<GroupId, PlacementRow>,
}

impl View {
    /// Reads it from this node's copy of the meta group.
    #[must_use]
    pub fn read(meta: &Group) -> Self {
        meta.read(|kv, _| {
            let Ok(map) = query::cluster::map(kv) else { return Self::default() };
            let members = query::cluster::nodes(kv).into_iter().map(|member| (member.node, member)).collect();
            let placement = |group: GroupId| Some((group, query::cluster::placement(kv, group).ok()?));
            let placements = map.groups.iter().filter_map(|group| placement(group.group)).collect();
            Self { map: Some(Arc::new(map)), members, placements }
        })
    }

    #[must_use]
    pub fn state(&self, node: NodeId) -> Option<NodeState> {
        self.members.get(&node).map(|member| member.state)
    }

    /// Members that were not removed.
    pub fn live(&self) -> impl Iterator<Item = &MemberDescription> {
        self.members.values().filter(|member| member.state != NodeState::Removed)
    }

    #[must_use]
    pub fn peer_addr(&self, node: NodeId) -> String {
        self.members.get(&node).map(|member| member.registration.peer_addr.to_string()).unwrap_or_default()
    }
}

/// The latest view, for all who follow it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClusterView(Arc<watch::Sender<Arc<View>>>);

impl Default for ClusterView {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Arc::default())))
    }
}

impl ClusterView {
    #[must_use]
    pub fn get(&self) -> Arc<View> {
        self.0.borrow().clone()
    }

    #[must_use]
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.0.borrow().map.clone()
    }

    pub fn set(&self, view: View) {
        self.0.send_replace(Arc::new(view));
    }

    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Arc<View>> {
        self.0.subscribe()
    }
}
