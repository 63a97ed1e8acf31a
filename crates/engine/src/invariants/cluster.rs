//! What is true of the cluster's own state. Data groups hold none of it, and the meta group holds no work.

use std::collections::{BTreeMap, BTreeSet};

use coda_protocol::cluster::{NodeState, SettingValue};
use coda_protocol::ids::{GroupId, Name, NodeId, StorageId, Timestamp, TokenId};
use coda_protocol::limits::{
    CLUSTER_NODES_MAX, JOIN_TOKENS_MAX, NODE_ID_MAX, REMOVED_NODES_MAX, REPLICATION_FACTORS, VOTERS_MAX,
};
use coda_protocol::slots::SlotMap;

use super::Violation;
use crate::cluster::rows::{ClusterRow, NodeRow, PlacementRow, TokenRow};
use crate::cluster::settings;
use crate::kv::Read;
use crate::tables::{CLUSTER, DUE, Due, LANE, NODE, PLACEMENT, QUEUE, RUN, SETTING, SLOT_MAP, STORAGE, TASK, TOKEN};

/// The rows of a group that are the meta group's own.
struct State {
    group: GroupId,
    cluster: Option<ClusterRow>,
    settings: Vec<(Name, SettingValue)>,
    nodes: BTreeMap<NodeId, NodeRow>,
    storages: Vec<(StorageId, NodeId)>,
    tokens: BTreeMap<TokenId, TokenRow>,
    placements: BTreeMap<GroupId, PlacementRow>,
    slots: Option<SlotMap>,
    due: Vec<(Timestamp, TokenId)>,
    has_work: bool,
}

impl State {
    fn read(kv: &dyn Read, group: GroupId) -> Self {
        let token = |at, what| match what {
            Due::ForgetToken(token) => Some((at, token)),
            Due::Ready(_) | Due::Forget(_) => None,
        };
        Self {
            group,
            cluster: CLUSTER.get(kv, group, &()),
            settings: SETTING.all(kv, group),
            nodes: NODE.all(kv, group).into_iter().collect(),
            storages: STORAGE.all(kv, group),
            tokens: TOKEN.all(kv, group).into_iter().collect(),
            placements: PLACEMENT.all(kv, group).into_iter().collect(),
            slots: SLOT_MAP.get(kv, group, &()),
            due: DUE.all(kv, group).into_iter().filter_map(|(key, ())| token(key.at, key.what)).collect(),
            has_work: group == GroupId::META
                && !(RUN.all(kv, group).is_empty()
                    && TASK.all(kv, group).is_empty()
                    && LANE.all(kv, group).is_empty()
                    && QUEUE.all(kv, group).is_empty()),
        }
    }

    fn is_empty(&self) -> bool {
        self.settings.is_empty()
            && self.nodes.is_empty()
            && self.storages.is_empty()
            && self.tokens.is_empty()
            && self.placements.is_empty()
            && self.slots.is_none()
            && self.due.is_empty()
    }

    fn is_live(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|row| row.state != NodeState::Removed)
    }

    fn count(&self, is_removed: bool) -> usize {
        self.nodes.values().filter(|row| (row.state == NodeState::Removed) == is_removed).count()
    }
}

type Invariant = fn(&State) -> Vec<String>;

const INVARIANTS: &[(&str, Invariant)] = &[
    ("groups_hold_what_is_theirs", groups_hold_what_is_theirs),
    ("without_a_cluster_there_is_nothing", without_a_cluster_there_is_nothing),
    ("node_ids_are_possible", node_ids_are_possible),
    ("storage_index_matches_nodes", storage_index_matches_nodes),
    ("nodes_within_bounds", nodes_within_bounds),
    ("one_node_is_active", one_node_is_active),
    ("all_nodes_understand_the_log", all_nodes_understand_the_log),
    ("every_group_is_placed", every_group_is_placed),
    ("voters_are_members", voters_are_members),
    ("the_leader_is_a_voter", the_leader_is_a_voter),
    ("slots_belong_to_groups", slots_belong_to_groups),
    ("token_due_matches_tokens", token_due_matches_tokens),
    ("tokens_within_bounds", tokens_within_bounds),
    ("settings_are_possible", settings_are_possible),
];

pub fn names() -> impl Iterator<Item = &'static str> {
    INVARIANTS.iter().map(|(name, _)| *name)
}

pub fn check(kv: &dyn Read, group: GroupId) -> Vec<Violation> {
    let state = State::read(kv, group);
    let broken = |(name, invariant): &(&'static str, Invariant)| {
        let name = *name;
        invariant(&state).into_iter().map(move |detail| Violation { name, detail })
    };
    INVARIANTS.iter().flat_map(broken).collect()
}

/// A violation, if something is not as it should be.
fn unless(good: bool, detail: impl FnOnce() -> String) -> Vec<String> {
    if good { Vec::new() } else { vec![detail()] }
}

fn groups_hold_what_is_theirs(state: &State) -> Vec<String> {
    if state.group == GroupId::META {
        return unless(!state.has_work, || "the meta group holds work".into());
    }
    unless(state.cluster.is_none() && state.is_empty(), || format!("{:?} holds the cluster's own state", state.group))
}

