//! Nodes that come back, change, and leave.

use coda_engine::cluster::command::ClusterCommand as C;
use coda_engine::query::cluster as query;
use coda_protocol::cluster::{NodeState, Registration, SettingValue};
use coda_protocol::ids::NodeId;
use coda_protocol::limits::REMOVED_NODES_MAX;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use crate::world::{World, digest, machine, token};

#[test]
fn a_node_that_starts_again_says_where_it_is_now() {
    let mut w = World::of(2);
    let version = w.map().version;
    assert_eq!(w.register(2, machine(2)), Ok(Reply::Done));
    assert_eq!(w.map().version, version, "nothing new");
    let moved = Registration {
        peer_addr: "10.0.0.2:9".into(),
        client_addr: "10.0.0.2:8".into(),
        zone: "east".into(),
        version: "0.2.0".into(),
        ..machine(2)
    };
    assert_eq!(w.register(2, moved.clone()), Ok(Reply::Done));
    assert_eq!(w.node(2).unwrap().registration, moved);
    let map = w.map();
    let node = map.node(NodeId(2)).unwrap();
    assert_eq!((map.version, node.client_addr.as_str(), node.zone.as_str()), (version + 1, "10.0.0.2:8", "east"));
}

#[test]
fn a_wiped_disk_under_an_old_identity_is_refused() {
    let mut w = World::of(3);
    let wiped = Registration { storage: machine(9).storage, ..machine(3) };
    let refused = w.register(3, wiped.clone()).unwrap_err();
    assert_eq!(refused, Reject::WipedDisk { node: 3 });
    assert!(refused.to_string().contains("join under another id"), "{refused}");
    // Two nodes whose disks were swapped are neither the one nor the other.
    assert_eq!(w.register(3, machine(2)), Err(Reject::OtherNode { node: 2 }));
    // As a new node it is welcome.
    assert_eq!(w.join_as(wiped), NodeId(9));
}

/// A data folder from a backup has older votes than those that were given, and a process that should be gone may still
/// write to a copy of it.
#[test]
fn of_two_that_say_they_are_one_node_the_one_that_started_later_is() {
    let mut w = World::of(2);
    let started = |incarnation| Registration { incarnation, ..machine(2) };
    assert_eq!(w.register(2, started(5)), Ok(Reply::Done));
    let old = Reject::OldIncarnation { node: 2, incarnation: 4, known: 5 };
    assert_eq!(w.register(2, started(4)), Err(old));
    let moved = Registration { client_addr: "new:1".into(), ..started(5) };
    assert_eq!(w.register(2, moved), Ok(Reply::Done), "one start may say something else later");
    assert_eq!(w.register(2, started(9)), Ok(Reply::Done));
}

#[test]
fn a_removed_node_is_refused_by_name_for_ever() {
    let mut w = World::of(2);
    w.drain(2);
    w.done(C::Remove { node: NodeId(2) });
    assert_eq!(w.state(2), Some(NodeState::Removed), "it can still be seen");
    assert!(w.map().node(NodeId(2)).is_none(), "and nobody is sent there");
    assert_eq!(w.register(2, machine(2)), Err(Reject::NodeRemoved { node: 2 }));
    assert_eq!(w.register(7, machine(7)), Err(Reject::NoSuchNode { node: 7 }));
    assert_eq!(w.register(0, machine(7)), Err(Reject::NoSuchNode { node: 0 }));
}

/// As many as come and go in years of a cluster that replaces a node every week.
#[test]
fn what_is_known_of_removed_nodes_is_bounded_and_the_oldest_are_strangers() {
    let mut w = World::new();
    let wide = |i: usize| {
        let mut registration = machine(0);
        registration.storage.0[..8].copy_from_slice(&(i as u64).to_be_bytes());
        registration
    };
    for i in 2..REMOVED_NODES_MAX + 5 {
        // Tokens are bounded as well.
        w.now += 2 * 24 * 3_600 * 1_000;
        w.tick();
        let create = C::CreateToken { token: token(9), digest: digest(9), ttl: None };
        w.command(create).unwrap();
        assert_eq!(w.try_join_as(9, NodeId(i as u64), wide(i)), Ok(NodeId(i as u64)));
        w.done(C::Remove { node: NodeId(i as u64) });
    }
    assert_eq!(query::nodes(&w.kv).len(), REMOVED_NODES_MAX + 1);
    assert_eq!(w.state(2), None);
    assert_eq!(w.register(2, wide(2)), Err(Reject::NoSuchNode { node: 2 }));
    assert_eq!(w.register(400, wide(400)), Err(Reject::NodeRemoved { node: 400 }));
}

#[test]
fn the_last_active_node_cannot_be_drained() {
    let mut w = World::of(2);
    w.join(3);
    w.drain(1);
    assert_eq!(w.refused(C::Drain { node: NodeId(2) }), Reject::LastNode { node: 2 });
    w.done(C::Undrain { node: NodeId(1) });
    w.drain(2);
}

#[test]
fn new_commands_are_used_once_every_node_understands_them() {
    let mut w = World::of(3);
    let upgraded = |storage, commands_version| Registration { commands_version, ..machine(storage) };
    w.register(1, upgraded(1, 3)).unwrap();
    w.register(2, upgraded(2, 2)).unwrap();
    assert_eq!(w.commands(), 1);
    // Until then each may go back.
    w.register(1, upgraded(1, 1)).unwrap();
    w.register(1, upgraded(1, 3)).unwrap();
    w.register(3, upgraded(3, 3)).unwrap();
    assert_eq!((w.commands(), w.map().commands_version), (2, 2));
    // After that none may, and none that is older may join.
    assert_eq!(w.register(1, upgraded(1, 1)), Err(Reject::TooOld { commands_version: 1, needed: 2 }));
    let id = w.token();
    assert_eq!(w.try_join(id, machine(4)), Err(Reject::TooOld { commands_version: 1, needed: 2 }));
    assert_eq!(w.try_join(id, upgraded(4, 2)), Ok(NodeId(4)));
    assert_eq!(w.register(1, upgraded(1, 2)), Ok(Reply::Done));
}

#[test]
fn the_last_old_node_to_leave_ends_the_upgrade() {
    let mut w = World::of(2);
    w.register(1, Registration { commands_version: 2, ..machine(1) }).unwrap();
    w.drain(2);
    assert_eq!(w.commands(), 1, "it still reads the log");
    w.done(C::Remove { node: NodeId(2) });
    assert_eq!(w.commands(), 2);
}

#[test]
fn an_upgrade_can_be_held_and_taken_back() {
    let mut w = World::new();
    w.set("upgrade.auto", Some(SettingValue::Switch(false))).unwrap();
    w.register(1, Registration { commands_version: 2, ..machine(1) }).unwrap();
    assert_eq!(w.commands(), 1);
    w.register(1, machine(1)).unwrap();
    w.register(1, Registration { commands_version: 2, ..machine(1) }).unwrap();
    let version = w.map().version;
    w.set("upgrade.auto", None).unwrap();
    assert_eq!((w.commands(), w.map().version), (2, version + 1));
}
