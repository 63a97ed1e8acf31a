//! A node that nothing is on leaves for good. Its id and its data folder stay known, to be refused.

use coda_protocol::cluster::NodeState;
use coda_protocol::ids::NodeId;
use coda_protocol::limits::REMOVED_NODES_MAX;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use super::members;
use super::rows::{NodeEvent, NodeRow, on};
use crate::apply::Cx;
use crate::command::Outcome;
use crate::tables::{NODE, PLACEMENT, STORAGE};

pub(crate) fn apply(cx: &mut Cx<'_>, node: NodeId) -> Outcome {
    let mut cluster = members::cluster(cx)?;
    let row = members::node(cx, node)?;
    let state = on(node, row.state, NodeEvent::Removed)?;
    if state == row.state {
        return Ok(Reply::Done);
    }
    let groups = PLACEMENT.all(cx.kv, cx.group).iter().filter(|(_, placement)| placement.is_on(node)).count();
    if groups > 0 {
        return Err(Reject::NotEmpty { node: node.0, groups: groups as u64 });
    }
    NODE.put(cx.kv, cx.group, &node, &NodeRow { state, since: cx.now, ..row });
    forget_oldest(cx);
    members::changed(cx, &mut cluster);
    Ok(Reply::Done)
}

/// Keeps what is known of removed nodes within its bound. One that is forgotten is a stranger, and needs a token.
fn forget_oldest(cx: &mut Cx<'_>) {
    let nodes = members::nodes(cx);
    let removed: Vec<_> = nodes.iter().filter(|(_, row)| row.state == NodeState::Removed).collect();
    let oldest = removed.iter().min_by_key(|(node, row)| (row.since, *node));
    if let Some((node, row)) = oldest.filter(|_| removed.len() > REMOVED_NODES_MAX) {
        NODE.delete(cx.kv, cx.group, node);
        STORAGE.delete(cx.kv, cx.group, &row.registration.storage);
    }
}