fn without_a_cluster_there_is_nothing(state: &State) -> Vec<String> {
    unless(state.cluster.is_some() || state.is_empty(), || "rows of a cluster that has not begun".into())
}

fn node_ids_are_possible(state: &State) -> Vec<String> {
    let wrong = state.nodes.keys().filter(|node| !(1..=NODE_ID_MAX).contains(&node.0));
    wrong.map(|node| format!("{node:?}")).collect()
}

/// Each node is found by its data folder, and no two share one.
fn storage_index_matches_nodes(state: &State) -> Vec<String> {
    let rows: Vec<_> = state.nodes.iter().map(|(node, row)| (row.registration.storage, *node)).collect();
    let mut broken = super::differences("storage", &state.storages, &rows);
    let folders: BTreeSet<_> = rows.iter().map(|(storage, _)| storage).collect();
    broken.extend(unless(folders.len() == rows.len(), || "two nodes share a data folder".into()));
    broken
}

fn nodes_within_bounds(state: &State) -> Vec<String> {
    let (live, removed) = (state.count(false), state.count(true));
    unless(live <= CLUSTER_NODES_MAX && removed <= REMOVED_NODES_MAX, || format!("{live} nodes, {removed} removed"))
}

/// There is always somewhere to go for what is drained.
fn one_node_is_active(state: &State) -> Vec<String> {
    let is_active = state.nodes.values().any(|row| row.state == NodeState::Active);
    unless(state.cluster.is_none() || is_active, || "no node is active".into())
}

/// What may be in logs, every node can read.
fn all_nodes_understand_the_log(state: &State) -> Vec<String> {
    let Some(cluster) = &state.cluster else { return Vec::new() };
    let old = state
        .nodes
        .iter()
        .filter(|(node, row)| state.is_live(**node) && row.registration.commands_version < cluster.commands_version);
    old.map(|(node, row)| {
        format!("{node:?} understands {}, not {}", row.registration.commands_version, cluster.commands_version)
    })
    .collect()
}

fn every_group_is_placed(state: &State) -> Vec<String> {
    let Some(cluster) = &state.cluster else { return Vec::new() };
    let groups: Vec<_> = (0..=u32::from(cluster.groups)).map(GroupId).collect();
    let placed: Vec<_> = state.placements.keys().copied().collect();
    let mut broken = super::differences("placement of", &placed, &groups);
    let late = state.placements.iter().filter(|(_, row)| row.version > cluster.map_version);
    broken.extend(late.map(|(group, row)| format!("{group:?} was placed in version {}, later than now", row.version)));
    broken
}

/// Who has, or may still have, a copy, is not removed; lists are in order, so that equal placements are equal bytes.
fn voters_are_members(state: &State) -> Vec<String> {
    let mut broken = Vec::new();
    for (group, row) in &state.placements {
        let sorted = |nodes: &[NodeId]| nodes.is_sorted_by(|a, b| a < b);
        let gone = row.voters.iter().chain(&row.leaving).filter(|node| !state.is_live(**node));
        broken.extend(gone.map(|node| format!("{group:?} is on {node:?}, which is no member")));
        let is_good = (1..=VOTERS_MAX).contains(&row.voters.len())
            && sorted(&row.voters)
            && sorted(&row.leaving)
            && !row.voters.iter().any(|node| row.leaving.contains(node));
        broken.extend(unless(is_good, || format!("{group:?} is placed as {row:?}")));
    }
    broken
}

fn the_leader_is_a_voter(state: &State) -> Vec<String> {
    let wrong = state.placements.iter().filter(|(_, row)| row.leader.is_some_and(|node| !row.voters.contains(&node)));
    wrong.map(|(group, row)| format!("{group:?} is to be led by {:?}, which has no vote", row.leader)).collect()
}

fn slots_belong_to_groups(state: &State) -> Vec<String> {
    let Some(cluster) = &state.cluster else { return Vec::new() };
    let Some(slots) = &state.slots else { return vec!["a cluster without slots".into()] };
    let lost = slots.ranges().filter(|(_, _, group)| !(1..=u32::from(cluster.groups)).contains(&group.0));
    let lost = lost.map(|(first, last, group)| format!("slots {} to {} belong to {group:?}", first.0, last.0));
    lost.chain(unless(REPLICATION_FACTORS.contains(&cluster.replication_factor), || format!("{cluster:?}"))).collect()
}

/// Each token is forgotten in the end, at its time.
fn token_due_matches_tokens(state: &State) -> Vec<String> {
    let rows: Vec<_> = state.tokens.iter().map(|(token, row)| (row.forgotten(), *token)).collect();
    super::differences("end of token", &state.due, &rows)
}

fn tokens_within_bounds(state: &State) -> Vec<String> {
    unless(state.tokens.len() <= JOIN_TOKENS_MAX, || format!("{} tokens", state.tokens.len()))
}

fn settings_are_possible(state: &State) -> Vec<String> {
    let wrong = |(key, value): &(Name, SettingValue)| settings::check(key, Some(*value)).err();
    state.settings.iter().filter_map(wrong).map(|reject| reject.to_string()).collect()
}
