//! A node comes into use, is drained, or is taken back.

use coda_protocol::cluster::NodeState;
use coda_protocol::ids::NodeId;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use super::members;
use super::rows::{NodeEvent, NodeRow, on};
use crate::apply::Cx;
use crate::command::Outcome;
use crate::tables::NODE;

pub(crate) fn apply(cx: &mut Cx<'_>, node: NodeId, event: NodeEvent) -> Outcome {
    let mut cluster = members::cluster(cx)?;
    let row = members::node(cx, node)?;
    let state = on(node, row.state, event)?;
    if state == row.state {
        return Ok(Reply::Done);
    }
    if state == NodeState::Draining && !others_are_active(cx, node) {
        return Err(Reject::LastNode { node: node.0 });
    }
    NODE.put(cx.kv, cx.group, &node, &NodeRow { state, since: cx.now, ..row });
    members::changed(cx, &mut cluster);
    Ok(Reply::Done)
}

/// With nobody left to take anything, draining would never end.
fn others_are_active(cx: &Cx<'_>, node: NodeId) -> bool {
    members::nodes(cx).iter().any(|(other, row)| *other != node && row.state == NodeState::Active)
}
