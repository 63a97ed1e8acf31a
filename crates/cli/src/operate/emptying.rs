//! What emptying a node would meet, and how far it is. Pure: from a report to a decision.

use coda_protocol::cluster::{MemberDescription, NodeState};
use coda_protocol::ids::NodeId;
use coda_protocol::operate::{ClusterReport, GroupReport, Health, MemberReport};
use coda_protocol::rebalance::StuckReason;
use coda_protocol::reject::Reject;

use super::waiting::{STUCK_LOOKS, Waiting};
use crate::errors::CliError;

/// A member that is not gone.
pub fn member(report: &ClusterReport, node: NodeId) -> Result<&MemberReport, Reject> {
    let found = report.members.iter().find(|member| member.member.node == node);
    let found = found.ok_or(Reject::NoSuchNode { node: node.0 })?;
    if found.member.state == NodeState::Removed {
        return Err(Reject::NodeRemoved { node: node.0 });
    }
    Ok(found)
}

/// Refuses what a person would probably not want: to empty a node whose copies have nowhere to go, or while work is not
/// served for want of nodes.
pub fn check(report: &ClusterReport, node: NodeId) -> Result<(), CliError> {
    if member(report, node)?.member.state == NodeState::Draining {
        return Ok(());
    }
    if let Health::NoQuorum(reasons) = report.health() {
        let first = reasons.first().map(|reason| format!(": {reason}")).unwrap_or_default();
        let why = format!("some work is not served{first}. Bring those nodes back before another is emptied");
        return Err(CliError::unconfirmed(why));
    }
    let others = report.members.iter().filter(|one| is_open(one) && one.member.node != node).count();
    let is_crowded = |group: &&GroupReport| group.voters.contains(&node) && group.voters.len() > others;
    let Some(crowded) = report.groups.iter().find(is_crowded) else { return Ok(()) };
    Err(CliError::unconfirmed(format!(
        "the copies on node {node} have nowhere to go: group {} has {}, and {others} other nodes could hold them. Add a \
         node first, or want fewer copies: `coda-admin config set replication_factor`",
        crowded.group,
        crowded.voters.len()
    )))
}

fn is_open(member: &MemberReport) -> bool {
    member.member.state == NodeState::Active && member.report.is_ok()
}

/// How often in a row a node may look as if nobody had drained it: whoever answers may not have heard of it yet.
const UNHEARD_LOOKS: u32 = 6;

/// Watches a node become empty.
pub struct Emptying {
    node: NodeId,
    /// How often in a row nothing could be done.
    stuck: u32,
    /// How often in a row it was not being drained.
    unheard: u32,
}

impl Emptying {
    pub fn new(node: NodeId) -> Self {
        Self { node, stuck: 0, unheard: 0 }
    }

    /// Whether the node is empty now. Gives up when nothing can be done for a while, and says what is missing.
    pub fn look(&mut self, waiting: &Waiting, report: &ClusterReport) -> Result<Option<()>, CliError> {
        let node = self.node;
        // Heard before it was drained, perhaps.
        if !report.is_current {
            waiting.say(format!("no leader of the meta group says how far node {node} is"));
            return Ok(None);
        }
        let MemberDescription { state, groups, .. } = member(report, node)?.member;
        match state {
            NodeState::Draining => self.unheard = 0,
            NodeState::Active => {
                self.unheard += 1;
                if self.unheard < UNHEARD_LOOKS {
                    return Ok(None);
                }
                // Somebody has taken it back meanwhile, or it never was.
                return Err(Reject::NotDrained { node: node.0 }.into());
            }
            NodeState::Joining | NodeState::Removed => {
                return Err(Reject::WrongNodeState { node: node.0, state }.into());
            }
        }
        waiting.left(groups.into());
        if groups == 0 {
            return Ok(Some(()));
        }
        let stuck: Vec<String> = report
            .plan
            .stuck
            .iter()
            .filter(|stuck| match stuck.reason {
                StuckReason::NoRoom { node } => node == self.node,
                StuckReason::QuorumLost | StuckReason::Leaderless => true,
            })
            .map(ToString::to_string)
            .collect();
        if stuck.is_empty() || !report.plan.steps.is_empty() {
            self.stuck = 0;
            waiting.say(format!("node {node} has copies of {groups} groups left"));
            return Ok(None);
        }
        self.stuck += 1;
        waiting.say(stuck[0].clone());
        if self.stuck < STUCK_LOOKS {
            return Ok(None);
        }
        let count = stuck.len();
        Err(CliError { detail: Some(stuck.join("\n")), ..CliError::cannot_move(count) })
    }
}

