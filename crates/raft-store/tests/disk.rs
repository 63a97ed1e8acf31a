//! Disks that fill up, and disks that do not answer.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coda_protocol::ids::NodeId;
use coda_raft_store::group::{Group, GroupOptions, ProposeError};
use coda_raft_store::store::{DiskOptions, DiskProbe, DiskState, DiskWatch, NodeStore, Space, StoreOptions, SyncDelay};
use common::cluster::Cluster;
use common::{GROUP, Node, submit, submit_bytes, tasks_of};
use parking_lot::{Condvar, Mutex};

/// For everything that must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// From the moment that a disk counts as hung.
const TAKEOVER_MAX: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3_600);

async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A disk that is told what to answer.
#[derive(Debug, Default)]
struct FakeDisk {
    free_bytes: AtomicU64,
    fails: AtomicBool,
    hangs: Mutex<bool>,
    answers: Condvar,
}

impl FakeDisk {
    fn hang(&self, hangs: bool) {
        *self.hangs.lock() = hangs;
        self.answers.notify_all();
    }
}

impl DiskProbe for FakeDisk {
    fn space(&self, _: &Path) -> io::Result<Space> {
        let mut hangs = self.hangs.lock();
        while *hangs {
            self.answers.wait(&mut hangs);
        }
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("it does not say"));
        }
        Ok(Space { total_bytes: 10_000, free_bytes: self.free_bytes.load(Ordering::Relaxed) })
    }
}

fn quick_watch() -> DiskOptions {
    DiskOptions {
        hang_after: Duration::from_millis(300),
        check_every: Duration::from_millis(20),
        ..DiskOptions::default()
    }
}

fn watched(fake: &Arc<FakeDisk>) -> StoreOptions {
    let disk = DiskOptions { reserve_bytes: Some(1_000), probe: fake.clone(), ..quick_watch() };
    StoreOptions { disk, ..StoreOptions::default() }
}

fn is_hung(store: &NodeStore) -> bool {
    matches!(*store.disk().borrow(), DiskState::Hung { .. })
}

