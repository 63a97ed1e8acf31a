//! A cluster begins: with one node, on which everything is until others join.

use coda_protocol::cluster::NodeState;
use coda_protocol::ids::GroupId;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::slots::SlotMap;

use super::command::InitCluster;
use super::members;
use super::rows::{ClusterRow, NodeRow, PlacementRow};
use crate::apply::Cx;
use crate::command::Outcome;
use crate::tables::{CLUSTER, NODE, PLACEMENT, SLOT_MAP, STORAGE};

pub(crate) fn apply(cx: &mut Cx<'_>, init: &InitCluster) -> Outcome {
    let node = init.node;
    if let Some(known) = CLUSTER.get(cx.kv, cx.group, &()) {
        let is_founder = STORAGE.get(cx.kv, cx.group, &init.founder.storage) == Some(node);
        // The replication factor may have been changed since.
        if is_founder && (known.cluster, known.groups) == (init.cluster, init.groups) {
            return Ok(Reply::Done);
        }
        return Err(Reject::ClusterExists { cluster: known.cluster.to_string() });
    }
    let row = NodeRow { registration: init.founder.clone(), state: NodeState::Active, since: cx.now };
    NODE.insert(cx.kv, cx.group, &node, &row);
    STORAGE.insert(cx.kv, cx.group, &init.founder.storage, &node);
    for group in (0..=u32::from(init.groups)).map(GroupId) {
        let row = PlacementRow { voters: vec![node], leader: Some(node), leaving: vec![], version: 1 };
        PLACEMENT.insert(cx.kv, cx.group, &group, &row);
    }
    SLOT_MAP.insert(cx.kv, cx.group, &(), &SlotMap::even(init.groups));
    let mut cluster = ClusterRow {
        cluster: init.cluster,
        replication_factor: init.replication_factor,
        groups: init.groups,
        created: cx.now,
        map_version: 0,
        commands_version: init.founder.commands_version,
    };
    members::changed(cx, &mut cluster);
    Ok(Reply::Done)
}