#[cfg(test)]
mod tests {
    use coda_protocol::ids::GroupId;
    use coda_protocol::rebalance::{Step, Stuck};

    use super::*;
    use crate::show::canned;

    const LEAVING: NodeId = NodeId(3);

    fn looked(emptying: &mut Emptying, report: &ClusterReport) -> Result<Option<()>, CliError> {
        emptying.look(&Waiting::bar(None), report)
    }

    #[test]
    fn a_node_is_emptied_only_if_its_copies_have_somewhere_to_go() {
        let three = canned::healthy();
        let error = check(&three, LEAVING).unwrap_err();
        assert_eq!((error.code, error.exit.status()), ("CODA4321", 2));
        assert!(error.message.contains("group 0 has 3, and 2 other nodes"), "{}", error.message);
        let mut four = canned::healthy();
        four.members.push(canned::member(4, NodeState::Active));
        assert!(check(&four, LEAVING).is_ok());
        four.members[3].member.state = NodeState::Joining;
        assert!(check(&four, LEAVING).is_err());
        four.members[3] = MemberReport { report: Err("timed out".into()), ..canned::member(4, NodeState::Active) };
        assert!(check(&four, LEAVING).is_err());
        four.members[2].member.state = NodeState::Draining;
        assert!(check(&four, LEAVING).is_ok(), "that was decided already");
    }

    #[test]
    fn a_node_that_is_gone_or_unknown_is_told_apart() {
        let mut report = canned::healthy();
        assert_eq!(check(&report, NodeId(9)).unwrap_err().code, "CODA2038");
        report.members[2].member.state = NodeState::Removed;
        assert_eq!(check(&report, LEAVING).unwrap_err().code, "CODA2039");
    }

    #[test]
    fn no_node_is_emptied_while_others_are_missed() {
        let mut report = canned::no_quorum();
        report.members.push(canned::member(4, NodeState::Active));
        let error = check(&report, NodeId(1)).unwrap_err();
        assert!(error.code == "CODA4321" && error.message.starts_with("some work is not served"), "{}", error.message);
    }

    #[test]
    fn emptying_ends_when_nothing_is_left() {
        let mut report = canned::draining();
        let mut emptying = Emptying::new(LEAVING);
        assert_eq!(looked(&mut emptying, &report).unwrap(), None);
        report.members[2].member.groups = 0;
        assert_eq!(looked(&mut emptying, &report).unwrap(), Some(()));
        report.members[2].member.state = NodeState::Active;
        let old = ClusterReport { is_current: false, ..report.clone() };
        assert_eq!(looked(&mut emptying, &old).unwrap(), None, "it may be older than the draining");
        for _ in 1..UNHEARD_LOOKS {
            assert_eq!(looked(&mut emptying, &report).unwrap(), None, "so may this one: any node answers");
        }
        assert_eq!(looked(&mut emptying, &report).unwrap_err().code, "CODA2042", "somebody has taken it back");
    }

    #[test]
    fn what_cannot_go_on_for_a_while_is_told() {
        let mut report = canned::draining();
        report.plan.steps.clear();
        report.plan.stuck = vec![Stuck { group: GroupId(2), reason: StuckReason::NoRoom { node: LEAVING } }];
        let mut emptying = Emptying::new(LEAVING);
        for _ in 1..STUCK_LOOKS {
            assert_eq!(looked(&mut emptying, &report).unwrap(), None);
        }
        let mut hope = report.clone();
        hope.plan.steps.push(Step::AddLearner { group: GroupId(2), node: NodeId(4) });
        assert_eq!(looked(&mut emptying, &hope).unwrap(), None);
        for _ in 1..STUCK_LOOKS {
            assert_eq!(looked(&mut emptying, &report).unwrap(), None);
        }
        let error = looked(&mut emptying, &report).unwrap_err();
        assert_eq!((error.code, error.exit.status()), ("CODA4324", 4));
        assert_eq!(error.detail.as_deref(), Some("no other node can take group 2 from node 3: add a node first"));
    }
}
