//! What a cluster is made of: its nodes, and the map that clients and workers route by.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::ids::{ClusterId, GroupId, NodeId, Slot, StorageId, Timestamp, TokenId};
use crate::limits::{ADDRESS_BYTES_MAX, CLUSTER_NODES_MAX, GROUPS_MAX, VERSION_BYTES_MAX, VOTERS_MAX, ZONE_BYTES_MAX};
use crate::reject::Reject;
use crate::slots::SlotMap;

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// Let in, and not yet seen at work: nothing is placed on it.
    Joining,
    Active,
    /// It is being emptied; nothing new is placed on it.
    Draining,
    /// For good: neither its id nor its data folder comes back.
    Removed,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Removed => "removed",
        })
    }
}

/// What a node says about itself when it joins, and at each start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// A node is the same while its data folder is.
    pub storage: StorageId,
    /// Counts the starts with that folder, in it: of two processes that say they are one node, the later one is.
    pub incarnation: u64,
    /// Where other nodes find it; empty if it never has any.
    pub peer_addr: SmolStr,
    /// Where clients and workers find it.
    pub client_addr: SmolStr,
    /// What fails together with it: a rack, a room, a data centre. Empty if nobody said.
    pub zone: SmolStr,
    /// Of its binary, for people.
    pub version: SmolStr,
    /// The newest version of commands that it understands, for the cluster.
    pub commands_version: u32,
}

impl Registration {
    /// Checks the bounds.
    ///
    /// # Errors
    /// [`Reject::BadAddress`] or [`Reject::BadLabel`].
    pub fn check(&self) -> Result<(), Reject> {
        if !self.peer_addr.is_empty() {
            check_address(&self.peer_addr)?;
        }
        check_address(&self.client_addr)?;
        if self.peer_addr == self.client_addr {
            return Err(Reject::BadAddress { address: self.peer_addr.to_string() });
        }
        check_label("zone", &self.zone, ZONE_BYTES_MAX)?;
        check_label("version", &self.version, VERSION_BYTES_MAX)
    }
}

/// Checks an address that others are to dial: a name or an IP address, and a port; an IPv6 address in brackets.
///
/// # Errors
/// [`Reject::BadAddress`].
pub fn check_address(address: &str) -> Result<(), Reject> {
    if address.len() <= ADDRESS_BYTES_MAX && is_address(address) {
        return Ok(());
    }
    Err(Reject::BadAddress { address: address.chars().take(64).collect() })
}

fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return false;
    }
    if let Some(host) = host.strip_prefix('[') {
        let ip = host.strip_suffix(']').and_then(|host| host.parse::<Ipv6Addr>().ok());
        return ip.is_some_and(|ip| !ip.is_unspecified());
    }
    match host.parse::<IpAddr>() {
        // Where to listen, perhaps, but nothing that anybody could dial.
        Ok(IpAddr::V4(ip)) => !ip.is_unspecified(),
        Ok(IpAddr::V6(_)) => false,
        Err(_) => is_dns_name(host),
    }
}

fn is_dns_name(host: &str) -> bool {
    let is_label = |label: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(good)
    };
    host.strip_suffix('.').unwrap_or(host).split('.').all(is_label)
}

/// Checks a short text for people.
///
/// # Errors
/// [`Reject::BadLabel`].
fn check_label(what: &'static str, label: &str, bytes_max: usize) -> Result<(), Reject> {
    if label.len() <= bytes_max && !label.chars().any(char::is_control) {
        return Ok(());
    }
    let label = label.chars().take(64).collect();
    Err(Reject::BadLabel { what: what.into(), label, bytes_max: bytes_max as u64 })
}

