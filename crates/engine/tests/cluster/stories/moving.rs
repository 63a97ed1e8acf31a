//! Where groups are, and how they move.

use coda_engine::cluster::command::ClusterCommand as C;
use coda_engine::query::cluster as query;
use coda_protocol::cluster::{NodeState, Registration};
use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::limits::VOTERS_MAX;
use coda_protocol::rebalance::StuckReason;
use coda_protocol::reject::Reject;

use crate::world::{World, machine, place};

#[test]
fn three_nodes_share_everything_evenly() {
    let mut w = World::of(3);
    w.rebalance();
    assert_eq!(w.voters(1), [1, 2, 3]);
    let mut leads: Vec<u32> =
        w.loads(&[1, 2, 3]).iter().map(|(groups, leads)| (assert_eq!(*groups, 4), *leads).1).collect();
    leads.sort_unstable();
    assert_eq!(leads, [1, 1, 2]);
    assert_eq!(w.rebalance().steps, [], "and then there is nothing to do");
}

#[test]
fn two_nodes_are_no_better_than_one_so_nothing_moves() {
    let mut w = World::of(2);
    let plan = w.rebalance();
    assert_eq!(w.voters(0), [1], "two voters would survive no loss, and either loss would stop them");
    assert_eq!((plan.steps.len(), plan.stuck), (0, vec![]));
}

#[test]
fn five_nodes_from_three_and_back() {
    let mut w = World::of(3);
    w.rebalance();
    for storage in [4, 5] {
        let node = w.join(storage);
        assert_eq!(w.rebalance().steps, [], "nothing moves to a node that was not seen at work");
        w.activate(node);
        w.rebalance();
    }
    // Four groups of three copies on five nodes.
    let loads = w.loads(&[1, 2, 3, 4, 5]);
    assert!(loads.iter().all(|(groups, leads)| (2..=3).contains(groups) && *leads <= 1), "{loads:?}");
    for node in [2, 1] {
        w.drain(node);
        assert_eq!(w.refused(C::Remove { node: NodeId(node) }).code(), "CODA2043");
        w.rebalance();
        w.done(C::Remove { node: NodeId(node) });
    }
    let loads = w.loads(&[3, 4, 5]);
    assert!(loads.iter().all(|(groups, leads)| *groups == 4 && (1..=2).contains(leads)), "{loads:?}");
}

#[test]
fn a_node_is_replaced_by_adding_first() {
    let mut w = World::of(3);
    w.rebalance();
    w.drain(3);
    let plan = w.rebalance();
    let stuck: Vec<_> = plan.stuck.iter().map(|stuck| (stuck.group.0, stuck.reason)).collect();
    let no_room = StuckReason::NoRoom { node: NodeId(3) };
    assert_eq!(stuck, [0, 1, 2, 3].map(|group| (group, no_room)), "three copies do not fit on two nodes");
    assert_eq!(w.loads(&[3]), [(4, 0)], "but it leads nothing any more");
    let node = w.join(4);
    w.activate(node);
    assert_eq!(w.rebalance().stuck, []);
    assert_eq!(w.loads(&[3, 4])[0], (0, 0));
    w.done(C::Remove { node: NodeId(3) });
}

