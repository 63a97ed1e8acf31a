//! What operators ask. Any node answers: by itself, by asking the meta group's leader, or by asking everybody.

use std::time::Duration;

use coda_engine::cluster::command::{ClusterCommand, PlaceGroup};
use coda_engine::command::Command;
use coda_engine::query;
use coda_protocol::ids::{GroupId, NodeId, Position};
use coda_protocol::operate::{ClusterReply, ClusterRequest, ReplicaDigest};
use coda_protocol::reject::{Reject, Unavailable};
use coda_protocol::reply::Reply;
use futures::future::join_all;
use tokio::time::sleep;

use super::ask::{Ask, Said};
use super::{formation, report, steward};
use crate::describe::Described;
use crate::host::Host;

/// How long a leadership that was asked to move may take.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(8);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Answers an operator.
pub async fn operate(host: &Host, request: ClusterRequest) -> Described {
    use ClusterRequest as R;
    match request {
        R::Init { replication_factor, groups } => formation::init(host, replication_factor, groups).await,
        R::Join { token, digest, node, registration } => {
            propose(host, ClusterCommand::Join { token, digest, node, registration }).await
        }
        R::CreateToken { token, digest, ttl } => {
            propose(host, ClusterCommand::CreateToken { token, digest, ttl }).await
        }
        R::RevokeToken(token) => propose(host, ClusterCommand::RevokeToken { token }).await,
        R::Drain(node) => propose(host, ClusterCommand::Drain { node }).await,
        R::Undrain(node) => propose(host, ClusterCommand::Undrain { node }).await,
        R::Remove(node) => propose(host, ClusterCommand::Remove { node }).await,
        R::SetReplicationFactor(replication_factor) => {
            propose(host, ClusterCommand::SetReplicationFactor { replication_factor }).await
        }
        R::SetSetting { key, value } => propose(host, ClusterCommand::SetSetting { key, value }).await,
        R::ListTokens | R::ListSettings | R::Plan | R::Rebalance => ask_meta(host, request).await,
        R::Report => {
            Ok((Position::NOWHERE, cluster_reply(ClusterReply::Cluster(Box::new(report::cluster(host).await)))))
        }
        R::ReportNode(node) => report_node(host, node.unwrap_or(host.node)).await,
        R::TransferLeader { group, to } => transfer(host, group, to).await,
        R::Verify(group) => verify(host, group).await,
    }
}

fn cluster_reply(reply: ClusterReply) -> Reply {
    Reply::Cluster(reply)
}

async fn propose(host: &Host, command: ClusterCommand) -> Described {
    in_cluster(host)?;
    host.asking.propose(host, GroupId::META, Command::Cluster(command)).await
}

fn in_cluster(host: &Host) -> Result<(), Reject> {
    host.map().map(drop).ok_or(Reject::NoCluster)
}

async fn ask_meta(host: &Host, request: ClusterRequest) -> Described {
    in_cluster(host)?;
    match host.asking.leader(host, Ask::Decide(request)).await? {
        Said::Reply(position, reply) => Ok((position, reply)),
        _ => Err(Unavailable::ConnectionLost.into()),
    }
}

/// Answers what only the meta group's leader can, as that.
pub async fn decide(host: &Host, request: ClusterRequest) -> Described {
    let meta = host.led(GroupId::META)?;
    meta.confirm().await?;
    let (position, reply) = match request {
        ClusterRequest::ListTokens => {
            let now = host.clock.now();
            meta.read(|kv, position| (position, ClusterReply::Tokens(query::cluster::tokens(kv, now))))
        }
        ClusterRequest::ListSettings => {
            meta.read(|kv, position| (position, ClusterReply::Settings(query::cluster::settings(kv))))
        }
        // Of what is left, some is only seen at other nodes.
        ClusterRequest::Plan => (Position::NOWHERE, ClusterReply::Plan(steward::left(host, &meta).await?)),
        ClusterRequest::Rebalance => {
            let plan = steward::left(host, &meta).await?;
            host.rebalance.ask();
            (Position::NOWHERE, ClusterReply::Plan(plan))
        }
        _ => return Err(Unavailable::NotLeader { leader: None }.into()),
    };
    Ok((position, cluster_reply(reply)))
}

async fn report_node(host: &Host, node: NodeId) -> Described {
    match host.asking.node(host, node, Ask::Report).await? {
        Said::Reply(position, reply) => Ok((position, reply)),
        _ => Err(Unavailable::ConnectionLost.into()),
    }
}

/// Decides who should lead, and waits until it does.
async fn transfer(host: &Host, group: GroupId, to: Option<NodeId>) -> Described {
    let view = host.cluster.get();
    let (Some(map), Some(row)) = (&view.map, view.placements.get(&group)) else {
        in_cluster(host)?;
        return Err(Reject::NoSuchGroup { group: group.0 }.into());
    };
    let leader = host.asking.find_leader(host, group).await;
    let others = || row.voters.iter().copied().filter(|node| Some(*node) != leader);
    let to = match to {
        Some(to) => to,
        // The one with the least to do.
        None => {
            let leads = |node: &NodeId| view.placements.values().filter(|row| row.leader == Some(*node)).count();
            let up = others().filter(|node| host.asking.is_up(host, *node));
            let why = "no other voter answers";
            up.min_by_key(leads).ok_or(Reject::BadPlacement { group: group.0, why: why.into() })?
        }
    };
    let place = PlaceGroup { group, voters: row.voters.clone(), leader: Some(to), seen: map.version };
    let done = propose(host, ClusterCommand::PlaceGroup(place)).await?;
    // By itself the group's leader would wait until things are calm; who asks for it need not.
    host.asking.leader(host, Ask::Transfer { group, to }).await?;
    let deadline = host.clock.instant() + TRANSFER_PATIENCE;
    loop {
        let leader = host.asking.find_leader(host, group).await;
        if leader == Some(to) {
            return Ok(done);
        }
        if host.clock.instant() >= deadline {
            // It may not have been ready to take over; it will when it is.
            let leader = leader.map(|node| format!("node {node}"));
            return Err(Unavailable::NotLeader { leader }.into());
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Checksums of all copies of a group, at one index if they all come to it and nothing is written for a moment.
async fn verify(host: &Host, group: GroupId) -> Described {
    let view = host.cluster.get();
    let Some(row) = view.placements.get(&group) else {
        in_cluster(host)?;
        return Err(Reject::NoSuchGroup { group: group.0 }.into());
    };
    let Said::Index(index) = host.asking.leader(host, Ask::Index(group)).await? else {
        return Err(Unavailable::ConnectionLost.into());
    };
    let digest = |node: NodeId| async move {
        let digest = match host.asking.node(host, node, Ask::Digest { group, index }).await {
            Ok(Said::Digest(index, digest)) => Ok((index, digest)),
            Ok(_) => Err("an answer of another version".into()),
            Err(refusal) => Err(refusal.to_string().into()),
        };
        ReplicaDigest { node, digest }
    };
    let digests = join_all(row.voters.iter().copied().map(digest)).await;
    Ok((Position::NOWHERE, cluster_reply(ClusterReply::Digests(digests))))
}
