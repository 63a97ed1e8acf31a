//! Reports of a cluster of paper, for tests of what is made of them.

use coda_protocol::cluster::{ClusterDescription, MemberDescription, NodeState, Registration};
use coda_protocol::ids::{ClusterId, GroupId, Millis, NodeId, StorageId, Timestamp};
use coda_protocol::operate::{
    ClusterReport, DiskReport, FollowerReport, GroupReport, MemberReport, NodeReport, PeerReport, ReplicaReport,
};
use coda_protocol::rebalance::{Plan, Step};
use coda_protocol::reply::Counters;

pub const NOW: Timestamp = Timestamp(1_760_000_000_000);
const DAY_MS: u64 = 24 * 3_600 * 1_000;
const LAST_LOG: u64 = 120_345;

fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn registration(node: u64) -> Registration {
    Registration {
        storage: StorageId([node as u8; 16]),
        incarnation: 4,
        peer_addr: format!("node-{node}:4748").into(),
        client_addr: format!("node-{node}:4747").into(),
        zone: ["a", "b", "c"][node as usize % 3].into(),
        version: "0.1.0".into(),
        commands_version: 1,
    }
}

/// Group 0 is led by node 1, and each other by the node of its number.
fn leader(group: u32) -> u64 {
    u64::from(group).max(1)
}

fn replica(node: u64, group: u32) -> ReplicaReport {
    let leads = leader(group) == node;
    let follower =
        |other: &u64| FollowerReport { node: NodeId(*other), matched: Some(LAST_LOG - other), heard: Some(Millis(40)) };
    ReplicaReport {
        group: GroupId(group),
        term: 3,
        leader: Some(NodeId(leader(group))),
        last_log: LAST_LOG,
        committed: LAST_LOG,
        applied: LAST_LOG - 1,
        durable: 100_000,
        purged: 90_000,
        log_bytes: 12 << 20,
        checkpoint_age: Some(Millis(75_000)),
        voters: ids(&[1, 2, 3]),
        learners: Vec::new(),
        followers: if leads {
            [1, 2, 3].iter().filter(|other| **other != node).map(follower).collect()
        } else {
            vec![]
        },
        failure: None,
    }
}

pub fn node(node: u64) -> NodeReport {
    let peer = |other: &u64| PeerReport { node: NodeId(*other), round_trip_us: Ok(210 + other) };
    NodeReport {
        node: NodeId(node),
        registration: registration(node),
        state: Some(NodeState::Active),
        uptime: Millis(2 * DAY_MS + 10_800_000),
        sessions: 5,
        counters: Counters { entries: 10, commands: 200, log_syncs: 9, log_bytes: 12_345, leases: 100, rejects: 1 },
        disk: DiskReport {
            total_bytes: 100 << 30,
            free_bytes: 61 << 30,
            reserve_bytes: 1 << 30,
            data_bytes: 3_500 << 20,
            refuses_writes: false,
            syncs: 1_200,
            sync_p50_us: 640,
            sync_p99_us: 1_850,
            sync_max_us: 12_000,
            sync_hangs: None,
        },
        replicas: if node <= 3 { (0..=3).map(|group| replica(node, group)).collect() } else { Vec::new() },
        peers: [1, 2, 3].iter().filter(|other| **other != node).map(peer).collect(),
    }
}

pub fn member(id: u64, state: NodeState) -> MemberReport {
    let (groups, leads) = if id <= 3 { (4, if id == 1 { 2 } else { 1 }) } else { (0, 0) };
    MemberReport {
        member: MemberDescription {
            node: NodeId(id),
            state,
            registration: registration(id),
            since: Timestamp(NOW.0 - DAY_MS),
            groups,
            leads,
        },
        report: Ok(Box::new(NodeReport { state: Some(state), ..node(id) })),
    }
}

