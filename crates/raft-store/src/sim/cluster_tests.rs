//! A group of three nodes on simulated disks, in virtual time, under everything that happens to disks: nothing acknowledged is
//! lost, logs match, and every state is what the log says. A failing test prints its seed; `CODA_SEED` sets it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coda_engine::apply::apply;
use coda_engine::entry::Entry;
use coda_engine::kv::MemKv;
use coda_protocol::ids::NodeId;
use coda_protocol::planted::{Bug, plant};
use openraft::EntryPayload;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use super::{Faults, SimDisk, stops};
use crate::common::cluster::Wires;
use crate::common::{GROUP, RandomEntries, rows_of};
use crate::group::{Group, GroupOptions, ProposeError};
use crate::log::LogStore;
use crate::peers::Peer;
use crate::rows::{decode_record, record_term};
use crate::store::{Medium, NodeStore, StoreOptions};

const NODES: u64 = 3;
const CLUSTERS: u64 = 6;
const STEPS: u32 = 30;
const PROPOSERS: u64 = 6;
/// For everything that must happen, in virtual time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was seen: of the log, whatever is committed, by index.
#[derive(Default)]
struct Seen {
    committed: BTreeMap<u64, (u64, Bytes)>,
    /// What proposers were told.
    acknowledged: BTreeMap<u64, (u64, Entry)>,
}

struct World {
    what: String,
    random: StdRng,
    wires: Wires,
    disks: BTreeMap<NodeId, SimDisk>,
    nodes: BTreeMap<NodeId, (NodeStore, Group)>,
    seen: Arc<Mutex<Seen>>,
}

impl World {
    async fn start(seed: u64) -> Self {
        let disks = (1..=NODES).map(|node| (NodeId(node), SimDisk::new(seed.wrapping_mul(31).wrapping_add(node))));
        let mut world = Self {
            what: format!("CODA_SEED={seed}"),
            random: StdRng::seed_from_u64(seed),
            wires: Wires { latency: Duration::from_micros(300), ..Wires::default() },
            disks: disks.collect(),
            nodes: BTreeMap::new(),
            seen: Arc::default(),
        };
        for node in 1..=NODES {
            world.up(NodeId(node)).await;
        }
        let first = world.nodes[&NodeId(1)].1.clone();
        first.initialize_single().await.unwrap();
        for node in 2..=NODES {
            first.add_learner(Peer { node: NodeId(node), addr: format!("node-{node}") }).await.unwrap();
        }
        first.change_voters((1..=NODES).map(NodeId)).await.unwrap();
        world
    }

    async fn up(&mut self, node: NodeId) {
        if self.nodes.contains_key(&node) {
            return;
        }
        let medium = Medium::Sim(self.disks[&node].clone());
        let store = NodeStore::open("node", StoreOptions { medium, ..StoreOptions::default() }).unwrap();
        let options = GroupOptions { checkpoint_log_bytes: 4 << 20, ..GroupOptions::new(GROUP, node) };
        let group = Group::start(store.clone(), options, Arc::new(self.wires.of(node))).await.unwrap();
        self.wires.up.lock().insert(node, group.clone());
        self.nodes.insert(node, (store, group));
    }

    /// Ends a node as `end` ends what it lies on.
    async fn down(&mut self, node: NodeId, end: impl FnOnce(&SimDisk)) {
        self.wires.up.lock().remove(&node);
        let Some((store, group)) = self.nodes.remove(&node) else { return };
        end(&self.disks[&node]);
        timeout(PATIENCE, group.shutdown()).await.expect("it ends");
        drop((store, group));
    }

    /// Notes what each node has, and compares it with what was seen before.
    fn observe(&self) {
        let mut seen = self.seen.lock();
        for (store, group) in self.nodes.values() {
            let Some(committed) = group.status().committed else { continue };
            for (index, record) in store.log().read(GROUP, 0..committed + 1, usize::MAX).unwrap() {
                let term = record_term("", &record).unwrap();
                let known = seen.committed.entry(index).or_insert_with(|| (term, record.clone()));
                assert!(*known == (term, record), "{}: two entries at {index}", self.what);
            }
        }
    }

