//! Three nodes in one process, over a transport that only passes bytes: what the broker's network does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coda_protocol::ids::{GroupId, NodeId};
use coda_raft_store::group::{Group, GroupOptions};
use coda_raft_store::peers::{Call, Peer, PeerError, PeerTransport, Rpc};
use coda_raft_store::store::{NodeStore, SnapshotFile, StoreOptions};
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::GROUP;

/// Delivers to whoever is up and not cut off.
#[derive(Clone, Default)]
pub struct Wires {
    pub up: Arc<Mutex<BTreeMap<NodeId, Group>>>,
    pub cut: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Whose they are, where that matters.
    pub me: Option<NodeId>,
    /// How long a call takes at least: without, whoever tries again at once would do so for ever in virtual time.
    pub latency: Duration,
    pub snapshots_sent: Arc<AtomicU32>,
}

impl Wires {
    /// The wires of one node.
    pub fn of(&self, me: NodeId) -> Self {
        Self { me: Some(me), ..self.clone() }
    }

    fn to(&self, peer: &Peer) -> Result<Group, PeerError> {
        if self.is_cut(peer.node) {
            return Err(PeerError::Unreachable("the wire is cut".into()));
        }
        self.up.lock().get(&peer.node).cloned().ok_or_else(|| PeerError::Unreachable("it is down".into()))
    }

    fn is_cut(&self, to: NodeId) -> bool {
        let cut = self.cut.lock();
        cut.contains(&to) || self.me.is_some_and(|me| cut.contains(&me))
    }
}

async fn pass(latency: Duration) {
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}

impl PeerTransport for Wires {
    fn call(&self, to: &Peer, _: GroupId, rpc: Rpc, body: Bytes, timeout: Duration) -> Call<'_, Bytes> {
        let (group, latency) = (self.to(to), self.latency);
        Box::pin(async move {
            pass(latency).await;
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
        let (wires, node) = (self.clone(), to.node);
        Box::pin(async move {
            pass(wires.latency).await;
            let there = wires.clone();
            let requests = requests.take_while(move |_| std::future::ready(!there.is_cut(node)));
            let answers = group?.serve_appends(requests.boxed());
            let back = move |answer| match wires.is_cut(node) {
                true => Err(PeerError::Failed("the wire is cut".into())),
                false => Ok(answer),
            };
            Ok(answers.map(back).boxed())
        })
    }

    fn snapshot(&self, to: &Peer, _: GroupId, head: Bytes, file: SnapshotFile) -> Call<'_, Bytes> {
        let group = self.to(to);
        // The first one is damaged on the way.
        let snapshots_sent = self.snapshots_sent.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let group = group?;
            let failed = |error: std::io::Error| PeerError::Failed(error.to_string());
            let mut file = file.open().await.map_err(failed)?;
            let bytes = file.read(file.bytes() as usize).await.map_err(failed)?;
            let mut bytes = bytes.to_vec();
            if snapshots_sent == 0 {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            let received = group.snapshot_file(&format!("received-{snapshots_sent}"));
            received.create().await.map_err(failed)?.write(bytes.into()).await.map_err(failed)?;
            group.serve_snapshot(&head, received).await.map_err(|error| PeerError::Failed(error.to_string()))
        })
    }
}

/// Three nodes that vote in one group.
pub struct Cluster {
    pub wires: Wires,
    dirs: BTreeMap<NodeId, TempDir>,
    pub nodes: BTreeMap<NodeId, (NodeStore, Group)>,
    /// What a node's disk is, if not the usual.
    options: BTreeMap<NodeId, StoreOptions>,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(BTreeMap::new()).await
    }

    pub async fn start_with(options: BTreeMap<NodeId, StoreOptions>) -> Self {
        let dirs = (1..=3).map(|node| (NodeId(node), tempfile::tempdir().unwrap())).collect();
        let mut cluster = Self { wires: Wires::default(), dirs, nodes: BTreeMap::new(), options };
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

    pub async fn up(&mut self, node: NodeId) {
        let store =
            NodeStore::open(self.dirs[&node].path(), self.options.get(&node).cloned().unwrap_or_default()).unwrap();
        let options = GroupOptions { checkpoint_log_bytes: 64 << 10, ..GroupOptions::new(GROUP, node) };
        let group = Group::start(store.clone(), options, Arc::new(self.wires.clone())).await.unwrap();
        self.wires.up.lock().insert(node, group.clone());
        self.nodes.insert(node, (store, group));
    }

    pub async fn down(&mut self, node: NodeId) {
        self.wires.up.lock().remove(&node);
        let (store, group) = self.nodes.remove(&node).unwrap();
        group.shutdown().await;
        drop(group);
        store.close().unwrap();
    }

    pub fn group(&self, node: u64) -> Group {
        self.nodes[&NodeId(node)].1.clone()
    }

    pub async fn leader(&self) -> Group {
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
    pub async fn agree(&self) -> u64 {
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

    pub async fn stop(mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.down(node).await;
        }
    }
}
