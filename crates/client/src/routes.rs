//! Which node a request goes to: the cluster's map, who leads each group, and which nodes are connected.
//!
//! A plain struct that decides. Nodes say what they know; of two that disagree about a group's leader, the later term is
//! right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coda_protocol::cluster::ClusterMap;
use coda_protocol::ids::{GroupId, NodeId, Slot};
use coda_protocol::push::GroupLeader;

/// Where a request belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// With whoever leads the slot's group.
    Slot(Slot),
    /// With any node.
    Any,
    /// On this node's connection, and nowhere when that is gone.
    Node(NodeId),
}

#[derive(Debug, Default)]
pub(crate) struct Routes {
    map: Option<Arc<ClusterMap>>,
    leaders: BTreeMap<GroupId, Leader>,
    up: BTreeSet<NodeId>,
    /// Connected, and in no cluster: they know nothing that is asked of any node, and are asked only where there is no other.
    outside: BTreeSet<NodeId>,
    /// Leaders that know what this session holds.
    resumed: BTreeMap<GroupId, (NodeId, u64)>,
    turn: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leader {
    term: u64,
    node: Option<NodeId>,
}

impl Routes {
    pub(crate) fn map(&self) -> Option<&Arc<ClusterMap>> {
        self.map.as_ref()
    }

    /// Takes a map; whether it is newer than the one before.
    pub(crate) fn set_map(&mut self, map: ClusterMap) -> bool {
        let same_cluster = self.map.as_ref().is_none_or(|known| known.cluster == map.cluster);
        let newer = self.map.as_ref().is_none_or(|known| known.version < map.version) || !same_cluster;
        if newer {
            self.map = Some(Arc::new(map));
        }
        if !same_cluster {
            self.leaders.clear();
        }
        newer
    }

    /// Takes what a node says about a group's leader; whether that is news. Only a leader's own word says who it is: it gives
    /// it when it is ready, and others may have heard of it before. By theirs, the one before leads no longer.
    pub(crate) fn set_leader(&mut self, from: NodeId, GroupLeader { group, term, leader }: GroupLeader) -> bool {
        let leader = leader.filter(|leader| *leader == from);
        let said = Leader { term, node: leader };
        let news = self.leaders.get(&group).is_none_or(|known| {
            // Of one term there is one leader: whoever names none has only not heard of it. Where nobody is known to lead,
            // an older word is better than none: it may be a group that was made anew.
            let other = leader.is_some() && known.node != leader;
            term > known.term || (other && (term == known.term || known.node.is_none()))
        });
        if news {
            self.leaders.insert(group, said);
        }
        news
    }

    /// Whether the node is in a cluster, as it says itself.
    pub(crate) fn set_outside(&mut self, node: NodeId, is_outside: bool) {
        if is_outside {
            self.outside.insert(node);
        } else {
            self.outside.remove(&node);
        }
    }

    pub(crate) fn up(&mut self, node: NodeId) {
        self.up.insert(node);
    }

    /// The node's connection is gone. What it led it may lead still, and will say so when it is back.
    pub(crate) fn down(&mut self, node: NodeId) {
        self.up.remove(&node);
        self.outside.remove(&node);
        self.resumed.retain(|_, (at, _)| *at != node);
        for leader in self.leaders.values_mut().filter(|leader| leader.node == Some(node)) {
            leader.node = None;
        }
    }

    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.up.contains(&node)
    }

    pub(crate) fn connected(&self) -> Vec<NodeId> {
        self.up.iter().copied().collect()
    }

    pub(crate) fn nodes_up(&self) -> usize {
        self.up.len()
    }

    /// Where a request goes now, if anywhere.
    pub(crate) fn route(&mut self, target: Target) -> Option<NodeId> {
        match target {
            Target::Node(node) => Some(node).filter(|node| self.is_up(*node)),
            Target::Any => self.any(),
            Target::Slot(slot) => {
                let leader = self.leaders.get(&self.map.as_ref()?.group_of(slot))?;
                leader.node.filter(|node| self.is_up(*node))
            }
        }
    }

