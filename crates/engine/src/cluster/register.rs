//! A node has started and says where it is and what it runs. A disk that is not the node's own is refused, and one that
//! is not up to date.

use coda_protocol::cluster::Registration;
use coda_protocol::ids::NodeId;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use super::members;
use super::rows::NodeRow;
use crate::apply::Cx;
use crate::command::Outcome;
use crate::tables::NODE;

pub(crate) fn apply(cx: &mut Cx<'_>, node: NodeId, registration: &Registration) -> Outcome {
    let mut cluster = members::cluster(cx)?;
    let row = members::identify(cx, node, registration.storage)?.ok_or(Reject::NoSuchNode { node: node.0 })?;
    // Its votes may be older than those that it gave, or another process gives them by now.
    let (incarnation, known) = (registration.incarnation, row.registration.incarnation);
    if incarnation < known {
        return Err(Reject::OldIncarnation { node: node.0, incarnation, known });
    }
    members::check_commands(&cluster, registration)?;
    if row.registration == *registration {
        return Ok(Reply::Done);
    }
    NODE.put(cx.kv, cx.group, &node, &NodeRow { registration: registration.clone(), ..row });
    members::changed(cx, &mut cluster);
    Ok(Reply::Done)
}
