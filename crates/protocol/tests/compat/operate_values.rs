//! What operators ask and are told: one of each variant, and reports with everything in them. Values never change; new ones
//! are added.

use coda_protocol::cluster::{NodeState, Registration, SettingValue};
use coda_protocol::ids::{GroupId, Millis, NodeId, StorageId, Timestamp, TokenId};
use coda_protocol::join::TokenDigest;
use coda_protocol::operate::{
    ClusterReply, ClusterReport, ClusterRequest, DiskReport, FollowerReport, GroupReport, MemberReport, NodeReport,
    PeerReport, ReplicaDigest, ReplicaReport,
};
use coda_protocol::rebalance::{Plan, Step, Stuck, StuckReason};
use coda_protocol::reply::Counters;

use crate::cluster_values;

const NODE: NodeId = NodeId(300);
const TOKEN: TokenId = TokenId([5; 16]);
const DIGEST: TokenDigest = TokenDigest([6; 32]);

fn registration() -> Registration {
    Registration {
        storage: StorageId([2; 16]),
        incarnation: 300,
        peer_addr: "n1:7401".into(),
        client_addr: "[::1]:7400".into(),
        zone: "east".into(),
        version: "0.1.0".into(),
        commands_version: 1,
    }
}

pub fn requests() -> Vec<(&'static str, ClusterRequest)> {
    use ClusterRequest as R;
    vec![
        ("Init", R::Init { replication_factor: 3, groups: 300 }),
        ("Join", R::Join { token: TOKEN, digest: DIGEST, node: NODE, registration: registration() }),
        ("CreateToken", R::CreateToken { token: TOKEN, digest: DIGEST, ttl: Some(Millis(300_000)) }),
        ("CreateToken as set", R::CreateToken { token: TOKEN, digest: DIGEST, ttl: None }),
        ("RevokeToken", R::RevokeToken(TOKEN)),
        ("ListTokens", R::ListTokens),
        ("Drain", R::Drain(NODE)),
        ("Undrain", R::Undrain(NODE)),
        ("Remove", R::Remove(NODE)),
        ("SetReplicationFactor", R::SetReplicationFactor(5)),
        ("SetSetting", R::SetSetting { key: "a.b".into(), value: Some(SettingValue::Number(300)) }),
        ("SetSetting default", R::SetSetting { key: "a.b".into(), value: None }),
        ("ListSettings", R::ListSettings),
        ("Report", R::Report),
        ("ReportNode", R::ReportNode(Some(NODE))),
        ("ReportNode asked", R::ReportNode(None)),
        ("Plan", R::Plan),
        ("Rebalance", R::Rebalance),
        ("TransferLeader", R::TransferLeader { group: GroupId(2), to: Some(NODE) }),
        ("TransferLeader best", R::TransferLeader { group: GroupId(2), to: None }),
        ("Verify", R::Verify(GroupId(2))),
    ]
}

fn node() -> NodeReport {
    let replica = ReplicaReport {
        group: GroupId(2),
        term: 3,
        leader: Some(NODE),
        last_log: 70_009,
        committed: 70_008,
        applied: 70_007,
        durable: 70_000,
        purged: 60_000,
        log_bytes: 1 << 20,
        checkpoint_age: Some(Millis(9_000)),
        voters: vec![NodeId(1), NODE],
        learners: vec![NodeId(4)],
        followers: vec![
            FollowerReport { node: NodeId(1), matched: Some(70_001), heard: Some(Millis(20)) },
            FollowerReport { node: NodeId(4), matched: None, heard: None },
        ],
        failure: Some("why".into()),
    };
    NodeReport {
        node: NODE,
        registration: registration(),
        state: Some(NodeState::Active),
        uptime: Millis(70_000),
        sessions: 7,
        counters: Counters { entries: 1, commands: 2, log_syncs: 3, log_bytes: 4, leases: 5, rejects: 6 },
        disk: DiskReport {
            total_bytes: 1 << 40,
            free_bytes: 1 << 30,
            reserve_bytes: 1 << 29,
            data_bytes: 1 << 20,
            refuses_writes: true,
            syncs: 300,
            sync_p50_us: 150,
            sync_p99_us: 900,
            sync_max_us: 9_000,
            sync_hangs: Some(Millis(2_500)),
        },
        replicas: vec![replica],
        peers: vec![
            PeerReport { node: NodeId(1), round_trip_us: Ok(90) },
            PeerReport { node: NodeId(4), round_trip_us: Err("gone".into()) },
        ],
    }
}

pub fn replies() -> Vec<(&'static str, ClusterReply)> {
    use ClusterReply as R;
    let plan = Plan {
        steps: vec![Step::Promote { group: GroupId(2), node: NODE }],
        stuck: vec![Stuck { group: GroupId(3), reason: StuckReason::QuorumLost }],
    };
    let members = cluster_values::members().into_iter().map(|(_, member)| member);
    let reports = [Ok(Box::new(node())), Err("it does not answer".into())];
    let members = members.zip(reports).map(|(member, report)| MemberReport { member, report }).collect();
    let group = GroupReport {
        group: GroupId(2),
        voters: vec![NodeId(1), NODE],
        preferred: Some(NodeId(1)),
        leader: Some(NODE),
        term: 3,
        is_settled: true,
    };
    let report = ClusterReport {
        node: NODE,
        now: Timestamp(1_700_000_000_000),
        cluster: Some(cluster_values::descriptions().remove(0).1),
        map_version: 70_000,
        is_current: true,
        members,
        groups: vec![group],
        plan: plan.clone(),
    };
    let digests = vec![
        ReplicaDigest { node: NodeId(1), digest: Ok((70_000, u64::MAX)) },
        ReplicaDigest { node: NODE, digest: Err("it is gone".into()) },
    ];
    let tokens = cluster_values::tokens().into_iter().map(|(_, token)| token).collect();
    let settings = cluster_values::settings().into_iter().map(|(_, setting)| setting).collect();
    vec![
        ("Tokens", R::Tokens(tokens)),
        ("Settings", R::Settings(settings)),
        ("Cluster", R::Cluster(Box::new(report))),
        ("Node", R::Node(Box::new(node()))),
        ("Plan", R::Plan(plan)),
        ("Digests", R::Digests(digests)),
    ]
}
