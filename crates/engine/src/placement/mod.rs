//! Where replicas and leaders should be, and the steps that bring them there.
//!
//! A plan is made from what is there now and remembers nothing. Its target is the best placement there is, and of the
//! best one that needs the fewest moves: so what is left to do after any of its steps is the plan of that moment, and it
//! may be interrupted, or made anew by another node, at any time.
//!
//! What is best, in this order: draining nodes are empty; copies of a group are in different zones; nodes hold equally
//! many; little is moved. Then the leaders: none on a draining node, equally many on each, few handed over.
//!
//! A group never survives less on its way than before (but where fewer copies are wanted), so a target that would is none:
//! such a group stays as it is, and the plan says so. A node that cannot be reached for the moment keeps what it has, gets
//! nothing, and leads nothing.

mod flow;
mod steps;
mod target;

use std::collections::{BTreeMap, BTreeSet};

use coda_protocol::cluster::NodeState;
use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::rebalance::{Plan, Step, StuckReason};
use smol_str::SmolStr;

/// How many nodes a group of so many voters can lose.
#[must_use]
pub fn survives(voters: usize) -> usize {
    voters.saturating_sub(1) / 2
}

/// How many of so many voters decide.
fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// A node, as far as placing things on it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub state: NodeState,
    pub zone: SmolStr,
    /// Whether it answers at the moment.
    pub reachable: bool,
}

/// Where a group is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    pub voters: BTreeSet<NodeId>,
    /// Copies on their way to become voters. Not those that are meant to stay learners.
    pub learners: BTreeSet<NodeId>,
    pub leader: Option<NodeId>,
}

/// Where everything is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// How many copies of each group there should be.
    pub replication_factor: u8,
    pub nodes: BTreeMap<NodeId, Host>,
    pub groups: BTreeMap<GroupId, Replicas>,
}

impl Layout {
    /// What is to be done, in order.
    #[must_use]
    pub fn plan(&self) -> Plan {
        steps::plan(self)
    }

    /// The step was taken.
    pub fn take(&mut self, step: &Step) {
        let replicas = self.groups.entry(step.group()).or_default();
        match step {
            Step::AddLearner { node, .. } => drop(replicas.learners.insert(*node)),
            Step::Promote { node, .. } => {
                replicas.learners.remove(node);
                replicas.voters.insert(*node);
            }
            Step::RemoveVoter { node, .. } => drop(replicas.voters.remove(node)),
            Step::RemoveLearner { node, .. } => drop(replicas.learners.remove(node)),
            Step::TransferLeader { to, .. } => replicas.leader = Some(*to),
        }
    }

    fn is_reachable(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|host| host.reachable)
    }

    /// Whether the node is to have nothing in the end. One that nobody knows is none of ours.
    fn is_leaving(&self, node: NodeId) -> bool {
        let state = self.nodes.get(&node).map(|host| host.state);
        matches!(state, None | Some(NodeState::Draining | NodeState::Removed))
    }

    /// Whether the node may be given something.
    fn is_open(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|host| host.state == NodeState::Active && host.reachable)
    }

    /// How many of these voters can be lost before they are too few; `None` when they are already.
    fn slack(&self, voters: &BTreeSet<NodeId>) -> Option<usize> {
        let live = voters.iter().filter(|node| self.is_reachable(**node)).count();
        live.checked_sub(quorum(voters.len()))
    }

    /// Why nothing of a group can be changed for the moment.
    fn stuck(&self, replicas: &Replicas) -> Option<StuckReason> {
        if self.slack(&replicas.voters).is_none() {
            return Some(StuckReason::QuorumLost);
        }
        let leads = |node: NodeId| replicas.voters.contains(&node) && self.is_reachable(node);
        if replicas.leader.is_some_and(leads) { None } else { Some(StuckReason::Leaderless) }
    }
}
