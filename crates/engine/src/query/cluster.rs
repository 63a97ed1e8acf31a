//! Reading the meta group's state.

use std::collections::BTreeSet;

use coda_protocol::cluster::{
    ClusterDescription, ClusterMap, MapGroup, MapNode, MemberDescription, NodeState, SettingDescription,
    TokenDescription, TokenState,
};
use coda_protocol::ids::{GroupId, Timestamp};
use coda_protocol::reject::Reject;

use crate::cluster::rows::{ClusterRow, NodeRow, PlacementRow, TokenRow};
use crate::cluster::settings;
use crate::kv::Read;
use crate::placement::{Host, Layout, Replicas};
use crate::tables::{CLUSTER, NODE, PLACEMENT, SLOT_MAP, TOKEN};

const META: GroupId = GroupId::META;

fn row(kv: &dyn Read) -> Result<ClusterRow, Reject> {
    CLUSTER.get(kv, META, &()).ok_or(Reject::NoCluster)
}

fn placements(kv: &dyn Read) -> Vec<(GroupId, PlacementRow)> {
    PLACEMENT.all(kv, META)
}

/// The cluster itself.
///
/// # Errors
/// [`Reject::NoCluster`].
pub fn describe(kv: &dyn Read) -> Result<ClusterDescription, Reject> {
    let ClusterRow { cluster, replication_factor, groups, created, commands_version, .. } = row(kv)?;
    Ok(ClusterDescription { cluster, replication_factor, groups, created, commands_version })
}

/// The version of [`map`] alone: whoever holds that version need not ask for it.
#[must_use]
pub fn map_version(kv: &dyn Read) -> Option<u64> {
    row(kv).ok().map(|row| row.map_version)
}

/// What clients and workers route by.
///
/// # Errors
/// [`Reject::NoCluster`].
pub fn map(kv: &dyn Read) -> Result<ClusterMap, Reject> {
    let ClusterRow { cluster, map_version: version, commands_version, .. } = row(kv)?;
    let live = NODE.all(kv, META).into_iter().filter(|(_, row)| row.state != NodeState::Removed);
    let node = |(node, row): (_, NodeRow)| MapNode {
        node,
        client_addr: row.registration.client_addr,
        zone: row.registration.zone,
        state: row.state,
    };
    let group = |(group, row): (_, PlacementRow)| MapGroup { group, voters: row.voters, leader: row.leader };
    Ok(ClusterMap {
        version,
        cluster,
        commands_version,
        nodes: live.map(node).collect(),
        groups: placements(kv).into_iter().map(group).collect(),
        slots: SLOT_MAP.get(kv, META, &()).expect("a cluster has a slot map"),
    })
}

/// All nodes that are known, removed ones too.
#[must_use]
pub fn nodes(kv: &dyn Read) -> Vec<MemberDescription> {
    let placements = placements(kv);
    let count = |holds: &dyn Fn(&PlacementRow) -> bool| placements.iter().filter(|(_, row)| holds(row)).count() as u32;
    let describe = |(node, row): (_, NodeRow)| MemberDescription {
        node,
        state: row.state,
        registration: row.registration,
        since: row.since,
        groups: count(&|placement| placement.is_on(node)),
        leads: count(&|placement| placement.leader == Some(node)),
    };
    NODE.all(kv, META).into_iter().map(describe).collect()
}

/// Where a group should be, and what is not settled yet.
///
/// # Errors
/// [`Reject::NoSuchGroup`].
pub fn placement(kv: &dyn Read, group: GroupId) -> Result<PlacementRow, Reject> {
    PLACEMENT.get(kv, META, &group).ok_or(Reject::NoSuchGroup { group: group.0 })
}

/// All join tokens that are known, as they are at this time.
#[must_use]
pub fn tokens(kv: &dyn Read, now: Timestamp) -> Vec<TokenDescription> {
    let describe = |(token, row): (_, TokenRow)| TokenDescription {
        token,
        created: row.created,
        expires: row.expires,
        state: match row.redeemed {
            Some((node, at)) => TokenState::Redeemed { node, at },
            None if row.expires <= now => TokenState::Expired,
            None => TokenState::Open,
        },
    };
    TOKEN.all(kv, META).into_iter().map(describe).collect()
}

/// All settings, by key. Those that differ from their default say so: `SettingDescription::is_changed`.
#[must_use]
pub fn settings(kv: &dyn Read) -> Vec<SettingDescription> {
    settings::all(kv)
}

/// One setting.
///
/// # Errors
/// [`Reject::NoSuchSetting`].
pub fn setting(kv: &dyn Read, key: &str) -> Result<SettingDescription, Reject> {
    settings::one(kv, key)
}

/// Where everything should be, to plan from: whoever knows what can be reached and who leads sets that right first.
///
/// # Errors
/// [`Reject::NoCluster`].
pub fn layout(kv: &dyn Read) -> Result<Layout, Reject> {
    let host =
        |(node, row): (_, NodeRow)| (node, Host { state: row.state, zone: row.registration.zone, reachable: true });
    let replicas = |(group, row): (_, PlacementRow)| {
        let voters = row.voters.into_iter().collect();
        (group, Replicas { voters, learners: BTreeSet::new(), leader: row.leader })
    };
    Ok(Layout {
        replication_factor: row(kv)?.replication_factor,
        nodes: NODE.all(kv, META).into_iter().map(host).collect(),
        groups: placements(kv).into_iter().map(replicas).collect(),
    })
}
