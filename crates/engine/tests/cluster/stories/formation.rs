//! How a cluster begins, and what it is made of.

use coda_engine::cluster::command::{ClusterCommand as C, InitCluster};
use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::{Entry, Grant};
use coda_engine::query::cluster as query;
use coda_engine::recover::recover;
use coda_protocol::cluster::{ClusterDescription, NodeState, SettingValue};
use coda_protocol::codec;
use coda_protocol::ids::{ClusterId, GroupId, Name, NodeId, SessionId, Slot, Timestamp, WorkKind};
use coda_protocol::limits::{GROUPS_MAX, SLOTS};
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use crate::world::{CLUSTER, META, World, init, machine};

#[test]
fn a_cluster_begins_with_one_node_and_everything_on_it() {
    let mut w = World::empty();
    assert_eq!(w.at(5).command(init(3, 3)), Ok(Reply::Done));
    let described = query::describe(&w.kv).unwrap();
    let expected = ClusterDescription {
        cluster: CLUSTER,
        replication_factor: 3,
        groups: 3,
        created: Timestamp(5),
        commands_version: 1,
    };
    assert_eq!(described, expected);
    assert_eq!(w.state(1), Some(NodeState::Active));
    assert_eq!(w.loads(&[1]), [(4, 4)]);
    let map = w.map();
    assert_eq!((map.version, map.nodes.len(), map.groups.len()), (1, 1, 4));
    assert_eq!([0, 1_365, 1_366, SLOTS - 1].map(|slot| map.group_of(Slot(slot)).0), [1, 1, 2, 3]);
    assert_eq!(codec::decode("cluster map", &codec::encode(&map)), Ok(map));
}

#[test]
fn a_cluster_begins_once() {
    let mut w = World::new();
    let exists = Reject::ClusterExists { cluster: CLUSTER.to_string() };
    let other =
        |cluster, founder| C::Init(InitCluster { cluster, replication_factor: 3, groups: 3, node: NodeId(1), founder });
    assert_eq!(w.refused(other(ClusterId([1; 16]), machine(1))), exists);
    assert_eq!(w.refused(other(CLUSTER, machine(2))), exists);
    assert_eq!(w.refused(init(3, 4)), exists);
    // Whoever lost the answer asks again, perhaps after the cluster was changed.
    w.done(C::SetReplicationFactor { replication_factor: 5 });
    assert_eq!(w.command(init(3, 3)), Ok(Reply::Done));
    assert_eq!(query::describe(&w.kv).unwrap().replication_factor, 5);
}

#[test]
fn impossible_clusters_are_refused() {
    let mut w = World::empty();
    for replication_factor in [0, 2, 4, 7] {
        assert_eq!(w.refused(init(replication_factor, 1)), Reject::BadReplicationFactor { replication_factor });
    }
    for groups in [0, GROUPS_MAX + 1] {
        assert_eq!(w.refused(init(3, groups)), Reject::BadGroupCount { groups, groups_max: GROUPS_MAX });
    }
    assert!(w.command(init(1, GROUPS_MAX)).is_ok());
    assert_eq!(
        w.refused(C::SetReplicationFactor { replication_factor: 2 }),
        Reject::BadReplicationFactor { replication_factor: 2 }
    );
}

#[test]
fn before_its_beginning_there_is_nothing_to_change_or_to_see() {
    let mut w = World::empty();
    let node = NodeId(1);
    let commands = [
        C::CreateToken { token: crate::world::token(1), digest: crate::world::digest(1), ttl: None },
        C::RevokeToken { token: crate::world::token(1) },
        C::Register { node, registration: machine(1) },
        C::Activate { node },
        C::Drain { node },
        C::Undrain { node },
        C::Remove { node },
        crate::world::place(1, &[1], None, 1),
        C::SettleGroup { group: GroupId(1), version: 1 },
        C::SetReplicationFactor { replication_factor: 3 },
        C::SetSetting { key: "rebalance.auto".into(), value: None },
    ];
    for command in commands {
        assert_eq!(w.refused(command), Reject::NoCluster);
    }
    assert_eq!(w.try_join(1, machine(1)), Err(Reject::NoCluster));
    assert_eq!(query::map(&w.kv), Err(Reject::NoCluster));
    assert_eq!(query::layout(&w.kv), Err(Reject::NoCluster));
    assert_eq!((query::map_version(&w.kv), query::nodes(&w.kv).len()), (None, 0));
    assert!(w.kv.map.is_empty());
}

#[test]
fn the_meta_group_holds_no_work_and_data_groups_hold_no_cluster() {
    let mut w = World::new();
    let before = w.kv.clone();
    let pause = Command::PauseQueue { queue: "q".into() };
    assert_eq!(w.apply(pause), Err(Reject::WrongGroup { group: 0 }));
    let names: std::sync::Arc<[Name]> = std::sync::Arc::from(vec![Name::new("a")]);
    let grant = Grant { session: SessionId([1; 16]), queue: "q".into(), kind: WorkKind::Task, names: 0, slots: 5 };
    let grants = Entry { grants: vec![grant], name_sets: vec![names], ..Entry::default() };
    assert_eq!(coda_engine::apply::apply(&mut w.kv, META, 9, &grants).unused, [5]);
    assert!(w.kv == before);
    let mut data = coda_engine::kv::MemKv::default();
    let entry = Entry { commands: vec![Command::Cluster(init(3, 3)), Command::Tick], ..Entry::default() };
    let applied = coda_engine::apply::apply(&mut data, GroupId(2), 1, &entry);
    assert_eq!(applied.outcomes, [Err(Reject::WrongGroup { group: 2 }), Ok(Reply::Done)]);
    assert!(data.map.is_empty());
}

#[test]
fn the_maps_version_grows_with_each_change_and_a_new_leader_knows_it() {
    let mut w = World::of(2);
    let version = w.map().version;
    w.drain(2);
    assert_eq!(w.effects, [Effect::MapChanged(version + 1)]);
    assert_eq!((w.map().version, query::map_version(&w.kv)), (version + 1, Some(version + 1)));
    w.drain(2);
    assert_eq!((w.effects.len(), w.map().version), (0, version + 1));
    assert!(recover(&w.kv, META).contains(&Effect::MapChanged(version + 1)));
    // Whoever plans hears of what it plans by, too.
    w.done(C::SetReplicationFactor { replication_factor: 1 });
    assert_eq!(w.effects, [Effect::MapChanged(version + 2)]);
    w.set("rebalance.auto", Some(SettingValue::Switch(false))).unwrap();
    assert_eq!(w.effects, [Effect::MapChanged(version + 3)]);
    w.set("rebalance.auto", Some(SettingValue::Switch(false))).unwrap();
    assert_eq!(w.map().version, version + 3);
}
