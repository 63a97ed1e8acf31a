//! The facts of the meta group: what its log entries say happened to the cluster.

use coda_protocol::cluster::{Registration, SettingValue};
use coda_protocol::ids::{ClusterId, GroupId, Millis, NodeId, TokenId};
use coda_protocol::join::TokenDigest;
use coda_protocol::limits::{GROUPS_MAX, NODE_ID_MAX, REPLICATION_FACTORS, VOTERS_MAX};
use coda_protocol::reject::Reject;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::settings::{self, JOIN_TOKEN_TTL};

/// Variants are only ever appended: their order is in every log of a meta group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterCommand {
    /// The cluster begins, with one node. → `Done`
    Init(InitCluster),
    /// A node may join with the secret whose digest this is, until its time is over: the setting's if none is given.
    /// → `TokenCreated`
    CreateToken { token: TokenId, digest: TokenDigest, ttl: Option<Millis> },
    /// Nobody may join with it any more. → `Done`
    RevokeToken { token: TokenId },
    /// A node has shown a token's secret, and that it may have this id. → `Done`
    Join { token: TokenId, digest: TokenDigest, node: NodeId, registration: Registration },
    /// A node has started, perhaps with another address, zone or binary. → `Done`
    Register { node: NodeId, registration: Registration },
    /// A node that joined was seen at work. → `Done`
    Activate { node: NodeId },
    /// Empty a node. → `Done`
    Drain { node: NodeId },
    /// Use it again. → `Done`
    Undrain { node: NodeId },
    /// A node that is empty leaves for good. → `Done`
    Remove { node: NodeId },
    /// → `Done`
    PlaceGroup(PlaceGroup),
    /// Raft's membership of the group is what that version of the map says, and nothing more. → `Done`
    SettleGroup { group: GroupId, version: u64 },
    /// How many copies of each group there should be. → `Done`
    SetReplicationFactor { replication_factor: u8 },
    /// Without a value, the default holds again. → `Done`
    SetSetting { key: SmolStr, value: Option<SettingValue> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitCluster {
    pub cluster: ClusterId,
    pub replication_factor: u8,
    /// Data groups.
    pub groups: u16,
    /// The first node.
    pub node: NodeId,
    pub founder: Registration,
}

/// Where a group should be from now on. Its leader brings Raft's membership there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceGroup {
    pub group: GroupId,
    /// By id.
    pub voters: Vec<NodeId>,
    /// Which of them should lead.
    pub leader: Option<NodeId>,
    /// The version of the map that the plan was made from: of two planners, one is refused.
    pub seen: u64,
}

impl ClusterCommand {
    /// Checks all bounds that depend on the command alone.
    ///
    /// # Errors
    /// The [`Reject`] that [`crate::apply::apply`] would answer too.
    pub fn check(&self) -> Result<(), Reject> {
        match self {
            Self::Init(init) => {
                check_replication_factor(init.replication_factor)?;
                if !(1..=GROUPS_MAX).contains(&init.groups) {
                    return Err(Reject::BadGroupCount { groups: init.groups, groups_max: GROUPS_MAX });
                }
                check_node_id(init.node)?;
                init.founder.check()
            }
            Self::CreateToken { ttl: Some(ttl), .. } => JOIN_TOKEN_TTL.check(ttl.0),
            Self::Join { node, registration, .. } => {
                check_node_id(*node)?;
                registration.check()
            }
            Self::Register { registration, .. } => registration.check(),
            Self::PlaceGroup(place) => check_place(place),
            Self::SetReplicationFactor { replication_factor } => check_replication_factor(*replication_factor),
            Self::SetSetting { key, value } => settings::check(key, *value),
            Self::CreateToken { ttl: None, .. }
            | Self::RevokeToken { .. }
            | Self::Activate { .. }
            | Self::Drain { .. }
            | Self::Undrain { .. }
            | Self::Remove { .. }
            | Self::SettleGroup { .. } => Ok(()),
        }
    }
}

fn check_replication_factor(replication_factor: u8) -> Result<(), Reject> {
    if REPLICATION_FACTORS.contains(&replication_factor) {
        Ok(())
    } else {
        Err(Reject::BadReplicationFactor { replication_factor })
    }
}

fn check_node_id(node: NodeId) -> Result<(), Reject> {
    let is_possible = (1..=NODE_ID_MAX).contains(&node.0);
    if is_possible { Ok(()) } else { Err(Reject::BadNodeId { node: node.0, node_id_max: NODE_ID_MAX }) }
}

fn check_place(place: &PlaceGroup) -> Result<(), Reject> {
    let bad = |why: &'static str| Err(Reject::BadPlacement { group: place.group.0, why: why.into() });
    if !(1..=VOTERS_MAX).contains(&place.voters.len()) {
        return bad("it has no voters, or too many");
    }
    if !place.voters.is_sorted_by(|a, b| a < b) {
        return bad("its voters are out of order, or one is named twice");
    }
    if place.leader.is_some_and(|leader| !place.voters.contains(&leader)) {
        return bad("its leader is no voter");
    }
    Ok(())
}
