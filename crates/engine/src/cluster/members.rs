//! What the commands of the meta group share: its rows, and telling that they changed.

use coda_protocol::cluster::{NodeState, Registration};
use coda_protocol::ids::{GroupId, NodeId, StorageId};
use coda_protocol::reject::Reject;

use super::rows::{ClusterRow, NodeRow, PlacementRow};
use super::settings::UPGRADE_AUTO;
use crate::apply::Cx;
use crate::effect::Effect;
use crate::tables::{CLUSTER, NODE, PLACEMENT, STORAGE};

pub(super) fn cluster(cx: &Cx<'_>) -> Result<ClusterRow, Reject> {
    CLUSTER.get(cx.kv, cx.group, &()).ok_or(Reject::NoCluster)
}

/// A node that is known, removed or not.
pub(super) fn node(cx: &Cx<'_>, node: NodeId) -> Result<NodeRow, Reject> {
    NODE.get(cx.kv, cx.group, &node).ok_or(Reject::NoSuchNode { node: node.0 })
}

/// Who says that it is this node, with this data folder: the node, or a stranger. An id and a data folder belong together,
/// for good.
pub(super) fn identify(cx: &Cx<'_>, node: NodeId, storage: StorageId) -> Result<Option<NodeRow>, Reject> {
    let row = NODE.get(cx.kv, cx.group, &node);
    if row.as_ref().is_some_and(|row| row.state == NodeState::Removed) {
        return Err(Reject::NodeRemoved { node: node.0 });
    }
    if let Some(other) = STORAGE.get(cx.kv, cx.group, &storage).filter(|other| *other != node) {
        let state = NODE.get(cx.kv, cx.group, &other).expect("a storage is of a known node").state;
        let is_removed = state == NodeState::Removed;
        let node = other.0;
        return Err(if is_removed { Reject::NodeRemoved { node } } else { Reject::OtherNode { node } });
    }
    // Its votes and its logs are gone: under the old id it could break what it promised.
    if row.as_ref().is_some_and(|row| row.registration.storage != storage) {
        return Err(Reject::WipedDisk { node: node.0 });
    }
    Ok(row)
}

pub(super) fn nodes(cx: &Cx<'_>) -> Vec<(NodeId, NodeRow)> {
    NODE.all(cx.kv, cx.group)
}

pub(super) fn placement(cx: &Cx<'_>, group: GroupId) -> Result<PlacementRow, Reject> {
    PLACEMENT.get(cx.kv, cx.group, &group).ok_or(Reject::NoSuchGroup { group: group.0 })
}

/// An older binary could not read what is in the log already.
pub(super) fn check_commands(cluster: &ClusterRow, registration: &Registration) -> Result<(), Reject> {
    let (commands_version, needed) = (registration.commands_version, cluster.commands_version);
    if commands_version < needed { Err(Reject::TooOld { commands_version, needed }) } else { Ok(()) }
}

/// Whether the group's placement is still what the map of that version says. There is no map of the future.
pub(super) fn check_seen(cluster: &ClusterRow, group: GroupId, row: &PlacementRow, seen: u64) -> Result<(), Reject> {
    let is_current = (row.version..=cluster.map_version).contains(&seen);
    if is_current { Ok(()) } else { Err(Reject::PlacementChanged { group: group.0, version: row.version }) }
}

/// Writes the cluster's row after a change, and tells.
pub(super) fn changed(cx: &mut Cx<'_>, cluster: &mut ClusterRow) {
    agree(cx, cluster);
    cluster.map_version += 1;
    CLUSTER.put(cx.kv, cx.group, &(), cluster);
    cx.effects.push(Effect::MapChanged(cluster.map_version));
}

/// What every node understands may be proposed from now on.
fn agree(cx: &Cx<'_>, cluster: &mut ClusterRow) {
    if !UPGRADE_AUTO.get(cx.kv) {
        return;
    }
    let live = nodes(cx).into_iter().filter(|(_, row)| row.state != NodeState::Removed);
    let common = live.map(|(_, row)| row.registration.commands_version).min().unwrap_or(cluster.commands_version);
    cluster.commands_version = common.max(cluster.commands_version);
}