/// Three nodes, four groups, and nothing to complain of.
pub fn healthy() -> ClusterReport {
    let group = |group: u32| GroupReport {
        group: GroupId(group),
        voters: ids(&[1, 2, 3]),
        preferred: Some(NodeId(leader(group))),
        leader: Some(NodeId(leader(group))),
        term: 3,
        is_settled: true,
    };
    ClusterReport {
        node: NodeId(1),
        now: NOW,
        cluster: Some(ClusterDescription {
            cluster: ClusterId([7; 16]),
            replication_factor: 3,
            groups: 3,
            created: Timestamp(NOW.0 - 40 * DAY_MS),
            commands_version: 1,
        }),
        map_version: 12,
        is_current: true,
        members: [1, 2, 3].map(|id| member(id, NodeState::Active)).into(),
        groups: (0..=3).map(group).collect(),
        plan: Plan::default(),
    }
}

/// Node 3 does not answer, and node 2 leads its group meanwhile.
pub fn degraded() -> ClusterReport {
    let mut report = healthy();
    report.members[2].report = Err("no connection: timed out".into());
    report.groups[3].leader = Some(NodeId(2));
    report.groups[3].term = 4;
    let Ok(two) = &mut report.members[1].report else { unreachable!() };
    let leads = &mut two.replicas[3];
    (leads.leader, leads.term) = (Some(NodeId(2)), 4);
    leads.followers = vec![
        FollowerReport { node: NodeId(1), matched: Some(LAST_LOG), heard: Some(Millis(12)) },
        FollowerReport { node: NodeId(3), matched: Some(LAST_LOG - 20_000), heard: Some(Millis(90_000)) },
    ];
    report
}

/// Nodes 2 and 3 do not answer; node 1 says what it last heard.
pub fn no_quorum() -> ClusterReport {
    let mut report = healthy();
    report.is_current = false;
    for member in &mut report.members[1..] {
        member.report = Err("no connection: no route to host".into());
    }
    for group in &mut report.groups {
        (group.leader, group.term) = (None, 5);
    }
    let Ok(one) = &mut report.members[0].report else { unreachable!() };
    one.replicas.iter_mut().for_each(|replica| (replica.leader, replica.followers) = (None, Vec::new()));
    one.peers.iter_mut().for_each(|peer| peer.round_trip_us = Err("no route to host".into()));
    report
}

/// Node 3 is being emptied into node 4, which has taken group 1 over already.
pub fn draining() -> ClusterReport {
    let mut report = healthy();
    report.members[2] = member(3, NodeState::Draining);
    report.members.push(member(4, NodeState::Active));
    report.members[2].member.groups = 3;
    report.members[3].member.groups = 2;
    report.groups[1].voters = ids(&[1, 2, 4]);
    report.groups[2].voters = ids(&[1, 2, 4]);
    report.groups[2].is_settled = false;
    let Ok(four) = &mut report.members[3].report else { unreachable!() };
    four.replicas = [1, 2].map(|group| replica(4, group)).into();
    let group = GroupId(3);
    report.plan.steps = vec![
        Step::TransferLeader { group, from: NodeId(3), to: NodeId(1) },
        Step::AddLearner { group, node: NodeId(4) },
        Step::Promote { group, node: NodeId(4) },
        Step::RemoveVoter { group, node: NodeId(3) },
    ];
    report
}

/// The disk of node 2 does not answer, that of node 1 is full, and a group has stopped on node 3.
pub fn bad_disks() -> ClusterReport {
    let mut report = healthy();
    let mut nodes = report.members.iter_mut().filter_map(|member| member.report.as_deref_mut().ok());
    if let (Some(one), Some(two), Some(three)) = (nodes.next(), nodes.next(), nodes.next()) {
        (one.disk.refuses_writes, one.disk.free_bytes) = (true, 800 << 20);
        two.disk.sync_hangs = Some(Millis(8_200));
        three.replicas[2].failure = Some("the log's checksum is wrong at 120001\u{1b}[2J".into());
    }
    report
}
