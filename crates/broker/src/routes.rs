//! Which groups are on this node, who leads them, and those that it leads itself. Requests find their group's router here,
//! sessions learn of changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::push::GroupLeader;
use coda_raft_store::group::Group;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::router::Router;
use crate::wants::Starving;

const FIRST_DATA_GROUP: GroupId = GroupId(1);

/// The groups of this node. One is led here from the moment that its leader has recovered. Cheap to clone.
#[derive(Clone)]
pub struct Routes(Arc<Inner>);

struct Inner {
    hosted: RwLock<BTreeMap<GroupId, Group>>,
    /// As this node's copies have heard.
    leaders: RwLock<BTreeMap<GroupId, GroupLeader>>,
    led: RwLock<BTreeMap<GroupId, Router>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
    starving: Starving,
}

impl Default for Routes {
    fn default() -> Self {
        Self(Arc::new(Inner {
            hosted: RwLock::default(),
            leaders: RwLock::default(),
            led: RwLock::default(),
            changes: watch::Sender::new(0),
            starving: Starving::default(),
        }))
    }
}

impl Routes {
    /// The group's router, if it is led here.
    #[must_use]
    pub fn get(&self, group: GroupId) -> Option<Router> {
        self.0.led.read().get(&group).cloned()
    }

    /// As [`Routes::get`], in this term only.
    #[must_use]
    pub fn get_in(&self, group: GroupId, term: u64) -> Option<Router> {
        self.get(group).filter(|router| router.shared.term == term)
    }

    /// The data groups that are led here.
    #[must_use]
    pub fn all(&self) -> Vec<Router> {
        self.0.led.read().range(FIRST_DATA_GROUP..).map(|(_, router)| router.clone()).collect()
    }

    /// How many data groups are led here.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.led.read().range(FIRST_DATA_GROUP..).count()
    }

    /// All that are led here, with their terms.
    #[must_use]
    pub fn led(&self) -> Vec<Router> {
        self.0.led.read().values().cloned().collect()
    }

    /// The group has a copy on this node from now on.
    pub fn host(&self, group: Group) {
        self.0.hosted.write().insert(group.id(), group);
    }

    /// It has none any more.
    pub fn unhost(&self, group: GroupId) {
        self.0.hosted.write().remove(&group);
        self.0.leaders.write().remove(&group);
    }

    /// The group, if it has a copy on this node.
    #[must_use]
    pub fn hosted(&self, group: GroupId) -> Option<Group> {
        self.0.hosted.read().get(&group).cloned()
    }

    /// All groups that have a copy on this node, by id.
    #[must_use]
    pub fn all_hosted(&self) -> Vec<Group> {
        self.0.hosted.read().values().cloned().collect()
    }

    /// The node stops.
    pub fn clear(&self) {
        self.0.hosted.write().clear();
        self.0.led.write().clear();
    }

    /// A copy on this node has heard who leads.
    pub fn heard(&self, leader: GroupLeader) {
        self.0.leaders.write().insert(leader.group, leader);
    }

    /// Who leads a group that has a copy here, as far as that has heard.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.0.leaders.read().get(&group)?.leader
    }

    /// Who leads what has a copy here.
    #[must_use]
    pub fn leaders(&self) -> Vec<GroupLeader> {
        self.0.leaders.read().values().copied().collect()
    }

    /// The group is led here from now on.
    pub fn begin(&self, router: Router) {
        self.0.led.write().insert(router.shared.group.id(), router);
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// This leadership is over, unless another one has begun.
    pub fn end(&self, group: GroupId, term: u64) {
        let mut led = self.0.led.write();
        if led.get(&group).is_some_and(|router| router.shared.term == term) {
            led.remove(&group);
            drop(led);
            self.0.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Where proposers say which queues wait for slots.
    #[must_use]
    pub fn starving(&self) -> &Starving {
        &self.0.starving
    }

    /// Notified of every change after this call.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}