/// What clients and workers route by. Whatever can be decoded is whole: its slots lead to groups, and groups to nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawMap")]
pub struct ClusterMap {
    /// Grows with each change of the cluster, of what the map does not show too.
    pub version: u64,
    pub cluster: ClusterId,
    /// The version of commands that every node understands: no newer ones are proposed.
    pub commands_version: u32,
    /// By id, without those that are removed.
    pub nodes: Vec<MapNode>,
    /// By id, the meta group first.
    pub groups: Vec<MapGroup>,
    pub slots: SlotMap,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapNode {
    pub node: NodeId,
    pub client_addr: SmolStr,
    pub zone: SmolStr,
    pub state: NodeState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapGroup {
    pub group: GroupId,
    /// Who should vote, by id. One of them leads.
    pub voters: Vec<NodeId>,
    /// Who should lead: where to ask first.
    pub leader: Option<NodeId>,
}

impl ClusterMap {
    #[must_use]
    pub fn group_of(&self, slot: Slot) -> GroupId {
        self.slots.group_of(slot)
    }

    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&MapGroup> {
        self.groups.binary_search_by_key(&group, |one| one.group).ok().map(|i| &self.groups[i])
    }

    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&MapNode> {
        self.nodes.binary_search_by_key(&node, |one| one.node).ok().map(|i| &self.nodes[i])
    }
}

#[derive(Deserialize)]
struct RawMap {
    version: u64,
    cluster: ClusterId,
    commands_version: u32,
    nodes: Vec<MapNode>,
    groups: Vec<MapGroup>,
    slots: SlotMap,
}

impl TryFrom<RawMap> for ClusterMap {
    type Error = &'static str;

    fn try_from(raw: RawMap) -> Result<Self, &'static str> {
        let RawMap { version, cluster, commands_version, nodes, groups, slots } = raw;
        let map = Self { version, cluster, commands_version, nodes, groups, slots };
        if map.nodes.len() > CLUSTER_NODES_MAX || map.groups.len() > usize::from(GROUPS_MAX) + 1 {
            return Err("a cluster map with too many nodes or groups");
        }
        if !map.nodes.is_sorted_by(|a, b| a.node < b.node) || !map.groups.is_sorted_by(|a, b| a.group < b.group) {
            return Err("nodes or groups out of order");
        }
        let is_known = |node: &NodeId| map.node(*node).is_some();
        let is_whole = |group: &MapGroup| {
            (1..=VOTERS_MAX).contains(&group.voters.len())
                && group.voters.is_sorted_by(|a, b| a < b)
                && group.voters.iter().all(is_known)
                && group.leader.is_none_or(|leader| group.voters.contains(&leader))
        };
        if !map.groups.iter().all(is_whole) {
            return Err("a group whose nodes are not in the map");
        }
        if map.slots.ranges().any(|(_, _, group)| map.group(group).is_none()) {
            return Err("slots of a group that is not in the map");
        }
        Ok(map)
    }
}

/// The cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDescription {
    pub cluster: ClusterId,
    /// How many nodes hold a copy of each group, where there are as many.
    pub replication_factor: u8,
    /// Data groups.
    pub groups: u16,
    pub created: Timestamp,
    /// The version of commands that every node understands.
    pub commands_version: u32,
}

/// One node, as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberDescription {
    pub node: NodeId,
    pub state: NodeState,
    pub registration: Registration,
    /// When it came to this state.
    pub since: Timestamp,
    /// Groups that have, or may still have, a copy on it.
    pub groups: u32,
    /// Groups that it should lead.
    pub leads: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenDescription {
    pub token: TokenId,
    pub created: Timestamp,
    pub expires: Timestamp,
    pub state: TokenState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenState {
    Open,
    Expired,
    /// Used by this node.
    Redeemed {
        node: NodeId,
        at: Timestamp,
    },
}

/// What a setting is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettingValue {
    Switch(bool),
    Number(u64),
}

impl SettingValue {
    /// The value that a text means: `true`, `false` or digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "true" => Some(Self::Switch(true)),
            "false" => Some(Self::Switch(false)),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok().map(Self::Number),
            _ => None,
        }
    }
}

impl fmt::Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingDescription {
    pub key: SmolStr,
    pub value: SettingValue,
    pub default: SettingValue,
    /// Which values it may have, for people.
    pub allowed: SmolStr,
    pub about: SmolStr,
}

impl SettingDescription {
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.value != self.default
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::limits::{CLUSTER_MAP_BYTES_MAX, SLOTS};

