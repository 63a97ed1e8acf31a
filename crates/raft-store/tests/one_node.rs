//! A group of one node: the road of an entry, restarts, and what is refused.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use coda_engine::apply::apply;
use coda_engine::kv::MemKv;
use coda_protocol::ids::{GroupId, NodeId};
use coda_raft_store::group::{Group, GroupOptions, LOG_ENTRY_BYTES_MAX, ProposeError};
use coda_raft_store::peers::NoPeers;
use coda_raft_store::store::{NodeStore, StoreError, StoreOptions};
use common::{GROUP, Node, RandomEntries, rows_of, submit, submit_bytes, tasks_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_is_applied_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let entry = submit(0..3);
    let committed = node.group.propose(entry.clone()).await.unwrap();
    assert_eq!(committed.applied.outcomes.len(), 3);
    assert!(committed.applied.outcomes.iter().all(Result::is_ok));
    let again = node.group.propose(entry).await.unwrap();
    assert!(again.position > committed.position, "positions grow");
    assert_eq!(node.group.read(|view, _| tasks_of(view)), 3);
    assert_eq!(node.group.linearize().await.unwrap(), again.position.index);
    let digest = node.group.digest();
    node.stop().await;

    let node = Node::start(dir.path()).await;
    assert_eq!(node.group.read(|view, _| tasks_of(view)), 3);
    assert_eq!(node.group.digest().1, digest.1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sole_voter_leads_again_within_a_moment_of_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    node.group.propose(submit(0..1)).await.unwrap();
    let term = node.group.status().term;
    node.stop().await;

    let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
    let started = Instant::now();
    let group = Group::start(store.clone(), GroupOptions::new(GROUP, NodeId(1)), Arc::new(NoPeers)).await.unwrap();
    group.initialize_single().await.unwrap();
    let took = started.elapsed();
    assert!(group.leadership().borrow().is_me);
    assert!(group.status().term > term, "leadership is won anew, never resumed");
    assert!(took < Duration::from_secs(2), "{took:?}; usually below 100 ms");
    group.shutdown().await;
    assert_eq!(group.propose(submit(1..2)).await, Err(ProposeError::ShuttingDown));
    drop(group);
    store.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_idles_longer_than_its_lease_still_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    node.group.propose(submit(0..1)).await.unwrap();
    node.group.linearize().await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rocksdb_holds_what_the_engine_in_memory_holds_byte_by_byte() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let (mut memory, mut random) = (MemKv::default(), RandomEntries::new(7));
    for _ in 0..300 {
        let entry = random.next_entry();
        let committed = node.group.propose(entry.clone()).await.unwrap();
        let expected = apply(&mut memory, GROUP, committed.position.index, &entry);
        assert_eq!(committed.applied, expected, "at {:?}", committed.position);
        random.learn(&expected);
    }
    assert_eq!(node.group.read(|view, _| rows_of(view, GROUP)), rows_of(&memory, GROUP));
    node.stop().await;
    let node = Node::start(dir.path()).await;
    assert_eq!(node.group.read(|view, _| rows_of(view, GROUP)), rows_of(&memory, GROUP));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_let_go_only_below_what_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = GroupOptions { checkpoint_log_bytes: 64 << 10, ..GroupOptions::new(GROUP, NodeId(1)) };
    let node = Node::with(dir.path(), StoreOptions::default(), options).await;
    for number in 0..400 {
        node.group.propose(submit_bytes(number..number + 1, 2_000)).await.unwrap();
        let status = node.group.status();
        assert!(status.purged < status.durable || status.purged.is_none(), "{status:?}");
        assert!(status.durable <= status.applied, "{status:?}");
    }
    let purged = node.group.status().purged;
    assert!(purged.is_some_and(|purged| purged > 100), "{purged:?}");
    node.stop().await;
    let node = Node::start(dir.path()).await;
    assert_eq!(node.group.read(|view, _| tasks_of(view)), 400);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_would_not_fit_is_refused_before_it_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let result = node.group.propose(submit_bytes(0..1, LOG_ENTRY_BYTES_MAX)).await;
    assert!(matches!(result, Err(ProposeError::EntryTooLarge { .. })), "{result:?}");
    node.group.propose(submit_bytes(1..2, 4 << 20)).await.unwrap();
    node.stop().await;
}

#[test]
fn a_folder_is_used_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
    let error = NodeStore::open(dir.path(), StoreOptions::default()).err().unwrap();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("CODA4101 another coda process uses ") && text.contains(dir.path().to_str().unwrap()));
    first.close().unwrap();
    NodeStore::open(dir.path(), StoreOptions::default()).unwrap().close().unwrap();
}

#[test]
fn a_folder_has_an_id_of_its_own_and_counts_its_starts() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let start = |dir: &tempfile::TempDir| {
        let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
        let start = (store.storage(), store.incarnation());
        store.close().unwrap();
        start
    };
    let (storage, first) = start(&dir);
    assert_eq!((first, start(&dir), start(&dir)), (1, (storage, 2), (storage, 3)));
    assert_ne!(start(&other).0, storage);
}

#[test]
fn a_folder_belongs_to_one_node_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
    store.bind(NodeId(3)).unwrap();
    store.bind(NodeId(3)).unwrap();
    store.close().unwrap();
    let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.node(), Some(NodeId(3)));
    let error = store.bind(NodeId(4)).unwrap_err().to_string();
    assert!(error.starts_with("CODA4105"), "{error}");
    store.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_groups_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = NodeStore::open(
        dir.path(),
        StoreOptions { sync_delay: Duration::from_millis(20).into(), ..StoreOptions::default() },
    )
    .unwrap();
    let mut groups = Vec::new();
    for id in 1..=3 {
        let options = GroupOptions::new(GroupId(id), NodeId(1));
        let group = Group::start(store.clone(), options, Arc::new(NoPeers)).await.unwrap();
        group.initialize_single().await.unwrap();
        groups.push(group);
    }
    let load = std::sync::atomic::Ordering::Relaxed;
    let before = store.counters().log_syncs.load(load);
    for round in 0..10 {
        let proposals = groups.iter().map(|group| group.propose(submit(round..round + 1)));
        for committed in futures::future::join_all(proposals).await {
            committed.unwrap();
        }
    }
    // Ten rounds of three groups: one sync for whoever comes first, one for the other two.
    let syncs = store.counters().log_syncs.load(load) - before;
    assert!(syncs <= 20, "{syncs} syncs for 30 entries");
    let digests: Vec<_> = groups.iter().map(|group| group.read(|view, _| tasks_of_group(view, group.id()))).collect();
    assert_eq!(digests, [10, 10, 10]);
    for group in groups {
        group.shutdown().await;
    }
    store.close().unwrap();
}

fn tasks_of_group(view: &dyn coda_engine::kv::Read, group: GroupId) -> usize {
    common::rows_of(view, group).keys().filter(|key| key[4] == 9).count()
}
