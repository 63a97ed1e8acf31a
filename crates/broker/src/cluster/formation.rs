//! How a cluster begins, and how a node takes its place in it at each start.

use std::time::Duration;

use coda_engine::cluster::command::{ClusterCommand, InitCluster};
use coda_engine::command::Command;
use coda_protocol::ids::{GroupId, Position};
use coda_protocol::limits::GROUPS_MAX;
use coda_protocol::push::Push;
use coda_protocol::reject::{Refusal, Reject, Unavailable};
use coda_protocol::reply::Reply;
use coda_raft_store::group::Group;
use tokio::time::sleep;
use tracing::{info, warn};

use super::view::View;
use crate::config::RETRY_AFTER_MS;
use crate::host::Host;
use crate::peers::PeerEndpoint;

/// Before a node says again that it has started.
const REGISTER_AGAIN: Duration = Duration::from_millis(200);

/// Begins a cluster with this node as its first. Said again, it does no harm; interrupted, it is to be said again.
///
/// # Errors
/// What the rules refuse, or that a group does not come up.
pub async fn init(host: &Host, replication_factor: u8, groups: u16) -> Result<(Position, Reply), Refusal> {
    let init = InitCluster {
        cluster: host.cluster_id,
        replication_factor,
        groups,
        node: host.node,
        founder: (*host.registration).clone(),
    };
    let command = Command::Cluster(ClusterCommand::Init(init));
    command.check()?;
    if host.map().is_none() {
        let failed = |error: &dyn std::fmt::Display| {
            warn!(%error, "a group of the new cluster does not come up");
            Refusal::from(Unavailable::Overloaded { retry_after_ms: RETRY_AFTER_MS })
        };
        // The groups before the map that leads to them. Data groups of a node that was alone before are kept.
        for group in (0..=u32::from(groups.min(GROUPS_MAX))).map(GroupId) {
            let group = host.hosting.start(group).await.map_err(|error| failed(&error))?;
            group.initialize_single().await.map_err(|error| failed(&error))?;
        }
    }
    host.asking.propose(host, GroupId::META, command).await
}

/// Says that this node has started, until it is heard.
///
/// # Errors
/// Why it must not take part.
pub async fn register(host: &Host) -> Result<(), Reject> {
    let mut view = host.cluster.follow();
    let is_member = |view: &std::sync::Arc<View>| view.members.contains_key(&host.node);
    if view.wait_for(is_member).await.is_err() {
        return Ok(());
    }
    loop {
        let register = ClusterCommand::Register { node: host.node, registration: (*host.registration).clone() };
        match host.asking.propose(host, GroupId::META, Command::Cluster(register)).await {
            Ok(_) => return Ok(()),
            Err(Refusal::Reject(reject)) => return Err(reject),
            Err(Refusal::Unavailable(_)) => sleep(REGISTER_AGAIN).await,
        }
    }
}

/// Follows the meta group's state: tells sessions the new map, and peers who may be here.
pub async fn follow(host: Host, meta: Group, peers: Option<std::sync::Arc<PeerEndpoint>>) {
    let mut changes = meta.changes();
    while changes.next().await {
        let (before, now) = (host.cluster.get(), View::read(&meta));
        let version = |view: &View| view.map.as_ref().map(|map| map.version);
        let is_new = version(&before) != version(&now);
        if is_new && let Some(peers) = &peers {
            for member in now.live().filter(|member| member.node != host.node) {
                peers.know(member.node, &member.registration.peer_addr);
            }
        }
        let map = now.map.clone();
        // Settled placements are no new version.
        host.cluster.set(now);
        if is_new {
            if let Some(map) = map {
                info!(
                    version = map.version,
                    nodes = map.nodes.len(),
                    groups = map.groups.len(),
                    "the cluster has changed"
                );
                host.sessions.push_all(&Push::Map((*map).clone()));
            }
            if let Some(peers) = &peers {
                peers.readmit();
            }
        }
    }
}
