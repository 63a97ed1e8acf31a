//! Which groups this node leads. Requests find their group's router here, sessions learn of changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use coda_protocol::ids::GroupId;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::router::Router;
use crate::wants::Starving;

/// The groups that are led here, each from the moment that its leader has recovered. Cheap to clone.
#[derive(Clone)]
pub struct Routes(Arc<Inner>);

struct Inner {
    led: RwLock<BTreeMap<GroupId, Router>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
    starving: Starving,
}

impl Default for Routes {
    fn default() -> Self {
        Self(Arc::new(Inner { led: RwLock::default(), changes: watch::Sender::new(0), starving: Starving::default() }))
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

    #[must_use]
    pub fn all(&self) -> Vec<Router> {
        self.0.led.read().values().cloned().collect()
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.0.led.read().len()
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
