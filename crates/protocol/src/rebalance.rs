//! How replicas and leaders are moved: the steps of a plan, and what a plan cannot do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, NodeId};

/// One step. Whatever the step before came to, each leaves its group able to survive what it could before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Start to copy the group to a node that does not vote yet. The step that takes long.
    AddLearner {
        group: GroupId,
        node: NodeId,
    },
    /// Let a learner vote, once it has caught up.
    Promote {
        group: GroupId,
        node: NodeId,
    },
    /// Take a vote and the copy away.
    RemoveVoter {
        group: GroupId,
        node: NodeId,
    },
    /// Take the copy of a learner away that nobody waits for.
    RemoveLearner {
        group: GroupId,
        node: NodeId,
    },
    TransferLeader {
        group: GroupId,
        from: NodeId,
        to: NodeId,
    },
}

/// Something that a plan leaves as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    pub group: GroupId,
    pub reason: StuckReason,
}

/// Variants are only ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StuckReason {
    /// Too few of its voters can be reached: nothing of it can be changed.
    QuorumLost,
    /// Nobody leads it for the moment.
    Leaderless,
    /// The node is to be empty, and no other can take its copy without the group surviving less.
    NoRoom { node: NodeId },
}

/// What is to be done, in order, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub stuck: Vec<Stuck>,
}

impl Step {
    #[must_use]
    pub fn group(&self) -> GroupId {
        match self {
            Self::AddLearner { group, .. }
            | Self::Promote { group, .. }
            | Self::RemoveVoter { group, .. }
            | Self::RemoveLearner { group, .. }
            | Self::TransferLeader { group, .. } => *group,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLearner { group, node } => write!(f, "add node {node} to group {group} as a learner"),
            Self::Promote { group, node } => write!(f, "promote node {node} to a voter of group {group}"),
            Self::RemoveVoter { group, node } => write!(f, "remove voter {node} from group {group}"),
            Self::RemoveLearner { group, node } => write!(f, "remove learner {node} from group {group}"),
            Self::TransferLeader { group, from, to } => {
                write!(f, "transfer leadership of group {group} from node {from} to node {to}")
            }
        }
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.group;
        match self.reason {
            StuckReason::QuorumLost => write!(f, "group {group} has no quorum: bring its nodes back first"),
            StuckReason::Leaderless => write!(f, "group {group} has no leader for the moment"),
            StuckReason::NoRoom { node } => {
                write!(f, "no other node can take group {group} from node {node}: add a node first")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_what_cannot_be_read_as_sentences() {
        let (group, node) = (GroupId(2), NodeId(4));
        let steps = [
            Step::AddLearner { group, node },
            Step::Promote { group, node },
            Step::RemoveVoter { group, node },
            Step::RemoveLearner { group, node },
            Step::TransferLeader { group, from: NodeId(1), to: node },
        ];
        assert!(steps.iter().all(|step| step.group() == group));
        let texts = [
            "add node 4 to group 2 as a learner",
            "promote node 4 to a voter of group 2",
            "remove voter 4 from group 2",
            "remove learner 4 from group 2",
            "transfer leadership of group 2 from node 1 to node 4",
        ];
        assert_eq!(steps.map(|step| step.to_string()), texts);
        let stuck = Stuck { group, reason: StuckReason::NoRoom { node } };
        assert_eq!(stuck.to_string(), "no other node can take group 2 from node 4: add a node first");
    }
}
