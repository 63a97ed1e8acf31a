//! A node that knows a token's secret becomes a member, under the id that its certificate gives it. Asking twice is asking
//! once.
//!
//! Addresses may repeat: what replaces a node often has its address before that node is removed. Whoever dials it finds
//! out by its certificate.

use coda_protocol::cluster::{NodeState, Registration};
use coda_protocol::ids::{NodeId, TokenId};
use coda_protocol::join::TokenDigest;
use coda_protocol::limits::CLUSTER_NODES_MAX;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use super::members;
use super::rows::{ClusterRow, NodeRow, TokenRow};
use crate::apply::Cx;
use crate::command::Outcome;
use crate::tables::{NODE, STORAGE, TOKEN};

pub(crate) fn apply(
    cx: &mut Cx<'_>,
    (id, digest): (TokenId, TokenDigest),
    node: NodeId,
    registration: &Registration,
) -> Outcome {
    let mut cluster = members::cluster(cx)?;
    // Digests of long random secrets: how long the comparison takes tells nothing.
    let token = TOKEN.get(cx.kv, cx.group, &id).filter(|row| row.digest == digest).ok_or(Reject::BadToken)?;
    let known = match token.redeemed {
        Some((by, _)) if by != node => return Err(Reject::TokenUsed { node: by.0 }),
        // By a node that is so long gone that it is forgotten, if it is not known.
        Some(_) => {
            members::identify(cx, node, registration.storage)?.ok_or(Reject::NodeRemoved { node: node.0 })?;
            return Ok(Reply::Done);
        }
        None if token.expires <= cx.now => return Err(Reject::TokenExpired),
        None => members::identify(cx, node, registration.storage)?,
    };
    members::check_commands(&cluster, registration)?;
    // A known one joined before, and lost the answer and then the token. What it says of itself now, it registers.
    if known.is_none() {
        admit(cx, &mut cluster, node, registration)?;
    }
    TOKEN.put(cx.kv, cx.group, &id, &TokenRow { redeemed: Some((node, cx.now)), ..token });
    Ok(Reply::Done)
}

fn admit(cx: &mut Cx<'_>, cluster: &mut ClusterRow, node: NodeId, registration: &Registration) -> Result<(), Reject> {
    let live = members::nodes(cx).iter().filter(|(_, row)| row.state != NodeState::Removed).count();
    if live >= CLUSTER_NODES_MAX {
        return Err(Reject::ClusterFull { nodes_max: CLUSTER_NODES_MAX as u64 });
    }
    let row = NodeRow { registration: registration.clone(), state: NodeState::Joining, since: cx.now };
    NODE.insert(cx.kv, cx.group, &node, &row);
    STORAGE.insert(cx.kv, cx.group, &registration.storage, &node);
    members::changed(cx, cluster);
    Ok(())
}
