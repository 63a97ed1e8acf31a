//! Where a group should be, and who should lead it. Nothing moves here: its leader follows.

use std::collections::BTreeSet;

use coda_protocol::cluster::NodeState;
use coda_protocol::ids::NodeId;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use smol_str::{SmolStr, format_smolstr};

use super::command::PlaceGroup;
use super::members;
use super::rows::PlacementRow;
use crate::apply::Cx;
use crate::command::Outcome;
use crate::placement::survives;
use crate::tables::PLACEMENT;

pub(crate) fn apply(cx: &mut Cx<'_>, place: &PlaceGroup) -> Outcome {
    let mut cluster = members::cluster(cx)?;
    let row = members::placement(cx, place.group)?;
    if row.voters == place.voters && row.leader == place.leader {
        return Ok(Reply::Done);
    }
    members::check_seen(&cluster, place.group, &row, place.seen)?;
    let bad = |why: SmolStr| Reject::BadPlacement { group: place.group.0, why };
    for node in place.voters.iter().filter(|node| !row.voters.contains(node)) {
        let state = members::node(cx, *node)?.state;
        if state != NodeState::Active {
            return Err(bad(format_smolstr!("node {} is {state}", node.0)));
        }
    }
    let wanted = survives(usize::from(cluster.replication_factor)).min(survives(row.voters.len()));
    if survives(place.voters.len()) < wanted {
        return Err(bad("it would survive the loss of fewer nodes than now".into()));
    }
    let before: BTreeSet<NodeId> = row.voters.iter().chain(&row.leaving).copied().collect();
    let row = PlacementRow {
        voters: place.voters.clone(),
        leader: place.leader,
        leaving: before.into_iter().filter(|node| !place.voters.contains(node)).collect(),
        version: cluster.map_version + 1,
    };
    PLACEMENT.put(cx.kv, cx.group, &place.group, &row);
    members::changed(cx, &mut cluster);
    Ok(Reply::Done)
}
