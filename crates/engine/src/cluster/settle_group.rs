//! A group is where it should be: those that left it can be removed from the cluster.

use coda_protocol::ids::GroupId;
use coda_protocol::reply::Reply;

use super::members;
use super::rows::PlacementRow;
use crate::apply::Cx;
use crate::command::Outcome;
use crate::tables::PLACEMENT;

pub(crate) fn apply(cx: &mut Cx<'_>, group: GroupId, version: u64) -> Outcome {
    let cluster = members::cluster(cx)?;
    let row = members::placement(cx, group)?;
    // What was seen of an earlier placement says nothing of this one.
    members::check_seen(&cluster, group, &row, version)?;
    if !row.leaving.is_empty() {
        PLACEMENT.put(cx.kv, cx.group, &group, &PlacementRow { leaving: vec![], ..row });
    }
    Ok(Reply::Done)
}
