//! What a node knows of itself, and what all of them know together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coda_engine::query;
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::{GroupId, Millis, NodeId};
use coda_protocol::operate::{
    ClusterReply, ClusterReport, ClusterRequest, GroupReport, MemberReport, NodeReport, PeerReport, ReplicaReport,
};
use coda_protocol::rebalance::Plan;
use coda_protocol::reply::{Counters, Reply};
use coda_raft_store::group::Group;
use futures::future::join_all;
use tokio::time::timeout;

use super::ask::{Ask, Said};
use super::view::View;
use crate::host::Host;

/// How long whoever looks at the cluster waits for the meta group's leader.
const PLAN_PATIENCE: Duration = Duration::from_secs(3);

/// What this node knows of itself.
#[must_use]
pub fn node(host: &Host) -> NodeReport {
    let view = host.cluster.get();
    let peers = view.live().map(|member| member.node).filter(|node| *node != host.node);
    NodeReport {
        node: host.node,
        registration: (*host.registration).clone(),
        state: view.state(host.node),
        uptime: Millis(host.started.elapsed().as_millis() as u64),
        sessions: host.sessions.count() as u32,
        counters: counters(host),
        disk: host.store.disk_report(),
        replicas: host.routes.all_hosted().iter().map(Group::report).collect(),
        peers: peers.map(|node| PeerReport { node, round_trip_us: host.asking.round_trip_us(node) }).collect(),
    }
}

/// Totals of all that is led here.
#[must_use]
pub fn counters(host: &Host) -> Counters {
    let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let store = host.store.counters();
    let mut counters =
        Counters { log_syncs: total(&store.log_syncs), log_bytes: total(&store.log_bytes), ..Counters::default() };
    for router in host.routes.led() {
        let shared = &router.shared;
        counters.entries += total(&shared.counters.entries);
        counters.commands += total(&shared.counters.commands);
        counters.leases += total(&shared.counters.leases);
        counters.rejects += total(&shared.counters.rejects);
    }
    counters
}

/// Asks everybody.
pub async fn cluster(host: &Host) -> ClusterReport {
    let view = host.cluster.get();
    let described =
        host.routes.hosted(GroupId::META).and_then(|meta| meta.read(|kv, _| query::cluster::describe(kv).ok()));
    let (plan, reports) = tokio::join!(plan(host, &view), reports(host, &view));
    let members = view.members.values().cloned().zip(reports);
    let members: Vec<MemberReport> = members.map(|(member, report)| MemberReport { member, report }).collect();
    let groups = view.placements.iter().map(|(group, row)| {
        let copies = members.iter().filter_map(|member| member.report.as_ref().ok());
        let copies: Vec<&ReplicaReport> =
            copies.flat_map(|node| node.replicas.iter().filter(|replica| replica.group == *group)).collect();
        let latest = copies.iter().max_by_key(|copy| (copy.term, copy.leader.is_some()));
        let leader = latest.and_then(|copy| copy.leader);
        let at_leader = members.iter().filter_map(|member| member.report.as_ref().ok());
        let at_leader = at_leader.filter(|node| Some(node.node) == leader);
        let at_leader = at_leader.flat_map(|node| &node.replicas).find(|replica| replica.group == *group);
        GroupReport {
            group: *group,
            voters: row.voters.clone(),
            preferred: row.leader,
            // Who is said to lead, and does not answer or does not say so itself, does not.
            leader: leader.filter(|_| at_leader.is_some_and(|replica| replica.leader == leader)),
            term: latest.map_or(0, |copy| copy.term),
            is_settled: row.leaving.is_empty() && at_leader.is_some_and(|replica| replica.voters == row.voters),
        }
    });
    ClusterReport {
        node: host.node,
        now: host.clock.now(),
        cluster: described,
        map_version: view.map.as_ref().map_or(0, |map| map.version),
        is_current: plan.is_some(),
        groups: groups.collect(),
        members,
        plan: plan.unwrap_or_default(),
    }
}

/// None when the meta group's leader does not answer.
async fn plan(host: &Host, view: &View) -> Option<Plan> {
    view.map.as_ref()?;
    let asked = timeout(PLAN_PATIENCE, host.asking.leader(host, Ask::Decide(ClusterRequest::Plan))).await;
    match asked {
        Ok(Ok(Said::Reply(_, Reply::Cluster(ClusterReply::Plan(plan))))) => Some(plan),
        Ok(_) | Err(_) => None,
    }
}

async fn reports(host: &Host, view: &View) -> Vec<Result<Box<NodeReport>, smol_str::SmolStr>> {
    let ask = |(node, state): (NodeId, NodeState)| async move {
        if state == NodeState::Removed {
            return Err("it was removed".into());
        }
        match host.asking.node(host, node, Ask::Report).await {
            Ok(Said::Reply(_, Reply::Cluster(ClusterReply::Node(report)))) => Ok(report),
            Ok(_) => Err("an answer of another version".into()),
            Err(_) => Err(host.asking.why_down(node).into()),
        }
    };
    join_all(view.members.values().map(|member| ask((member.node, member.state)))).await
}