    async fn happen(&mut self) {
        let node = NodeId(self.random.random_range(1..=NODES));
        match self.random.random_range(0..14) {
            0..=2 => self.down(node, SimDisk::crash).await,
            3 => self.down(node, SimDisk::kill).await,
            4 => {
                for node in 1..=NODES {
                    self.down(NodeId(node), SimDisk::crash).await;
                }
            }
            5 => self.disks[&node].change(|faults| faults.hangs = true),
            6 => self.disks[&node].change(|faults| faults.fails = true),
            7 => self.disks[&node].change(|faults| faults.room = Some(1_000)),
            8 => self.disks[&node].change(|faults| faults.sync_max = Duration::from_millis(80)),
            9 => {
                // With the second, what was before the first is let go: who was down by then needs a snapshot.
                self.nodes.values().for_each(|(_, group)| group.checkpoint());
                sleep(Duration::from_millis(50)).await;
                self.observe();
                self.nodes.values().for_each(|(_, group)| group.checkpoint());
            }
            10 | 11 => drop(self.wires.cut.lock().insert(node)),
            _ => self.heal().await,
        }
    }

    /// Disks are good again, what has failed is started again, and so is what was down.
    async fn heal(&mut self) {
        self.wires.cut.lock().clear();
        for node in (1..=NODES).map(NodeId) {
            let refused = {
                let faults = self.disks[&node].faults();
                faults.fails || faults.room.is_some()
            };
            self.disks[&node].change(|faults| *faults = Faults::default());
            let failed = self.nodes.get(&node).is_some_and(|(_, group)| group.report().failure.is_some());
            if refused || failed {
                self.down(node, SimDisk::kill).await;
            }
            self.up(node).await;
        }
    }