    #[test]
    fn an_address_is_something_to_dial() {
        for good in ["10.0.0.1:7400", "node-1:7400", "n1.coda.svc.cluster.local.:1", "[::1]:65535", "localhost:7400"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        let long = format!("{}:7400", "x.".repeat(ADDRESS_BYTES_MAX));
        for bad in [
            "",
            "node",
            ":7400",
            "node:",
            "node:0",
            "node:65536",
            "node:+1",
            "a b:1",
            "a..b:1",
            "::1:7400",
            "[::1:7400",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
        for bad in ["0.0.0.0:7400", "[::]:7400", "[node]:7400", "nodé:7400", &long] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    fn registration() -> Registration {
        Registration {
            storage: StorageId([1; 16]),
            incarnation: 1,
            peer_addr: "n1:7401".into(),
            client_addr: "n1:7400".into(),
            zone: "a".into(),
            version: "0.1.0".into(),
            commands_version: 1,
        }
    }

    #[test]
    fn a_node_listens_to_peers_and_clients_in_two_places() {
        assert_eq!(registration().check(), Ok(()));
        assert_eq!(Registration { zone: "".into(), ..registration() }.check(), Ok(()));
        assert_eq!(Registration { peer_addr: "".into(), ..registration() }.check(), Ok(()), "a node alone");
        let same = Registration { peer_addr: "n1:7400".into(), ..registration() };
        assert!(matches!(same.check(), Err(Reject::BadAddress { .. })));
        let zone = Registration { zone: "a\nb".into(), ..registration() };
        assert!(matches!(zone.check(), Err(Reject::BadLabel { .. })));
        let version = Registration { version: "1".repeat(VERSION_BYTES_MAX + 1).into(), ..registration() };
        assert!(matches!(version.check(), Err(Reject::BadLabel { .. })));
    }

    fn map() -> ClusterMap {
        let node =
            |node, state| MapNode { node: NodeId(node), client_addr: "n:1".into(), zone: SmolStr::default(), state };
        let group = |group, voters: &[u64], leader: Option<u64>| MapGroup {
            group: GroupId(group),
            voters: voters.iter().copied().map(NodeId).collect(),
            leader: leader.map(NodeId),
        };
        ClusterMap {
            version: 7,
            cluster: ClusterId([1; 16]),
            commands_version: 1,
            nodes: vec![node(1, NodeState::Active), node(3, NodeState::Draining), node(4, NodeState::Joining)],
            groups: vec![group(0, &[1, 3], Some(3)), group(1, &[1], None), group(2, &[3], Some(3))],
            slots: SlotMap::even(2),
        }
    }

    #[test]
    fn a_map_leads_from_a_slot_to_nodes() {
        let map = map();
        let group = map.group_of(Slot(SLOTS - 1));
        let leader = map.group(group).unwrap().leader.unwrap();
        assert_eq!((group, map.node(leader).unwrap().state), (GroupId(2), NodeState::Draining));
        assert_eq!((map.node(NodeId(2)), map.group(GroupId(3))), (None, None));
    }

    #[test]
    fn a_map_that_leads_nowhere_cannot_be_decoded() {
        let decode = |change: &dyn Fn(&mut ClusterMap)| {
            let mut map = map();
            change(&mut map);
            codec::decode::<ClusterMap>("cluster map", &codec::encode(&map))
        };
        assert_eq!(decode(&|_| {}), Ok(map()));
        assert!(decode(&|map| map.nodes.swap(0, 1)).is_err());
        assert!(decode(&|map| map.groups.swap(0, 1)).is_err());
        assert!(decode(&|map| drop(map.groups.pop())).is_err());
        assert!(decode(&|map| drop(map.nodes.remove(1))).is_err());
        assert!(decode(&|map| map.groups[1].voters.clear()).is_err());
        assert!(decode(&|map| map.groups[1].leader = Some(NodeId(3))).is_err());
        assert!(decode(&|map| map.slots = SlotMap::even(3)).is_err());
    }

    /// The largest map that the limits allow travels inline, whatever a client asks for next to it.
    #[test]
    fn the_largest_map_is_within_its_bound() {
        let id = |i: usize| NodeId(u64::MAX - 100 + i as u64);
        let node = |i| MapNode {
            node: id(i),
            client_addr: "x".repeat(ADDRESS_BYTES_MAX).into(),
            zone: "z".repeat(ZONE_BYTES_MAX).into(),
            state: NodeState::Removed,
        };
        let group = |group| MapGroup {
            group: GroupId(group),
            voters: (0..VOTERS_MAX).map(id).collect(),
            leader: Some(id(VOTERS_MAX - 1)),
        };
        let range = |slot: u16| (Slot(slot), GroupId(u32::from(GROUPS_MAX) - u32::from(slot % 2)));
        let slots = codec::encode(&(0..SLOTS).map(range).collect::<Vec<_>>());
        let map = ClusterMap {
            version: u64::MAX,
            cluster: ClusterId([255; 16]),
            commands_version: u32::MAX,
            nodes: (0..CLUSTER_NODES_MAX).map(node).collect(),
            groups: (0..=u32::from(GROUPS_MAX)).map(group).collect(),
            slots: codec::decode("slots", &slots).unwrap(),
        };
        let bytes = codec::encode(&map);
        assert!(bytes.len() <= CLUSTER_MAP_BYTES_MAX, "{} bytes", bytes.len());
        assert_eq!(codec::decode::<ClusterMap>("cluster map", &bytes).unwrap(), map);
        // As a cluster of three is: small enough to be sent along with anything.
        assert!(codec::encode(&self::map()).len() < 100);
    }

    #[test]
    fn settings_are_switches_or_numbers() {
        for (text, value) in [
            ("true", SettingValue::Switch(true)),
            ("false", SettingValue::Switch(false)),
            ("07", SettingValue::Number(7)),
        ] {
            assert_eq!(SettingValue::parse(text), Some(value));
        }
        for text in ["", "yes", "-1", "+1", "1.5", "18446744073709551616"] {
            assert_eq!(SettingValue::parse(text), None, "{text}");
        }
        assert_eq!(SettingValue::Number(7).to_string(), "7");
        assert_eq!(SettingValue::Switch(true).to_string(), "true");
    }
}
