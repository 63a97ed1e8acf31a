//! Three nodes in one process, over a transport that only passes bytes: what the broker's network will do.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coda_protocol::ids::{GroupId, NodeId};
use coda_raft_store::group::{Group, GroupOptions, ProposeError};
use coda_raft_store::peers::{Call, Peer, PeerError, PeerTransport, Rpc};
use coda_raft_store::store::{NodeStore, StoreOptions};
use common::{GROUP, submit, submit_bytes, tasks_of};
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tempfile::TempDir;

/// Delivers to whoever is up.
#[derive(Clone, Default)]
struct Wires(Arc<Mutex<BTreeMap<NodeId, Group>>>, Arc<AtomicU32>);

impl Wires {
    fn to(&self, peer: &Peer) -> Result<Group, PeerError> {
        self.0.lock().get(&peer.node).cloned().ok_or_else(|| PeerError::Unreachable("it is down".into()))
    }
}

impl PeerTransport for Wires {
    fn call(&self, to: &Peer, _: GroupId, rpc: Rpc, body: Bytes, timeout: Duration) -> Call<'_, Bytes> {
        let group = self.to(to);
        Box::pin(async move {
            let group = group?;
            let answer = tokio::time::timeout(timeout, group.serve(rpc, &body));
            let answer = answer.await.map_err(|_| PeerError::Failed("timeout".into()))?;
            answer.map_err(|error| PeerError::Failed(error.to_string()))
        })
    }

    fn appends(
        &self,
        to: &Peer,
        _: GroupId,
        requests: BoxStream<'static, Bytes>,
    ) -> Call<'_, BoxStream<'static, Result<Bytes, PeerError>>> {
        let group = self.to(to);
        Box::pin(async move { Ok(group?.serve_appends(requests).map(Ok).boxed()) })
    }

    fn snapshot(&self, to: &Peer, _: GroupId, head: Bytes, file: PathBuf) -> Call<'_, Bytes> {
        let group = self.to(to);
        // The first one is damaged on the way.
        let snapshots_sent = self.1.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let group = group?;
            let received = group.snapshot_dir().join("received");
            let mut bytes = std::fs::read(file).map_err(|error| PeerError::Failed(error.to_string()))?;
            if snapshots_sent == 0 {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            std::fs::write(&received, bytes).map_err(|error| PeerError::Failed(error.to_string()))?;
            group.serve_snapshot(&head, received).await.map_err(|error| PeerError::Failed(error.to_string()))
        })
    }
}

struct Cluster {
    wires: Wires,
    dirs: BTreeMap<NodeId, TempDir>,
    nodes: BTreeMap<NodeId, (NodeStore, Group)>,
}

impl Cluster {
    async fn start() -> Self {
        let dirs = (1..=3).map(|node| (NodeId(node), tempfile::tempdir().unwrap())).collect();
        let mut cluster = Self { wires: Wires::default(), dirs, nodes: BTreeMap::new() };
        for node in 1..=3 {
            cluster.up(NodeId(node)).await;
        }
        let first = cluster.group(1);
        first.initialize_single().await.unwrap();
        for node in 2..=3 {
            first.add_learner(Peer { node: NodeId(node), addr: format!("node-{node}") }).await.unwrap();
        }
        first.change_voters((1..=3).map(NodeId)).await.unwrap();
        cluster
    }

    async fn up(&mut self, node: NodeId) {
        let store = NodeStore::open(self.dirs[&node].path(), StoreOptions::default()).unwrap();
        let options = GroupOptions { checkpoint_log_bytes: 64 << 10, ..GroupOptions::new(GROUP, node) };
        let group = Group::start(store.clone(), options, Arc::new(self.wires.clone())).await.unwrap();
        self.wires.0.lock().insert(node, group.clone());
        self.nodes.insert(node, (store, group));
    }

    async fn down(&mut self, node: NodeId) {
        self.wires.0.lock().remove(&node);
        let (store, group) = self.nodes.remove(&node).unwrap();
        group.shutdown().await;
        drop(group);
        store.close().unwrap();
    }

    fn group(&self, node: u64) -> Group {
        self.nodes[&NodeId(node)].1.clone()
    }

    async fn leader(&self) -> Group {
        for _ in 0..1_000 {
            for (_, group) in self.nodes.values() {
                if group.leadership().borrow().is_me && group.linearize().await.is_ok() {
                    return group.clone();
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no leader: {:?}", self.nodes.values().map(|(_, group)| group.status()).collect::<Vec<_>>());
    }

    /// Waits until all that are up have applied the same, and compares.
    async fn agree(&self) -> u64 {
        let leader = self.leader().await;
        let index = leader.linearize().await.unwrap();
        for (_, group) in self.nodes.values() {
            for _ in 0..1_000 {
                if group.read(|_, applied| applied) >= index {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let digests: Vec<_> = self.nodes.values().map(|(_, group)| group.digest()).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
        index
    }

    async fn stop(mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.down(node).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_equal_and_only_the_leader_accepts() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    for number in 0..50 {
        leader.propose(submit(number..number + 1)).await.unwrap();
    }
    cluster.agree().await;
    let follower = cluster.nodes.values().map(|(_, group)| group).find(|group| !group.leadership().borrow().is_me);
    let refused = follower.unwrap().propose(submit(99..100)).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: leader.leadership().borrow().leader }));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_takes_over_and_the_old_leader_catches_up() {
    let mut cluster = Cluster::start().await;
    cluster.leader().await.propose(submit(0..10)).await.unwrap();
    let leader = cluster.leader().await.leadership().borrow().leader.unwrap();
    cluster.down(leader).await;
    let next = cluster.leader().await;
    next.propose(submit(10..20)).await.unwrap();
    drop(next);
    cluster.up(leader).await;
    cluster.agree().await;
    assert_eq!(cluster.nodes[&leader].1.read(|view, _| tasks_of(view)), 20);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::start().await;
    let from = cluster.leader().await;
    let me = from.leadership().borrow().leader.unwrap();
    let to = NodeId(me.0 % 3 + 1);
    from.propose(submit(0..10)).await.unwrap();
    from.transfer_leader(to).await.unwrap();
    let mut leadership = cluster.nodes[&to].1.leadership();
    tokio::time::timeout(Duration::from_secs(5), leadership.wait_for(|now| now.is_me)).await.unwrap().unwrap();
    cluster.agree().await;
    drop(from);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_more_than_the_log_keeps_gets_a_snapshot() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let me = leader.leadership().borrow().leader.unwrap();
    let late = NodeId(me.0 % 3 + 1);
    leader.propose(submit(0..10)).await.unwrap();
    cluster.down(late).await;
    for number in 10..300 {
        leader.propose(submit_bytes(number..number + 1, 2_000)).await.unwrap();
    }
    let purged = leader.status().purged.expect("the log was let go");
    drop(leader);
    cluster.up(late).await;
    let applied = cluster.nodes[&late].1.read(|_, applied| applied);
    assert!(applied < purged, "the log alone cannot bring it back: {applied} {purged}");
    cluster.agree().await;
    assert_eq!(cluster.nodes[&late].1.read(|view, _| tasks_of(view)), 300);
    assert!(cluster.wires.1.load(Ordering::Relaxed) >= 2, "the damaged one was refused, and another one sent");
    // And what was installed survives a restart.
    cluster.down(late).await;
    cluster.up(late).await;
    cluster.agree().await;
    cluster.stop().await;
}