    fn any(&mut self) -> Option<NodeId> {
        self.turn = self.turn.wrapping_add(1);
        let inside: Vec<NodeId> = self.up.difference(&self.outside).copied().collect();
        let asked = if inside.is_empty() { self.connected() } else { inside };
        asked.get(self.turn % asked.len().max(1)).copied()
    }

    /// Data groups whose connected leader has not been told yet what this session holds. Once each.
    pub(crate) fn take_unresumed(&mut self) -> Vec<(GroupId, NodeId)> {
        let mut unresumed = Vec::new();
        for (group, Leader { term, node }) in &self.leaders {
            if let Some(node) = node.filter(|node| *group != GroupId::META && self.up.contains(node))
                && self.resumed.insert(*group, (node, *term)) != Some((node, *term))
            {
                unresumed.push((*group, node));
            }
        }
        unresumed
    }

    /// Connected nodes that lead data groups: those that have work to hand out.
    pub(crate) fn leading(&self) -> BTreeSet<NodeId> {
        let leaders = self.leaders.iter().filter(|(group, _)| **group != GroupId::META);
        leaders.filter_map(|(_, leader)| leader.node).filter(|node| self.up.contains(node)).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use coda_protocol::cluster::{MapGroup, MapNode, NodeState};
    use coda_protocol::ids::ClusterId;
    use coda_protocol::slots::SlotMap;

    use super::*;

    pub(crate) fn map(version: u64, groups: u16) -> ClusterMap {
        let node = |node| MapNode {
            node: NodeId(node),
            client_addr: format!("127.0.0.1:{node}").into(),
            zone: "".into(),
            state: NodeState::Active,
        };
        let group = |group| MapGroup { group: GroupId(group), voters: vec![NodeId(1), NodeId(2)], leader: None };
        ClusterMap {
            version,
            cluster: ClusterId([7; 16]),
            commands_version: 1,
            nodes: vec![node(1), node(2)],
            groups: (1..=u32::from(groups)).map(group).collect(),
            slots: SlotMap::even(groups),
        }
    }

    fn leads(group: u32, term: u64, leader: Option<u64>) -> GroupLeader {
        GroupLeader { group: GroupId(group), term, leader: leader.map(NodeId) }
    }

    const FIRST: Target = Target::Slot(Slot(0));
    const LAST: Target = Target::Slot(Slot(4_095));

    #[test]
    fn a_request_goes_to_the_leader_of_its_group_and_waits_while_there_is_none() {
        let mut routes = Routes::default();
        assert_eq!(routes.route(FIRST), None);
        routes.up(NodeId(1));
        assert_eq!((routes.route(FIRST), routes.route(Target::Any)), (None, Some(NodeId(1))));
        assert!(routes.set_map(map(1, 2)));
        assert_eq!(routes.route(FIRST), None);
        assert!(
            routes.set_leader(NodeId(1), leads(1, 3, Some(1))) && routes.set_leader(NodeId(2), leads(2, 4, Some(2)))
        );
        assert_eq!((routes.route(FIRST), routes.route(LAST)), (Some(NodeId(1)), None));
        routes.up(NodeId(2));
        assert_eq!((routes.route(FIRST), routes.route(LAST)), (Some(NodeId(1)), Some(NodeId(2))));
        let any: BTreeSet<_> = (0..4).map(|_| routes.route(Target::Any)).collect();
        assert_eq!(any.len(), 2, "questions that every node can answer are spread");
    }

    #[test]
    fn the_later_term_is_right_and_an_older_map_is_not_taken() {
        let mut routes = Routes::default();
        assert!(routes.set_map(map(5, 1)) && !routes.set_map(map(4, 1)) && !routes.set_map(map(5, 1)));
        routes.up(NodeId(1));
        routes.up(NodeId(2));
        assert!(routes.set_leader(NodeId(1), leads(1, 3, Some(1))));
        assert!(
            !routes.set_leader(NodeId(9), leads(1, 3, None)),
            "who has not heard of the leader does not take it away"
        );
        assert!(!routes.set_leader(NodeId(2), leads(1, 2, Some(2))));
        assert!(routes.set_leader(NodeId(9), leads(1, 4, None)));
        assert_eq!(routes.route(FIRST), None);
        assert!(routes.set_leader(NodeId(2), leads(1, 4, Some(2))));
        assert_eq!(routes.route(FIRST), Some(NodeId(2)));
        assert!(!routes.set_leader(NodeId(1), leads(1, 1, Some(1))));
        routes.down(NodeId(2));
        assert!(routes.set_leader(NodeId(1), leads(1, 1, Some(1))), "nobody else is known to lead");
        assert!(routes.set_leader(NodeId(1), leads(1, 5, Some(1))));
        let other = ClusterMap { cluster: ClusterId([8; 16]), ..map(1, 1) };
        assert!(
            routes.set_map(other) && routes.set_leader(NodeId(1), leads(1, 1, Some(1))),
            "another cluster begins anew"
        );
    }

    #[test]
    fn a_leader_is_who_says_so_itself_and_others_only_say_who_leads_no_longer() {
        let mut routes = Routes::default();
        routes.set_map(map(1, 1));
        routes.up(NodeId(1));
        routes.up(NodeId(2));
        assert!(routes.set_leader(NodeId(1), leads(1, 3, Some(1))));
        assert!(routes.set_leader(NodeId(1), leads(1, 4, Some(2))), "it has lost to another, which may not be ready");
        assert_eq!(routes.route(FIRST), None);
        assert!(routes.take_unresumed().is_empty());
        assert!(routes.set_leader(NodeId(2), leads(1, 4, Some(2))), "now it is");
        assert_eq!(routes.route(FIRST), Some(NodeId(2)));
        assert!(!routes.set_leader(NodeId(3), leads(1, 4, Some(2))));
        assert_eq!(routes.take_unresumed(), [(GroupId(1), NodeId(2))]);
    }

    #[test]
    fn a_node_outside_of_the_cluster_is_asked_only_where_there_is_no_other() {
        let mut routes = Routes::default();
        routes.up(NodeId(1));
        routes.set_outside(NodeId(1), true);
        assert_eq!(routes.route(Target::Any), Some(NodeId(1)), "about itself, and to begin a cluster");
        routes.up(NodeId(2));
        let asked = |routes: &mut Routes| (0..4).map(|_| routes.route(Target::Any)).collect::<BTreeSet<_>>();
        assert_eq!(asked(&mut routes), BTreeSet::from([Some(NodeId(2))]));
        routes.set_outside(NodeId(1), false);
        assert_eq!(asked(&mut routes).len(), 2, "it has joined");
        routes.set_outside(NodeId(1), true);
        routes.down(NodeId(1));
        routes.up(NodeId(1));
        assert_eq!(asked(&mut routes).len(), 2);
    }

    #[test]
    fn each_leadership_hears_once_what_the_session_holds() {
        let mut routes = Routes::default();
        routes.set_map(map(1, 2));
        routes.set_leader(NodeId(1), leads(1, 3, Some(1)));
        routes.set_leader(NodeId(1), leads(0, 3, Some(1)));
        assert!(routes.take_unresumed().is_empty(), "it is not connected");
        routes.up(NodeId(1));
        assert_eq!(routes.take_unresumed(), [(GroupId(1), NodeId(1))]);
        assert!(routes.take_unresumed().is_empty());
        routes.set_leader(NodeId(1), leads(1, 4, Some(1)));
        assert_eq!(routes.take_unresumed(), [(GroupId(1), NodeId(1))], "a new term has a new leader's memory");
        routes.down(NodeId(1));
        assert!(routes.leading().is_empty());
        routes.up(NodeId(1));
        assert!(routes.take_unresumed().is_empty(), "it has not said yet that it leads still");
        assert!(routes.set_leader(NodeId(1), leads(1, 4, Some(1))));
        assert_eq!(routes.take_unresumed(), [(GroupId(1), NodeId(1))]);
    }
}
