//! More or fewer copies of each group, from the next plan on.

use coda_protocol::reply::Reply;

use super::members;
use crate::apply::Cx;
use crate::command::Outcome;

pub(crate) fn apply(cx: &mut Cx<'_>, replication_factor: u8) -> Outcome {
    let mut cluster = members::cluster(cx)?;
    if cluster.replication_factor != replication_factor {
        cluster.replication_factor = replication_factor;
        members::changed(cx, &mut cluster);
    }
    Ok(Reply::Done)
}
