//! From one placement to another, a step at a time, each of them safe.

use std::collections::{BTreeMap, BTreeSet};

use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::rebalance::{Plan, Step, Stuck, StuckReason};

use super::{Layout, Replicas, survives, target};

pub fn plan(layout: &Layout) -> Plan {
    let voters = target::voters(layout);
    let leaders = target::leaders(layout, &voters);
    let mut planner = Planner { now: layout.clone(), steps: Vec::new() };
    // A node that is to be empty stops to lead at once, wherever another is ready: that costs nothing.
    planner.hand_over(&leaders, Layout::is_leaving);
    for group in by_urgency(layout, &voters) {
        while let Some(step) = planner.next(group, &voters[&group], leaders.get(&group).copied()) {
            planner.take(step);
        }
    }
    planner.hand_over(&leaders, |_, _| true);
    Plan { steps: planner.steps, stuck: stuck(layout, &voters) }
}

/// Groups that have too few copies first, then those on nodes that are to be empty.
fn by_urgency(layout: &Layout, voters: &target::Voters) -> Vec<GroupId> {
    let urgency = |group: &GroupId| {
        let replicas = &layout.groups[group];
        let is_short = replicas.voters.len() < voters[group].len();
        (!is_short, !replicas.voters.iter().any(|node| layout.is_leaving(*node)))
    };
    let mut groups: Vec<GroupId> = layout.groups.keys().copied().collect();
    groups.sort_by_key(urgency);
    groups
}

fn stuck(layout: &Layout, voters: &target::Voters) -> Vec<Stuck> {
    let mut all = Vec::new();
    for (group, replicas) in &layout.groups {
        if let Some(reason) = layout.stuck(replicas) {
            all.push(Stuck { group: *group, reason });
            continue;
        }
        let left = voters[group].iter().filter(|node| layout.is_leaving(**node));
        all.extend(left.map(|node| Stuck { group: *group, reason: StuckReason::NoRoom { node: *node } }));
    }
    all
}

/// The steps so far, and where they lead.
struct Planner {
    now: Layout,
    steps: Vec<Step>,
}

impl Planner {
    fn take(&mut self, step: Step) {
        self.now.take(&step);
        self.steps.push(step);
    }

    /// Hands leadership over to whom it should be with, where that one votes already.
    fn hand_over(&mut self, leaders: &BTreeMap<GroupId, NodeId>, wanted: impl Fn(&Layout, NodeId) -> bool) {
        for (&group, &to) in leaders {
            let replicas = &self.now.groups[&group];
            let Some(from) = replicas.leader else { continue };
            if from != to && replicas.voters.contains(&to) && wanted(&self.now, from) {
                self.take(Step::TransferLeader { group, from, to });
            }
        }
    }

    /// What brings a group nearer to its voters: first away with what is too much, else one more.
    fn next(&self, group: GroupId, voters: &BTreeSet<NodeId>, leader: Option<NodeId>) -> Option<Step> {
        let replicas = &self.now.groups[&group];
        if self.now.stuck(replicas).is_some() {
            return None;
        }
        if let Some(&node) = replicas.learners.difference(voters).next() {
            return Some(Step::RemoveLearner { group, node });
        }
        if replicas.voters.len() > voters.len() {
            return self.remove(group, voters, leader);
        }
        let missing = || voters.difference(&replicas.voters).copied();
        if let Some(node) = missing().find(|node| replicas.learners.contains(node)) {
            return Some(Step::Promote { group, node });
        }
        missing().next().map(|node| Step::AddLearner { group, node })
    }

    /// Takes one vote away: of those that must go first, of the leader last, and only after it has handed over.
    fn remove(&self, group: GroupId, voters: &BTreeSet<NodeId>, leader: Option<NodeId>) -> Option<Step> {
        let replicas = &self.now.groups[&group];
        let order = |node: &NodeId| {
            let is_leader = replicas.leader == Some(*node);
            (is_leader, !self.now.is_leaving(*node), self.now.is_reachable(*node), *node)
        };
        let surplus = replicas.voters.difference(voters).copied();
        let node = surplus.filter(|node| self.is_safe_without(replicas, *node)).min_by_key(order)?;
        if replicas.leader != Some(node) {
            return Some(Step::RemoveVoter { group, node });
        }
        let to = self.successor(replicas, node, voters, leader)?;
        Some(Step::TransferLeader { group, from: node, to })
    }

    /// Whether the group can lose as many without this voter as with it, or as many as it should.
    fn is_safe_without(&self, replicas: &Replicas, node: NodeId) -> bool {
        let mut rest = replicas.voters.clone();
        rest.remove(&node);
        let wanted = survives(usize::from(self.now.replication_factor));
        let nominal = survives(rest.len()) >= survives(replicas.voters.len()).min(wanted);
        nominal && self.now.slack(&rest) >= self.now.slack(&replicas.voters).map(|slack| slack.min(wanted))
    }

    /// Who leads after the leader of a group: best whoever should in the end.
    fn successor(
        &self,
        replicas: &Replicas,
        leaver: NodeId,
        voters: &BTreeSet<NodeId>,
        leader: Option<NodeId>,
    ) -> Option<NodeId> {
        let others = || replicas.voters.iter().copied().filter(|node| *node != leaver && self.now.is_reachable(*node));
        let stays = |node: &NodeId| voters.contains(node);
        others()
            .find(|node| Some(*node) == leader)
            .or_else(|| others().find(|node| stays(node) && self.now.is_open(*node)))
            .or_else(|| others().find(stays))
            .or_else(|| others().next())
    }
}