#[test]
fn copies_go_to_different_zones() {
    let mut w = World::new();
    w.register(1, Registration { zone: "a".into(), ..machine(1) }).unwrap();
    for (storage, zone) in [(2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")] {
        let node = w.join_as(Registration { zone: zone.into(), ..machine(storage) });
        w.activate(node);
    }
    w.rebalance();
    for group in 0..=3 {
        let mut zones: Vec<_> = w.voters(group).iter().map(|node| w.node(*node).unwrap().registration.zone).collect();
        zones.sort();
        assert_eq!(zones, ["a", "b", "c"], "group {group}");
    }
    assert_eq!(w.loads(&[1, 2, 3, 4, 5, 6]).iter().map(|(groups, _)| *groups).collect::<Vec<_>>(), [2; 6]);
}

#[test]
fn fewer_copies_are_wanted_and_made() {
    let mut w = World::of(3);
    w.rebalance();
    w.done(C::SetReplicationFactor { replication_factor: 1 });
    w.rebalance();
    let loads = w.loads(&[1, 2, 3]);
    assert!(loads.iter().all(|(groups, leads)| groups == leads && (1..=2).contains(groups)), "{loads:?}");
}

#[test]
fn of_two_planners_one_is_refused() {
    let mut w = World::of(3);
    let seen = w.map().version;
    w.done(place(1, &[1, 2], Some(1), seen));
    assert_eq!(w.refused(place(1, &[1, 3], Some(1), seen)), Reject::PlacementChanged { group: 1, version: seen + 1 });
    assert_eq!(w.voters(1), [1, 2]);
    // What was planned for another group still holds.
    w.done(place(2, &[1, 3], Some(3), seen));
    let future = w.map().version + 1;
    assert_eq!(w.refused(place(2, &[1], Some(1), future)).code(), "CODA2054", "nobody has seen the future");
}

#[test]
fn a_placement_that_makes_no_sense_is_refused() {
    let mut w = World::of(3);
    w.rebalance();
    let joining = w.join(4).0;
    let many: Vec<u64> = (1..=VOTERS_MAX as u64 + 1).collect();
    let bad: [(&[u64], Option<u64>); 7] = [
        (&[], None),
        (&[2, 1, 3], None),
        (&[1, 1, 2, 3], None),
        (&[1, 2, 3], Some(4)),
        (&many, None),
        (&[1, 2, 3, joining], None),
        (&[1, 2], None),
    ];
    for (voters, leader) in bad {
        assert_eq!(w.place(1, voters, leader).unwrap_err().code(), "CODA2053", "{voters:?}");
    }
    assert_eq!(w.place(1, &[1, 2, 3, 9], None), Err(Reject::NoSuchNode { node: 9 }));
    assert_eq!(w.refused(place(4, &[1], None, 1)), Reject::NoSuchGroup { group: 4 });
    assert_eq!(w.refused(C::SettleGroup { group: GroupId(4), version: 1 }), Reject::NoSuchGroup { group: 4 });
    assert_eq!(w.voters(1), [1, 2, 3]);
}

/// It votes until Raft's own membership says otherwise: removed before that, it could be missed.
#[test]
fn a_node_stays_known_until_the_group_was_seen_without_it() {
    let mut w = World::of(2);
    w.place(1, &[1, 2], Some(1)).unwrap();
    w.place(1, &[1], Some(1)).unwrap();
    w.drain(2);
    assert_eq!(w.refused(C::Remove { node: NodeId(2) }), Reject::NotEmpty { node: 2, groups: 1 });
    let version = query::placement(&w.kv, GroupId(1)).unwrap().version;
    for wrong in [version - 1, w.map().version + 1] {
        let seen = C::SettleGroup { group: GroupId(1), version: wrong };
        assert_eq!(w.refused(seen), Reject::PlacementChanged { group: 1, version });
    }
    let version = w.map().version;
    w.done(C::SettleGroup { group: GroupId(1), version });
    w.done(C::Remove { node: NodeId(2) });
}

#[test]
fn a_node_that_is_to_vote_again_is_not_leaving() {
    let mut w = World::of(3);
    for voters in [&[1, 2][..], &[1], &[1, 2]] {
        w.place(1, voters, Some(1)).unwrap();
    }
    let row = query::placement(&w.kv, GroupId(1)).unwrap();
    assert_eq!((row.voters.len(), row.leaving, row.version), (2, vec![], w.map().version));
}

#[test]
fn a_drained_node_that_is_taken_back_is_used_again() {
    let mut w = World::of(4);
    w.rebalance();
    w.drain(4);
    w.rebalance();
    assert_eq!(w.loads(&[4]), [(0, 0)]);
    w.done(C::Undrain { node: NodeId(4) });
    w.rebalance();
    assert_eq!((w.loads(&[4])[0].0, w.state(4)), (3, Some(NodeState::Active)));
}