    /// Waits until everybody has applied all of the log. What clients gave up waiting for may still be on its way.
    async fn agree(&self) {
        loop {
            let mut groups = self.nodes.values().map(|(_, group)| group);
            if let Some(leader) = groups.clone().find(|group| group.leadership().borrow().is_me)
                && let Ok(index) = leader.linearize().await
                && groups
                    .all(|group| group.status().last_log == Some(index) && group.read(|_, applied| applied) == index)
            {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn check(&self) {
        let Self { what, .. } = self;
        let seen = self.seen.lock();
        for (index, (term, entry)) in &seen.acknowledged {
            let Some((seen_term, record)) = seen.committed.get(index) else {
                panic!("{what}: acknowledged and lost: {index}")
            };
            let EntryPayload::Normal(found) = decode_record(GROUP.0, *index, record).unwrap().payload else {
                panic!("{what}: entry {index} is another one")
            };
            assert!(found.entry() == entry && term == seen_term, "{what}: entry {index} is another one");
        }
        let last = *seen.committed.last_key_value().unwrap().0;
        assert!(seen.committed.keys().copied().eq(0..=last), "{what}: not all of the log was seen");
        let mut memory = MemKv::default();
        for (index, (_, record)) in &seen.committed {
            if let EntryPayload::Normal(entry) = decode_record(GROUP.0, *index, record).unwrap().payload {
                apply(&mut memory, GROUP, *index, entry.entry());
            }
        }
        let replayed = rows_of(&memory, GROUP);
        for (node, (_, group)) in &self.nodes {
            let (rows, applied) = group.read(|view, applied| (rows_of(view, GROUP), applied));
            assert_eq!(applied, last, "{what}: node {} has not applied everything", node.0);
            assert!(rows == replayed, "{what}: the state of node {} is not what the log says", node.0);
        }
    }
}

async fn load(wires: Wires, seen: Arc<Mutex<Seen>>, seed: u64, stop: Arc<AtomicBool>) {
    let mut entries = RandomEntries::new(seed);
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(random.random_range(1..15))).await;
        let leader = wires.up.lock().values().find(|group| group.leadership().borrow().is_me).cloned();
        let Some(leader) = leader else { continue };
        let entry = entries.next_entry();
        // A client waits only so long.
        match timeout(Duration::from_secs(2), leader.propose(entry.clone())).await {
            Ok(Ok(committed)) => {
                entries.learn(&committed.applied);
                let before =
                    seen.lock().acknowledged.insert(committed.position.index, (committed.position.term, entry));
                assert!(before.is_none(), "two entries were acknowledged at one place");
            }
            Ok(Err(ProposeError::EntryTooLarge { .. })) => panic!("they are small"),
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Whoever says that it leads, and is asked, has all that was acknowledged before.
async fn read(wires: Wires, seen: Arc<Mutex<Seen>>, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(random.random_range(1..60))).await;
        let leaders: Vec<Group> =
            wires.up.lock().values().filter(|group| group.leadership().borrow().is_me).cloned().collect();
        for leader in leaders {
            let acknowledged = seen.lock().acknowledged.last_key_value().map_or(0, |(index, _)| *index);
            if let Ok(Ok(read)) = timeout(Duration::from_secs(2), leader.linearize()).await {
                assert!(read >= acknowledged, "a read as of {read} after {acknowledged} was acknowledged");
            }
        }
    }
}

/// What has happened to a cluster: whether it was of any use.
#[derive(Clone, Copy, Debug, Default)]
struct Harm {
    acknowledged: u64,
    batches_lost: u64,
    snapshots: u64,
}

async fn one_cluster(seed: u64) -> Harm {
    let mut world = World::start(seed).await;
    let stop = Arc::new(AtomicBool::new(false));
    let proposers = (0..PROPOSERS).map(|proposer| {
        let seed = seed.wrapping_mul(97).wrapping_add(proposer);
        tokio::spawn(load(world.wires.clone(), world.seen.clone(), seed, stop.clone()))
    });
    let mut clients: Vec<_> = proposers.collect();
    clients.push(tokio::spawn(read(world.wires.clone(), world.seen.clone(), seed, stop.clone())));
    for _ in 0..STEPS {
        // Often, so that nothing is purged unseen.
        for _ in 0..world.random.random_range(1..6) {
            sleep(Duration::from_millis(world.random.random_range(1..200))).await;
            world.observe();
        }
        world.happen().await;
    }
    world.heal().await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        timeout(PATIENCE, client).await.expect("it ends").unwrap();
    }
    timeout(PATIENCE, world.agree()).await.unwrap_or_else(|_| panic!("{}: they do not agree", world.what));
    world.observe();
    world.check();
    assert!(stops().is_empty(), "{}", world.what);
    let harm = Harm {
        acknowledged: world.seen.lock().acknowledged.len() as u64,
        batches_lost: world.disks.values().map(|disk| disk.counts().logged_lost).sum(),
        snapshots: world.wires.snapshots_sent.load(Ordering::Relaxed).into(),
    };
    for node in (1..=NODES).map(NodeId) {
        world.down(node, SimDisk::crash).await;
    }
    harm
}

/// Not a test of what is there: how many clusters it takes to find each of the bugs that are planted here, at most so many.
const FOUND_IN_MAX: u64 = 100;
const PLANTED_HERE: [Bug; 7] = [
    Bug::AckBeforeSync,
    Bug::VoteUnsynced,
    Bug::AckFailedSync,
    Bug::PurgeUnflushed,
    Bug::AppliedApart,
    Bug::InstallOver,
    Bug::ReadUnconfirmed,
];

#[test]
#[ignore = "takes minutes"]
fn every_planted_bug_is_found() {
    for bug in PLANTED_HERE {
        let found = (0..FOUND_IN_MAX).find(|seed| cluster_with(bug, *seed).is_err());
        eprintln!("{bug}: {found:?}");
        assert!(found.is_some(), "{bug} is not found");
    }
}

fn cluster_with(bug: Bug, seed: u64) -> std::thread::Result<()> {
    let cluster = move || {
        plant(Some(bug));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(one_cluster(seed));
    };
    std::thread::spawn(cluster).join()
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_to_disks_nothing_acknowledged_is_lost() {
    let seed: u64 = std::env::var("CODA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let began = tokio::time::Instant::now();
    let clusters = std::env::var("CODA_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(CLUSTERS);
    let mut all = Harm::default();
    for seed in seed..seed + clusters {
        eprintln!("CODA_SEED={seed}");
        let harm = one_cluster(seed).await;
        all.acknowledged += harm.acknowledged;
        all.batches_lost += harm.batches_lost;
        all.snapshots += harm.snapshots;
    }
    eprintln!("{all:?} in {:?}", began.elapsed());
    assert!(all.acknowledged > 100 * clusters, "there was no load");
    assert!(clusters < CLUSTERS || all.batches_lost > 0 && all.snapshots > 0, "it did no harm");
}