fn is_good(store: &NodeStore) -> bool {
    *store.disk().borrow() == DiskState::Good
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_is_full_until_there_is_room_again() {
    let fake = Arc::new(FakeDisk::default());
    fake.free_bytes.store(5_000, Ordering::Relaxed);
    let dir = tempfile::tempdir().unwrap();
    let store = NodeStore::open(dir.path(), watched(&fake)).unwrap();
    let watch = store.watch_disk();
    until("it was looked at", || store.disk_report().total_bytes == 10_000).await;
    let report = store.disk_report();
    assert_eq!((report.free_bytes, report.reserve_bytes, report.refuses_writes), (5_000, 1_000, false));
    assert!(report.data_bytes > 0 && report.sync_hangs.is_none(), "{report:?}");

    let mut state = store.disk();
    fake.free_bytes.store(900, Ordering::Relaxed);
    let full = DiskState::Full { free_bytes: 900, reserve_bytes: 1_000 };
    tokio::time::timeout(PATIENCE, state.wait_for(|state| *state == full)).await.unwrap().unwrap();
    assert!(store.disk_report().refuses_writes);
    // Above the reserve, and not far enough above it.
    fake.free_bytes.store(1_100, Ordering::Relaxed);
    let full = DiskState::Full { free_bytes: 1_100, reserve_bytes: 1_000 };
    tokio::time::timeout(PATIENCE, state.wait_for(|state| *state == full)).await.unwrap().unwrap();
    // Nobody is refused because of a file system that does not say.
    fake.fails.store(true, Ordering::Relaxed);
    until("it is given the benefit of the doubt", || is_good(&store)).await;
    fake.fails.store(false, Ordering::Relaxed);
    until("it is full again", || !is_good(&store)).await;
    fake.free_bytes.store(1_300, Ordering::Relaxed);
    until("there is room", || is_good(&store)).await;
    assert!(!store.disk_report().refuses_writes);
    drop(watch);
    store.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_does_not_answer_hangs_and_nobody_waits_for_it() {
    let fake = Arc::new(FakeDisk::default());
    fake.free_bytes.store(5_000, Ordering::Relaxed);
    let dir = tempfile::tempdir().unwrap();
    let store = NodeStore::open(dir.path(), watched(&fake)).unwrap();
    let watch = store.watch_disk();
    until("it was looked at", || store.disk_report().total_bytes > 0).await;
    fake.hang(true);
    until("it hangs", || is_hung(&store)).await;
    assert!(store.disk_report().sync_hangs.is_some_and(|hangs| hangs.0 >= 300));
    fake.hang(false);
    until("it answers again", || is_good(&store)).await;
    drop(watch);
    store.close().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_has_no_other_voter_waits_for_its_disk_and_goes_on_leading() {
    let dir = tempfile::tempdir().unwrap();
    let sync_delay = SyncDelay::default();
    let options = StoreOptions { sync_delay: sync_delay.clone(), disk: quick_watch(), ..StoreOptions::default() };
    let node = Node::with(dir.path(), options, GroupOptions::new(GROUP, NodeId(1))).await;
    let watch = node.store.watch_disk();
    let term = node.group.propose(submit(0..1)).await.unwrap().position.term;
    let before = node.store.disk_report().syncs;
    assert!(before > 0);

    sync_delay.set(HOUR);
    let waits = tokio::spawn({
        let group = node.group.clone();
        async move { group.propose(submit(1..2)).await }
    });
    until("it hangs", || is_hung(&node.store)).await;
    assert!(node.store.disk_report().sync_hangs.is_some_and(|hangs| hangs.0 >= 300), "said while it hangs");
    assert!(node.group.leadership().borrow().is_me && !waits.is_finished());
    sync_delay.set(Duration::ZERO);
    let answer = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.position.term, term);
    until("it is good again", || is_good(&node.store)).await;
    let report = node.store.disk_report();
    assert!(report.syncs > before && report.sync_max_us >= 300_000, "{report:?}");
    assert!(report.sync_p50_us <= report.sync_p99_us && report.sync_p99_us <= report.sync_max_us, "{report:?}");
    drop(watch);
    node.stop().await;
}

/// Tasks submitted by many, each again and again until it is acknowledged, wherever the leader is.
struct Load {
    groups: Vec<Group>,
    next: AtomicU64,
    stop: AtomicBool,
    acknowledged: Mutex<BTreeSet<u64>>,
    uncertain: AtomicU64,
}

impl Load {
    const SUBMITTERS: usize = 8;

    fn start(groups: Vec<Group>) -> (Arc<Self>, Vec<tokio::task::JoinHandle<()>>) {
        let load = Arc::new(Self {
            groups,
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            acknowledged: Mutex::default(),
            uncertain: AtomicU64::new(0),
        });
        let submitters = (0..Self::SUBMITTERS).map(|_| tokio::spawn(load.clone().submit())).collect();
        (load, submitters)
    }

    async fn submit(self: Arc<Self>) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            while !self.try_submit(number).await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.acknowledged.lock().insert(number);
        }
    }

    async fn try_submit(&self, number: u64) -> bool {
        let Some(leader) = self.groups.iter().find(|group| group.leadership().borrow().is_me) else { return false };
        match leader.propose(submit(number..number + 1)).await {
            Ok(_) => true,
            Err(ProposeError::Uncertain { .. }) => {
                self.uncertain.fetch_add(1, Ordering::Relaxed);
                false
            }
            Err(ProposeError::NotLeader { .. } | ProposeError::Unavailable { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().len()
    }

    /// Stops, and compares what was acknowledged with what is there.
    async fn end(&self, submitters: Vec<tokio::task::JoinHandle<()>>, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        for submitter in submitters {
            tokio::time::timeout(PATIENCE, submitter).await.unwrap().unwrap();
        }
        cluster.agree().await;
        let tasks = self.groups[0].read(|view, _| tasks_of(view));
        assert_eq!(tasks, self.count(), "what is acknowledged is there, and nothing is there twice");
        eprintln!("{tasks} tasks, {} answers were uncertain", self.uncertain.load(Ordering::Relaxed));
    }
}

/// Three nodes whose disks can be made to hang, each watched.
async fn watched_cluster() -> (Cluster, BTreeMap<NodeId, SyncDelay>, Vec<DiskWatch>) {
    let delays: BTreeMap<NodeId, SyncDelay> = (1..=3).map(|node| (NodeId(node), SyncDelay::default())).collect();
    let options =
        |delay: &SyncDelay| StoreOptions { sync_delay: delay.clone(), disk: quick_watch(), ..StoreOptions::default() };
    let cluster = Cluster::start_with(delays.iter().map(|(node, delay)| (*node, options(delay))).collect()).await;
    let watches = cluster.nodes.values().map(|(store, _)| store.watch_disk()).collect();
    (cluster, delays, watches)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_node_leads_while_the_leaders_disk_hangs_and_nothing_acknowledged_is_lost() {
    let (cluster, delays, watches) = watched_cluster().await;
    let mut leader = cluster.leader().await.node();
    let (load, submitters) = Load::start(cluster.nodes.values().map(|(_, group)| group.clone()).collect());
    until("there is load", || load.count() > 100).await;

    // Twice: the one that takes over is hit as well, and the first one is a candidate again.
    for round in 0..2 {
        let (store, old) = &cluster.nodes[&leader];
        let before = old.leadership().borrow().term;
        let others = || cluster.nodes.values().map(|(_, group)| group).filter(|group| group.node() != leader);
        delays[&leader].set(HOUR);
        let until_here = load.count();
        until("the disk hangs", || is_hung(store)).await;
        let hung = Instant::now();
        let meanwhile = load.count() - until_here;
        until("another leads", || others().any(|group| group.leadership().borrow().is_me)).await;
        let took_over = hung.elapsed();
        let next = others().find(|group| group.leadership().borrow().is_me).unwrap().node();
        assert!(took_over < TAKEOVER_MAX, "{took_over:?}");
        let seen = old.leadership().borrow().clone();
        assert!(!seen.is_me && seen.leader != Some(leader), "{seen:?}");
        assert!(old.report().followers.is_empty() && old.status().leader != Some(leader));
        // The rest of it hears of no leadership that it has given up, and waits for nothing.
        let refused = tokio::time::timeout(PATIENCE, old.propose(submit(0..1))).await.unwrap();
        assert!(matches!(refused, Err(ProposeError::NotLeader { .. } | ProposeError::Uncertain { .. })), "{refused:?}");
        let count = load.count();
        until("writes go on", || load.count() > count + 200).await;
        let writes_again = hung.elapsed();
        assert!(is_hung(store), "it still does");
        eprintln!(
            "round {round}: {meanwhile} writes before that counts as hung, another leads after {took_over:?}, 200 more writes after {writes_again:?}"
        );

        delays[&leader].set(Duration::ZERO);
        until("the disk is back", || is_good(store)).await;
        until("it follows", || {
            let now = old.leadership().borrow().clone();
            now.term > before && now.leader.is_some_and(|leads| leads != leader)
        })
        .await;
        let applied = cluster.nodes[&next].1.read(|_, applied| applied);
        until("it has caught up", || old.read(|_, mine| mine >= applied)).await;
        leader = cluster.leader().await.node();
    }

    load.end(submitters, &cluster).await;
    drop((load, watches));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_whose_disk_hangs_stops_nobody_and_catches_up() {
    let (cluster, delays, watches) = watched_cluster().await;
    let leader = cluster.leader().await;
    let (load, submitters) = Load::start(cluster.nodes.values().map(|(_, group)| group.clone()).collect());
    until("there is load", || load.count() > 100).await;
    let (node, (store, follower)) = cluster.nodes.iter().find(|(node, _)| **node != leader.node()).unwrap();
    // A follower writes where it is brought: its core hangs with the disk.
    delays[node].set(HOUR);
    until("the disk hangs", || is_hung(store)).await;
    let count = load.count();
    until("writes go on", || load.count() > count + 200).await;
    assert!(is_hung(store) && !follower.leadership().borrow().is_me);
    delays[node].set(Duration::ZERO);
    until("the disk is back", || is_good(store)).await;
    load.end(submitters, &cluster).await;
    drop((leader, load, watches));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_resigned_is_not_elected_until_it_stands_again() {
    let mut cluster = Cluster::start().await;
    let first = cluster.leader().await;
    first.propose(submit(0..10)).await.unwrap();
    first.resign().await;
    assert!(matches!(first.propose(submit(10..11)).await, Err(ProposeError::NotLeader { .. })));
    let second = cluster.leader().await;
    assert_ne!(second.node(), first.node());
    first.stand();

    // Now only the first one may be elected, and it is, with the vote of the one that stands aside.
    let third = cluster.nodes.values().map(|(_, group)| group.clone());
    let third = third.into_iter().find(|group| ![first.node(), second.node()].contains(&group.node())).unwrap();
    third.resign().await;
    let down = second.node();
    drop(second);
    cluster.down(down).await;
    assert_eq!(cluster.leader().await.node(), first.node());
    first.propose(submit(10..20)).await.unwrap();
    third.stand();
    drop((first, third));
    cluster.up(down).await;
    cluster.agree().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_reports_the_others_and_everybody_itself() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    for number in 0..200 {
        leader.propose(submit_bytes(number..number + 1, 1_000)).await.unwrap();
    }
    let last = cluster.agree().await;
    let me = leader.node();
    until("all have answered", || leader.report().followers.iter().all(|one| one.matched == Some(last))).await;
    let report = leader.report();
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|node| *node != me).collect();
    assert_eq!(report.followers.iter().map(|one| one.node).collect::<Vec<_>>(), others);
    assert!(report.followers.iter().all(|one| one.heard.is_some_and(|heard| heard.0 < 10_000)), "{report:?}");
    for (node, (_, group)) in &cluster.nodes {
        let report = group.report();
        assert_eq!((report.group, report.leader, report.failure.clone()), (GROUP, Some(me), None));
        assert_eq!(report.voters, (1..=3).map(NodeId).collect::<Vec<_>>());
        assert!(report.learners.is_empty() && (*node == me || report.followers.is_empty()), "{report:?}");
        assert_eq!((report.last_log, report.applied), (last, last));
        // Checkpoints came every 64 KiB, and what lies before the one before the last is gone.
        assert!(report.purged > 0 && report.durable > report.purged, "{report:?}");
        assert!(report.checkpoint_age.is_some_and(|age| age.0 < 20_000), "{report:?}");
        let expected = (last - report.purged) * 1_100;
        assert!((expected / 2..=expected * 2).contains(&report.log_bytes), "{expected} {report:?}");
    }
    let follower = others[0];
    drop(leader);
    cluster.down(follower).await;
    cluster.up(follower).await;
    let report = cluster.nodes[&follower].1.report();
    let expected = (last - report.purged) * 1_100;
    assert!((expected / 2..=expected * 2).contains(&report.log_bytes), "after a restart: {expected} {report:?}");
    cluster.stop().await;
}
