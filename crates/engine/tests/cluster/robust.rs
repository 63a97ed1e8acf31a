//! No command panics the meta group or breaks an invariant, however little sense it makes.

use coda_engine::apply::apply;
use coda_engine::cluster::command::{ClusterCommand as C, InitCluster, PlaceGroup};
use coda_engine::command::Command;
use coda_engine::entry::Entry;
use coda_engine::kv::MemKv;
use coda_engine::query::cluster as query;
use coda_engine::recover::recover;
use coda_engine::{invariants, query as work};
use coda_protocol::cluster::{ClusterMap, Registration, SettingValue};
use coda_protocol::codec;
use coda_protocol::ids::{ClusterId, GroupId, Millis, NodeId, SessionId, Timestamp};
use coda_protocol::limits::{CLUSTER_MAP_BYTES_MAX, RETENTION_MS};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::world::{META, digest, machine, token};

/// Numbers that mean something else for each command: small, so that they meet, and easy to shrink.
type Raw = (u8, u8, u8, u8);

fn node(a: u8) -> NodeId {
    NodeId(if a == 255 { u64::MAX } else { u64::from(a % 6) })
}

fn registration(a: u8, b: u8) -> Registration {
    let mut registration = machine(a % 5 + 1);
    registration.commands_version = u32::from(b % 3);
    match b {
        200..=209 => registration.client_addr = "".into(),
        210..=219 => registration.zone = "z\0".into(),
        220..=229 => registration.zone = ["a", "b"][usize::from(b % 2)].into(),
        230..=239 => registration.client_addr = "moved:1".into(),
        _ => {}
    }
    registration
}

fn voters(a: u8) -> Vec<NodeId> {
    let mut voters: Vec<_> = (1..=6).filter(|n| a >> n & 1 == 1).map(NodeId).collect();
    if a & 1 == 1 && a > 250 {
        voters.reverse();
    }
    voters
}

fn command(kv: &MemKv, (kind, a, b, c): Raw) -> Command {
    let ttl = [None, Some(Millis(60_000)), Some(Millis(u64::MAX)), Some(Millis(0))][usize::from(c % 4)];
    let group = GroupId(u32::from(a % 4));
    let version = |c: u8| match c % 8 {
        0 => u64::MAX,
        1 => 0,
        _ => query::placement(kv, group).map_or(1, |row| row.version),
    };
    Command::Cluster(match kind {
        0 | 1 => C::Init(InitCluster {
            cluster: ClusterId([a % 2; 16]),
            replication_factor: b % 6,
            groups: u16::from(c % 4),
            node: node(b % 3),
            founder: registration(1, c),
        }),
        2 | 3 => C::CreateToken { token: token(a % 4), digest: digest(b % 2), ttl },
        4 => C::RevokeToken { token: token(a % 4) },
        5..=8 => {
            C::Join { token: token(a % 4), digest: digest(b % 2), node: node(c), registration: registration(c, b) }
        }
        9 | 10 => C::Register { node: node(a), registration: registration(b, c) },
        11 | 12 => C::Activate { node: node(a) },
        13 => C::Drain { node: node(a) },
        14 => C::Undrain { node: node(a) },
        15 | 16 => C::Remove { node: node(a) },
        17..=19 => {
            let voters = voters(b);
            let leader = (c % 3 > 0).then(|| voters.get(usize::from(c % 2)).copied().unwrap_or(NodeId(7)));
            C::PlaceGroup(PlaceGroup { group, voters, leader, seen: version(c) })
        }
        20 => C::SettleGroup { group, version: version(c) },
        21 => C::SetReplicationFactor { replication_factor: a % 6 },
        22 => {
            let key = ["rebalance.auto", "join_token.ttl_ms", "upgrade.auto", "nothing", ""][usize::from(a % 5)];
            let value = [None, Some(SettingValue::Switch(b > 9)), Some(SettingValue::Number(u64::from(b) * 1_000))];
            C::SetSetting { key: key.into(), value: value[usize::from(c % 3)] }
        }
        23 => return Command::EndSession { session: SessionId([a; 16]) },
        _ => return Command::Tick,
    })
}

fn play(steps: &[(Vec<Raw>, u8)]) {
    let (mut kv, mut now, mut version) = (MemKv::default(), 0u64, 0);
    for ((raws, time), index) in steps.iter().zip(1u64..) {
        now += [0, 1_000, 60_000, RETENTION_MS][usize::from(*time % 4)];
        let commands: Vec<Command> = raws.iter().map(|raw| command(&kv, *raw)).collect();
        let entry = Entry { now: Timestamp(now), commands, ..Entry::default() };
        let entry: Entry = codec::decode("entry", &codec::encode(&entry)).expect("an entry survives the log");
        let applied = apply(&mut kv, META, index, &entry);
        for (command, outcome) in entry.commands.iter().zip(&applied.outcomes) {
            if let Err(reject) = command.check() {
                assert_eq!(outcome.as_ref(), Err(&reject));
            }
        }
        let broken = invariants::check_at(&kv, META, index);
        assert!(broken.is_empty(), "{broken:#?}");
        let after = query::map_version(&kv).unwrap_or(0);
        assert!(after >= version);
        version = after;
    }
    // Everything can be read, whatever it is.
    drop((query::describe(&kv), query::nodes(&kv), query::settings(&kv), query::tokens(&kv, Timestamp(now))));
    drop((recover(&kv, META), work::queues(&kv, META, None)));
    if let Ok(map) = query::map(&kv) {
        let bytes = codec::encode(&map);
        assert!(bytes.len() <= CLUSTER_MAP_BYTES_MAX);
        assert_eq!(codec::decode::<ClusterMap>("cluster map", &bytes), Ok(map));
        drop(query::layout(&kv).unwrap().plan());
    }
}

proptest! {
    #[test]
    fn random_commands_never_panic_and_never_break_an_invariant(
        steps in vec((vec((0u8..26, any::<u8>(), any::<u8>(), any::<u8>()), 0..6), any::<u8>()), 0..60)
    ) {
        play(&steps);
    }
}
