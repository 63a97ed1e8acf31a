//! What the meta group's tables hold.

use coda_protocol::cluster::{NodeState, Registration};
use coda_protocol::ids::{ClusterId, Millis, NodeId, Timestamp};
use coda_protocol::join::TokenDigest;
use coda_protocol::limits::RETENTION_MS;
use coda_protocol::reject::Reject;
use serde::{Deserialize, Serialize};

/// The cluster's own row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRow {
    pub cluster: ClusterId,
    /// How many copies of each group there should be.
    pub replication_factor: u8,
    /// Data groups.
    pub groups: u16,
    pub created: Timestamp,
    /// Grows with each change but of tokens.
    pub map_version: u64,
    /// The version of commands that may be in logs. Never falls.
    pub commands_version: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    pub registration: Registration,
    pub state: NodeState,
    /// When it came to this state.
    pub since: Timestamp,
}

/// What can happen to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// It was seen at work.
    Activated,
    Drained,
    Undrained,
    Removed,
}

/// The next state of a node, or why not. What has happened already may happen again.
/// ```text
///   join ──▶ JOINING ──activate──▶ ACTIVE ──drain──▶ DRAINING ──remove──▶ REMOVED
///               │                    ▲───undrain────────┘                    ▲
///               └──────────remove────────────────────────────────────────────┘
/// ```
///
/// # Errors
/// [`Reject::NotDrained`], [`Reject::WrongNodeState`], or [`Reject::NodeRemoved`] after the end.
pub fn on(node: NodeId, state: NodeState, event: NodeEvent) -> Result<NodeState, Reject> {
    use NodeEvent as E;
    use NodeState::{Active, Draining, Joining, Removed};
    match (state, event) {
        (Joining | Active, E::Activated) | (Active | Draining, E::Undrained) => Ok(Active),
        // Seen at work again after it was told to drain: no reason to stop draining.
        (Draining, E::Activated) | (Active | Draining, E::Drained) => Ok(Draining),
        (Joining | Draining | Removed, E::Removed) => Ok(Removed),
        (Active, E::Removed) => Err(Reject::NotDrained { node: node.0 }),
        (Joining, E::Drained | E::Undrained) => Err(Reject::WrongNodeState { node: node.0, state }),
        (Removed, E::Activated | E::Drained | E::Undrained) => Err(Reject::NodeRemoved { node: node.0 }),
    }
}

/// A join token. Kept for a while after its time, so that it can be said what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    pub digest: TokenDigest,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// By whom, and when.
    pub redeemed: Option<(NodeId, Timestamp)>,
}

impl TokenRow {
    /// When nothing is known of it any more.
    #[must_use]
    pub fn forgotten(&self) -> Timestamp {
        self.expires + Millis(RETENTION_MS)
    }
}

/// Where a group should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRow {
    /// By id.
    pub voters: Vec<NodeId>,
    /// Which of them should lead.
    pub leader: Option<NodeId>,
    /// Voters of earlier versions, by id. Until somebody has seen otherwise they may still vote, and must stay known.
    pub leaving: Vec<NodeId>,
    /// The version of the cluster's map that brought the voters and the leader.
    pub version: u64,
}

impl PlacementRow {
    /// Whether the node has, or may still have, a copy.
    #[must_use]
    pub fn is_on(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.leaving.contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are states, columns are events; `N` not drained, `W` wrong state, `G` gone, else the next state.
    #[test]
    fn every_event_in_every_state() {
        let name = |result: Result<NodeState, Reject>| match result {
            Ok(NodeState::Joining) => 'j',
            Ok(NodeState::Active) => 'a',
            Ok(NodeState::Draining) => 'd',
            Ok(NodeState::Removed) => 'r',
            Err(Reject::NotDrained { node: 7 }) => 'N',
            Err(Reject::WrongNodeState { node: 7, .. }) => 'W',
            Err(Reject::NodeRemoved { node: 7 }) => 'G',
            Err(_) => '!',
        };
        let events = [NodeEvent::Activated, NodeEvent::Drained, NodeEvent::Undrained, NodeEvent::Removed];
        let states = [NodeState::Joining, NodeState::Active, NodeState::Draining, NodeState::Removed];
        let table =
            states.map(|state| events.map(|event| name(on(NodeId(7), state, event))).iter().collect::<String>());
        assert_eq!(table, ["aWWr", "adaN", "ddar", "GGGr"]);
    }

    #[test]
    fn what_happened_already_changes_nothing() {
        for event in [NodeEvent::Activated, NodeEvent::Drained, NodeEvent::Undrained, NodeEvent::Removed] {
            for state in [NodeState::Joining, NodeState::Active, NodeState::Draining, NodeState::Removed] {
                if let Ok(next) = on(NodeId(7), state, event) {
                    assert_eq!(on(NodeId(7), next, event), Ok(next), "{state:?} {event:?}");
                }
            }
        }
    }
}
