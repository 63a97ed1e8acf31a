//! Values about clusters: one of each variant, and more where a field has two forms. Values never change; new ones are
//! added.

use coda_protocol::cluster::{
    ClusterDescription, ClusterMap, MapGroup, MapNode, MemberDescription, NodeState, Registration, SettingDescription,
    SettingValue, TokenDescription, TokenState,
};
use coda_protocol::ids::{ClusterId, GroupId, NodeId, StorageId, Timestamp, TokenId};
use coda_protocol::rebalance::{Plan, Step, Stuck, StuckReason};
use coda_protocol::reject::Reject;
use coda_protocol::slots::SlotMap;

const CLUSTER: ClusterId = ClusterId([4; 16]);
const NODE: NodeId = NodeId(300);
const AT: Timestamp = Timestamp(1_700_000_000_000);

pub fn maps() -> Vec<(&'static str, ClusterMap)> {
    let node = |node, zone: &str, state| MapNode { node, client_addr: "n1:7400".into(), zone: zone.into(), state };
    let group = |group, leader| MapGroup { group: GroupId(group), voters: vec![NodeId(1), NODE], leader };
    let map = ClusterMap {
        version: 70_000,
        cluster: CLUSTER,
        commands_version: 1,
        nodes: vec![node(NodeId(1), "", NodeState::Active), node(NODE, "east", NodeState::Draining)],
        groups: vec![group(0, None), group(1, Some(NODE)), group(2, Some(NodeId(1)))],
        slots: SlotMap::even(2),
    };
    vec![("map", map)]
}

pub fn descriptions() -> Vec<(&'static str, ClusterDescription)> {
    vec![(
        "cluster",
        ClusterDescription { cluster: CLUSTER, replication_factor: 3, groups: 256, created: AT, commands_version: 1 },
    )]
}

pub fn members() -> Vec<(&'static str, MemberDescription)> {
    let registration = Registration {
        storage: StorageId([2; 16]),
        incarnation: 300,
        peer_addr: "n1:7401".into(),
        client_addr: "[::1]:7400".into(),
        zone: "east".into(),
        version: "0.1.0".into(),
        commands_version: 1,
    };
    let member = |state| MemberDescription {
        node: NODE,
        state,
        registration: registration.clone(),
        since: AT,
        groups: 4,
        leads: 1,
    };
    vec![
        ("joining", member(NodeState::Joining)),
        ("active", member(NodeState::Active)),
        ("draining", member(NodeState::Draining)),
        ("removed", member(NodeState::Removed)),
    ]
}

pub fn tokens() -> Vec<(&'static str, TokenDescription)> {
    let token = |state| TokenDescription { token: TokenId([5; 16]), created: AT, expires: Timestamp(AT.0 + 1), state };
    vec![
        ("open", token(TokenState::Open)),
        ("expired", token(TokenState::Expired)),
        ("redeemed", token(TokenState::Redeemed { node: NODE, at: AT })),
    ]
}

pub fn settings() -> Vec<(&'static str, SettingDescription)> {
    let setting = |value, default| SettingDescription {
        key: "a.b".into(),
        value,
        default,
        allowed: "true or false".into(),
        about: "whether".into(),
    };
    vec![
        ("switch", setting(SettingValue::Switch(true), SettingValue::Switch(false))),
        ("number", setting(SettingValue::Number(300), SettingValue::Number(7))),
    ]
}

pub fn steps() -> Vec<(&'static str, Step)> {
    let (group, node) = (GroupId(2), NODE);
    vec![
        ("AddLearner", Step::AddLearner { group, node }),
        ("Promote", Step::Promote { group, node }),
        ("RemoveVoter", Step::RemoveVoter { group, node }),
        ("RemoveLearner", Step::RemoveLearner { group, node }),
        ("TransferLeader", Step::TransferLeader { group, from: NodeId(1), to: node }),
    ]
}

pub fn plans() -> Vec<(&'static str, Plan)> {
    let stuck = |reason| Stuck { group: GroupId(2), reason };
    let all =
        [StuckReason::QuorumLost, StuckReason::Leaderless, StuckReason::NoRoom { node: NODE }].map(stuck).to_vec();
    vec![
        ("empty", Plan::default()),
        ("full", Plan { steps: steps().into_iter().map(|(_, step)| step).collect(), stuck: all }),
    ]
}

pub fn rejects() -> Vec<(&'static str, Reject)> {
    let text = || "x".to_owned();
    vec![
        ("WrongGroup", Reject::WrongGroup { group: 300 }),
        ("NoCluster", Reject::NoCluster),
        ("ClusterExists", Reject::ClusterExists { cluster: CLUSTER.to_string() }),
        ("BadReplicationFactor", Reject::BadReplicationFactor { replication_factor: 2 }),
        ("BadGroupCount", Reject::BadGroupCount { groups: 300, groups_max: 256 }),
        ("BadAddress", Reject::BadAddress { address: text() }),
        ("BadLabel", Reject::BadLabel { what: "zone".into(), label: text(), bytes_max: 63 }),
        ("ClusterFull", Reject::ClusterFull { nodes_max: 64 }),
        ("NoSuchNode", Reject::NoSuchNode { node: 300 }),
        ("NodeRemoved", Reject::NodeRemoved { node: 300 }),
        ("WipedDisk", Reject::WipedDisk { node: 300 }),
        ("WrongNodeState", Reject::WrongNodeState { node: 300, state: NodeState::Joining }),
        ("NotDrained", Reject::NotDrained { node: 300 }),
        ("NotEmpty", Reject::NotEmpty { node: 300, groups: 4 }),
        ("LastNode", Reject::LastNode { node: 300 }),
        ("TooOld", Reject::TooOld { commands_version: 1, needed: 2 }),
        ("BadToken", Reject::BadToken),
        ("TokenExpired", Reject::TokenExpired),
        ("TokenUsed", Reject::TokenUsed { node: 300 }),
        ("TooManyTokens", Reject::TooManyTokens { tokens_max: 256 }),
        ("NoSuchSetting", Reject::NoSuchSetting { key: text(), known: "a, b".into() }),
        ("BadSetting", Reject::BadSetting { key: "a".into(), allowed: "true or false".into() }),
        ("NoSuchGroup", Reject::NoSuchGroup { group: 300 }),
        ("BadPlacement", Reject::BadPlacement { group: 300, why: "why".into() }),
        ("PlacementChanged", Reject::PlacementChanged { group: 300, version: 7 }),
        ("OldIncarnation", Reject::OldIncarnation { node: 300, incarnation: 7, known: 300 }),
        ("OtherNode", Reject::OtherNode { node: 300 }),
        ("BadNodeId", Reject::BadNodeId { node: 0, node_id_max: 65_535 }),
    ]
}
