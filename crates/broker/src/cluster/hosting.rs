//! Which groups run on this node: those that the cluster has placed here, and the meta group.

use std::sync::Arc;
use std::time::Duration;

use coda_protocol::ids::{GroupId, NodeId};
use coda_raft_store::error::StoreError;
use coda_raft_store::group::{Group, GroupOptions};
use coda_raft_store::peers::PeerTransport;
use coda_raft_store::store::NodeStore;
use ractor::{ActorRef, call};
use tokio::sync::Mutex;
use tokio::time::sleep;
use tracing::{info, warn};

use super::ask::{Ask, Said};
use crate::host::Host;
use crate::messages::SupervisorMsg;
use crate::peers::GroupTable;
use crate::routes::Routes;

/// Before it is tried again to delete a group, or to start one.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Starts and ends groups. Cheap to clone.
#[derive(Clone)]
pub struct Hosting(Arc<Inner>);

struct Inner {
    node: NodeId,
    /// Where other nodes find this one.
    address: String,
    store: NodeStore,
    transport: Arc<dyn PeerTransport>,
    table: GroupTable,
    routes: Routes,
    supervisor: ActorRef<SupervisorMsg>,
    /// One change at a time.
    changing: Mutex<()>,
}

/// What groups are started with.
pub struct HostingOptions {
    pub node: NodeId,
    pub address: String,
    pub store: NodeStore,
    pub transport: Arc<dyn PeerTransport>,
    pub table: GroupTable,
    pub routes: Routes,
    pub supervisor: ActorRef<SupervisorMsg>,
}

impl Hosting {
    #[must_use]
    pub fn new(options: HostingOptions) -> Self {
        let HostingOptions { node, address, store, transport, table, routes, supervisor } = options;
        Self(Arc::new(Inner { node, address, store, transport, table, routes, supervisor, changing: Mutex::default() }))
    }

    /// Starts a group on this node, unless it runs.
    ///
    /// # Errors
    /// As [`Group::start`].
    pub async fn start(&self, group: GroupId) -> Result<Group, StoreError> {
        let _changing = self.0.changing.lock().await;
        self.start_it(group).await
    }

    async fn start_it(&self, id: GroupId) -> Result<Group, StoreError> {
        let Inner { node, address, store, transport, table, routes, supervisor, .. } = &*self.0;
        if let Some(group) = routes.hosted(id) {
            return Ok(group);
        }
        let options = GroupOptions { addr: address.clone(), ..GroupOptions::new(id, *node) };
        let group = Group::start(store.clone(), options, transport.clone()).await?;
        table.insert(id, Arc::new(group.clone()));
        routes.host(group.clone());
        drop(supervisor.cast(SupervisorMsg::Host(group.clone())));
        Ok(group)
    }

    async fn stop_it(&self, group: &Group) {
        let Inner { table, routes, supervisor, .. } = &*self.0;
        table.remove(group.id());
        drop(call!(supervisor, |done| SupervisorMsg::Unhost(group.id(), done)));
        routes.unhost(group.id());
        group.shutdown().await;
    }

    /// Starts what is placed here and is not running, and deletes what has left, whenever the cluster changes.
    pub async fn follow(host: Host) {
        let mut view = host.cluster.follow();
        loop {
            let (placed, left) = {
                let view = view.borrow_and_update();
                let placed = |group: &GroupId| view.placements.get(group).is_some_and(|row| row.is_on(host.node));
                let start: Vec<GroupId> = view.placements.keys().filter(|group| placed(group)).copied().collect();
                let hosted = host.routes.all_hosted().into_iter().filter(|group| group.id() != GroupId::META);
                let left: Vec<Group> = hosted.filter(|group| view.map.is_some() && !placed(&group.id())).collect();
                (start, left)
            };
            let mut again = false;
            for group in placed {
                if let Err(error) = host.hosting.start(group).await {
                    warn!(group = group.0, %error, "a group cannot be started here, trying again");
                    again = true;
                }
            }
            for group in left {
                again |= !host.hosting.leave(&host, group).await;
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return },
                () = sleep(TRY_AGAIN), if again => {}
            }
        }
    }

    /// Deletes this node's copy of a group, if the cluster is sure that it is none any more. Whether all is done.
    async fn leave(&self, host: &Host, group: Group) -> bool {
        let id = group.id();
        if self.is_placed_here(host, id).await != Some(false) {
            // Perhaps this node has not heard yet that it is placed here again: a later view will say.
            return false;
        }
        let _changing = self.0.changing.lock().await;
        info!(group = id.0, "the group has left this node, its copy is deleted");
        self.stop_it(&group).await;
        drop(group);
        // Asked again, now that nothing can be promised here any more: it may have been placed here meanwhile.
        if self.is_placed_here(host, id).await == Some(false) {
            match self.0.store.delete_group(id).await {
                Ok(()) => return true,
                Err(error) => warn!(group = id.0, %error, "the copy cannot be deleted"),
            }
        }
        if let Err(error) = self.start_it(id).await {
            warn!(group = id.0, %error, "the group cannot be started again");
        }
        false
    }

    async fn is_placed_here(&self, host: &Host, group: GroupId) -> Option<bool> {
        match host.asking.leader(host, Ask::Placement(group)).await {
            Ok(Said::Placement(row)) => Some(row.is_on(self.0.node)),
            Ok(_) | Err(_) => None,
        }
    }
}
