//! The best placement there is, nearest to the one there is now.

use std::collections::{BTreeMap, BTreeSet};

use coda_protocol::ids::{GroupId, NodeId};
use smol_str::SmolStr;

use super::flow::{Cost, Edge, Network, SINK, SOURCE, Vertex};
use super::{Layout, Replicas, survives};

/// Who should vote in each group.
pub type Voters = BTreeMap<GroupId, BTreeSet<NodeId>>;

/// How many voters a group should have, and what each would cost.
struct Demand {
    size: usize,
    hosts: Vec<(NodeId, Cost)>,
}

/// The voters of all groups.
pub fn voters(layout: &Layout) -> Voters {
    let mut network = Network::new();
    let mut hosts = Hosts::default();
    let mut choices: Vec<(GroupId, NodeId, Edge)> = Vec::new();
    for (group, replicas) in &layout.groups {
        let demand = demand(layout, replicas);
        let supply = network.vertex();
        network.edge(SOURCE, supply, demand.size as u32, Cost::default());
        let mut zones = Zones::default();
        for (node, cost) in demand.hosts {
            let zone = zones.vertex(layout, node, &mut network, supply, demand.size);
            let host = hosts.vertex(node, &mut network, layout.groups.len());
            choices.push((*group, node, network.edge(zone, host, 1, cost)));
        }
    }
    network.run();
    let mut voters: Voters = layout.groups.keys().map(|group| (*group, BTreeSet::new())).collect();
    for (group, node, edge) in choices {
        if network.flow(edge) > 0 {
            voters.entry(group).or_default().insert(node);
        }
    }
    voters
}

/// Who should lead each group whose leader can be chosen.
pub fn leaders(layout: &Layout, voters: &Voters) -> BTreeMap<GroupId, NodeId> {
    let mut network = Network::new();
    let mut hosts = Hosts::default();
    let mut choices: Vec<(GroupId, NodeId, Edge)> = Vec::new();
    for (group, replicas) in &layout.groups {
        let supply = network.vertex();
        network.edge(SOURCE, supply, 1, Cost::default());
        for node in candidates(layout, replicas, &voters[group]) {
            let cost = Cost { moved: i64::from(replicas.leader != Some(node)), ..Cost::default() };
            let host = hosts.vertex(node, &mut network, layout.groups.len());
            choices.push((*group, node, network.edge(supply, host, 1, cost)));
        }
    }
    network.run();
    choices.into_iter().filter(|(_, _, edge)| network.flow(*edge) > 0).map(|(group, node, _)| (group, node)).collect()
}

fn candidates(layout: &Layout, replicas: &Replicas, voters: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let leader = replicas.leader.into_iter().collect();
    if layout.stuck(replicas).is_some() {
        return leader;
    }
    let open: Vec<NodeId> = voters.iter().copied().filter(|node| layout.is_open(*node)).collect();
    if open.is_empty() { leader } else { open }
}

/// The vertices of nodes: each unit that one holds costs more than the one before.
#[derive(Default)]
struct Hosts(BTreeMap<NodeId, Vertex>);

impl Hosts {
    fn vertex(&mut self, node: NodeId, network: &mut Network, max: usize) -> Vertex {
        *self.0.entry(node).or_insert_with(|| {
            let vertex = network.vertex();
            let uneven = Cost { uneven: 1, ..Cost::default() };
            network.convex_edge(vertex, SINK, max as u32, Cost::default(), uneven);
            vertex
        })
    }
}

/// The vertices of zones, for one group: each replica in one costs more than the one before.
#[derive(Default)]
struct Zones(BTreeMap<SmolStr, Vertex>);

impl Zones {
    fn vertex(&mut self, layout: &Layout, node: NodeId, network: &mut Network, supply: Vertex, size: usize) -> Vertex {
        let zone = layout.nodes.get(&node).map(|host| host.zone.clone()).unwrap_or_default();
        *self.0.entry(zone).or_insert_with(|| {
            let vertex = network.vertex();
            let crowded = Cost { crowded: 1, ..Cost::default() };
            network.convex_edge(supply, vertex, size as u32, Cost::default(), crowded);
            vertex
        })
    }
}

fn demand(layout: &Layout, replicas: &Replicas) -> Demand {
    let votes = |node: &NodeId| replicas.voters.contains(node);
    if layout.stuck(replicas).is_some() {
        let hosts: Vec<_> = replicas.voters.iter().map(|node| (*node, Cost::default())).collect();
        return Demand { size: hosts.len(), hosts };
    }
    let is_kept = |node: &NodeId| votes(node) && !layout.is_leaving(*node) && !layout.is_open(*node);
    let stay = layout.nodes.keys().filter(|node| layout.is_open(**node) || is_kept(node)).count();
    let wanted = survives(usize::from(layout.replication_factor));
    // Odd, since an even number survives no more; and never so few that it would survive less than now.
    let survive = survives(stay).min(wanted).max(survives(replicas.voters.len()).min(wanted));
    let size = 2 * survive + 1;
    // A cluster that is too small to survive anything is one that is being formed: nothing is moved only to be moved
    // again, and no node more is needed for its groups than before.
    let holders = replicas.voters.iter().filter(|node| !layout.is_leaving(**node)).count();
    let is_forming = survive == 0 && wanted > 0 && holders >= size;
    let helpless = helpless(layout, replicas, survive);
    let may_vote = |node: &&NodeId| votes(node) || (layout.is_open(**node) && !is_forming);
    let hosts: BTreeSet<NodeId> = layout.nodes.keys().chain(&replicas.voters).filter(may_vote).copied().collect();
    let cost = |node: NodeId| Cost {
        // Even where there is no room elsewhere for what is to leave.
        leaving: i64::from(layout.is_leaving(node)) + 2 * i64::from(helpless.contains(&node)),
        copied: i64::from(!votes(&node) && !replicas.learners.contains(&node)),
        moved: i64::from(!votes(&node)),
        unreachable: i64::from(!layout.is_reachable(node)),
        follower: i64::from(replicas.leader != Some(node)),
        ..Cost::default()
    };
    Demand { size, hosts: hosts.into_iter().map(|node| (node, cost(node))).collect() }
}

/// Voters that do not answer, beyond as many as a group that should survive so much can do without. Those that are to
/// leave anyway go first.
fn helpless(layout: &Layout, replicas: &Replicas, survive: usize) -> BTreeSet<NodeId> {
    let slack = layout.slack(&replicas.voters).unwrap_or(0);
    let mut absent: Vec<NodeId> = replicas.voters.iter().copied().filter(|node| !layout.is_reachable(*node)).collect();
    absent.sort_by_key(|node| layout.is_leaving(*node));
    absent.into_iter().skip(survive.saturating_sub(slack)).collect()
}
