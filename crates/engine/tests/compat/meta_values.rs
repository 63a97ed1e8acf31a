//! Values of the meta group: one of each variant, and more where a field has two forms. Values never change; new ones
//! are added.

use coda_engine::cluster::command::{ClusterCommand, InitCluster, PlaceGroup};
use coda_engine::cluster::rows::{ClusterRow, NodeRow, PlacementRow, TokenRow};
use coda_protocol::cluster::{NodeState, Registration, SettingValue};
use coda_protocol::ids::{ClusterId, GroupId, Millis, Name, NodeId, StorageId, Timestamp, TokenId};
use coda_protocol::join::TokenDigest;
use coda_protocol::slots::SlotMap;

const CLUSTER: ClusterId = ClusterId([1; 16]);
const STORAGE: StorageId = StorageId([2; 16]);
const TOKEN: TokenId = TokenId([4; 16]);
const DIGEST: TokenDigest = TokenDigest([5; 32]);
const NODE: NodeId = NodeId(300);
const AT: Timestamp = Timestamp(1_700_000_000_000);

type Rows<K, V> = Vec<(&'static str, K, V)>;

fn registration() -> Registration {
    Registration {
        storage: STORAGE,
        incarnation: 1,
        peer_addr: "n1:7401".into(),
        client_addr: "[::1]:7400".into(),
        zone: "east".into(),
        version: "0.1.0".into(),
        commands_version: 1,
    }
}

pub fn commands() -> Vec<(&'static str, ClusterCommand)> {
    use ClusterCommand as C;
    let node = NODE;
    let place = |leader| PlaceGroup { group: GroupId(2), voters: vec![NodeId(1), NODE], leader, seen: 7 };
    let set = |value| C::SetSetting { key: "rebalance.auto".into(), value };
    vec![
        (
            "Init",
            C::Init(InitCluster {
                cluster: CLUSTER,
                replication_factor: 3,
                groups: 256,
                node: NODE,
                founder: registration(),
            }),
        ),
        ("CreateToken", C::CreateToken { token: TOKEN, digest: DIGEST, ttl: None }),
        ("CreateToken with a time", C::CreateToken { token: TOKEN, digest: DIGEST, ttl: Some(Millis(60_000)) }),
        ("RevokeToken", C::RevokeToken { token: TOKEN }),
        ("Join", C::Join { token: TOKEN, digest: DIGEST, node, registration: registration() }),
        ("Register", C::Register { node, registration: Registration { zone: "".into(), ..registration() } }),
        ("Activate", C::Activate { node }),
        ("Drain", C::Drain { node }),
        ("Undrain", C::Undrain { node }),
        ("Remove", C::Remove { node }),
        ("PlaceGroup", C::PlaceGroup(place(Some(NODE)))),
        ("PlaceGroup without a leader", C::PlaceGroup(place(None))),
        ("SettleGroup", C::SettleGroup { group: GroupId(2), version: 300 }),
        ("SetReplicationFactor", C::SetReplicationFactor { replication_factor: 5 }),
        ("SetSetting switch", set(Some(SettingValue::Switch(true)))),
        ("SetSetting number", set(Some(SettingValue::Number(1 << 40)))),
        ("SetSetting default", set(None)),
    ]
}

pub fn clusters() -> Rows<(), ClusterRow> {
    let row = ClusterRow {
        cluster: CLUSTER,
        replication_factor: 3,
        groups: 256,
        created: AT,
        map_version: 70_000,
        commands_version: 2,
    };
    vec![("cluster", (), row)]
}

pub fn settings() -> Rows<Name, SettingValue> {
    vec![
        ("switch", "rebalance.auto".into(), SettingValue::Switch(false)),
        ("number", "join_token.ttl_ms".into(), SettingValue::Number(60_000)),
    ]
}

pub fn nodes() -> Rows<NodeId, NodeRow> {
    let row = |state| NodeRow { registration: registration(), state, since: AT };
    vec![
        ("joining", NODE, row(NodeState::Joining)),
        ("active", NODE, row(NodeState::Active)),
        ("draining", NODE, row(NodeState::Draining)),
        ("removed", NodeId(1), row(NodeState::Removed)),
    ]
}

pub fn storages() -> Rows<StorageId, NodeId> {
    vec![("storage", STORAGE, NODE)]
}

pub fn tokens() -> Rows<TokenId, TokenRow> {
    let row = |redeemed| TokenRow { digest: DIGEST, created: AT, expires: Timestamp(AT.0 + 60_000), redeemed };
    vec![("open", TOKEN, row(None)), ("redeemed", TOKEN, row(Some((NODE, AT))))]
}

pub fn placements() -> Rows<GroupId, PlacementRow> {
    let row =
        PlacementRow { voters: vec![NodeId(1), NODE], leader: Some(NODE), leaving: vec![NodeId(2)], version: 300 };
    let settled = PlacementRow { leader: None, leaving: vec![], ..row.clone() };
    vec![("leaving", GroupId(2), row), ("settled", GroupId::META, settled)]
}

pub fn slot_maps() -> Rows<(), SlotMap> {
    vec![("one group", (), SlotMap::even(1)), ("three groups", (), SlotMap::even(3))]
}
