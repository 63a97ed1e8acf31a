//! Three real nodes with two real groups each, which share their connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coda_broker::clock::SystemClock;
use coda_broker::identity::CurrentIdentity;
use coda_broker::network::SystemNetwork;
use coda_broker::peers::{GroupTable, PeerEndpoint, PeerEndpointError, PeerOptions};
use coda_engine::command::Command;
use coda_engine::entry::Entry;
use coda_protocol::ids::{GroupId, Millis, NodeId, TaskId, Timestamp};
use coda_protocol::payload::Payload;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::request::SubmitTask;
use coda_raft_store::group::{Group, GroupOptions};
use coda_raft_store::peers::Peer;
use coda_raft_store::store::{NodeStore, StoreOptions};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::authority::Authority;
use crate::relay::{Cut, Relay};
use crate::side::{CLUSTER, Door, free_address, hello};
use crate::{PATIENCE, logs, soon, until};

pub const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(2)];

pub struct Node {
    pub endpoint: PeerEndpoint,
    pub address: SocketAddr,
    pub door: Door,
    groups: Vec<Group>,
    store: NodeStore,
    runtime: Runtime,
}

pub struct Cluster {
    authority: Authority,
    dirs: BTreeMap<u64, TempDir>,
    pub nodes: BTreeMap<u64, Node>,
    /// What was told when a node joined.
    joined: BTreeMap<u64, String>,
    pub cut: Cut,
    relays: Vec<Relay>,
    checkpoint_log_bytes: u64,
}

/// So little that nodes soon need snapshots.
const CHECKPOINT_LOG_BYTES: u64 = 64 << 10;

impl Cluster {
    pub async fn start() -> Self {
        Self::with(false, CHECKPOINT_LOG_BYTES).await
    }

    /// Every node is dialled through a cable that can be cut.
    pub async fn with_cables() -> Self {
        Self::with(true, CHECKPOINT_LOG_BYTES).await
    }

    /// With the checkpoints of a real node, to be measured.
    pub async fn as_it_runs() -> Self {
        Self::with(false, GroupOptions::new(GROUPS[0], NodeId(1)).checkpoint_log_bytes).await
    }

    async fn with(cables: bool, checkpoint_log_bytes: u64) -> Self {
        logs::collect();
        let dirs = (1..=3).map(|node| (node, tempfile::tempdir().unwrap())).collect();
        let (authority, cut) = (Authority::new("one"), Cut::default());
        let (nodes, joined, relays) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut cluster = Self { authority, dirs, nodes, joined, cut, relays, checkpoint_log_bytes };
        for node in 1..=3 {
            let address = free_address();
            let mut told = address;
            if cables {
                let relay = Relay::to(address, cluster.cut.clone()).await;
                told = relay.address;
                cluster.relays.push(relay);
            }
            cluster.joined.insert(node, told.to_string());
            cluster.up(node, address).await;
        }
        for group in GROUPS {
            let first = cluster.group(1, group);
            soon("a group begins", first.initialize_single()).await.unwrap();
            for node in 2..=3 {
                let peer = Peer { node: NodeId(node), addr: cluster.joined[&node].clone() };
                soon("a node joins", first.add_learner(peer)).await.unwrap();
            }
            soon("all vote", first.change_voters((1..=3).map(NodeId))).await.unwrap();
        }
        cluster
    }

    pub async fn up(&mut self, node: u64, listen: SocketAddr) {
        let joined = self.joined[&node].clone();
        // Behind a cable, the node says that it is at its end; else where it is, which may be new.
        let told = if self.relays.is_empty() { listen.to_string() } else { joined.clone() };
        let options = GroupOptions {
            addr: joined,
            checkpoint_log_bytes: self.checkpoint_log_bytes,
            ..GroupOptions::new(GROUPS[0], NodeId(node))
        };
        let up = start(&self.authority, node, listen, &told, options, self.dirs[&node].path()).await;
        self.nodes.insert(node, up);
    }

    /// Stops as a process does that is killed.
    pub async fn kill(&mut self, node: u64) -> SocketAddr {
        // Its other parts go after its runtime: nobody is left who could send a goodbye.
        let Node { runtime, address, endpoint, groups, store, .. } = self.nodes.remove(&node).unwrap();
        tokio::task::spawn_blocking(|| runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        drop((endpoint, groups, store));
        address
    }

    /// On the node's own runtime.
    pub async fn run<T: Send + 'static>(&self, node: u64, future: impl Future<Output = T> + Send + 'static) -> T {
        self.nodes[&node].runtime.spawn(future).await.unwrap()
    }

    pub fn group(&self, node: u64, group: GroupId) -> Group {
        self.nodes[&node].groups.iter().find(|one| one.id() == group).unwrap().clone()
    }

    /// Who leads, and can.
    pub async fn leader(&self, group: GroupId) -> (u64, Group) {
        until("a leader", || async {
            for node in self.nodes.keys() {
                let one = self.group(*node, group);
                let led = one.leadership().borrow().is_me;
                let confirmed = async { tokio::time::timeout(Duration::from_secs(1), one.linearize()).await };
                if led && confirmed.await.is_ok_and(|confirmed| confirmed.is_ok()) {
                    return Some((*node, one));
                }
            }
            None
        })
        .await
    }

    /// Another node than this one.
    pub fn other(&self, node: u64) -> u64 {
        *self.nodes.keys().find(|other| **other != node).unwrap()
    }

    /// Proposes until somebody accepts; says how long that took.
    pub async fn propose(&self, group: GroupId, entry: &Entry) -> Duration {
        let begun = Instant::now();
        until("a leader accepts", || async {
            for node in self.nodes.keys() {
                let one = self.group(*node, group);
                if one.leadership().borrow().is_me {
                    let proposal = tokio::time::timeout(Duration::from_secs(1), one.propose(entry.clone()));
                    if proposal.await.is_ok_and(|committed| committed.is_ok()) {
                        return Some(begun.elapsed());
                    }
                }
            }
            None
        })
        .await
    }

    /// Waits until all that are up have applied the same, and compares.
    pub async fn agree(&self, group: GroupId) {
        let (_, leader) = self.leader(group).await;
        let index = leader.linearize().await.unwrap();
        for node in self.nodes.keys() {
            let one = self.group(*node, group);
            until("a node has caught up", || async { (one.read(|_, applied| applied) >= index).then_some(()) }).await;
        }
        let digests: Vec<_> = self.nodes.keys().map(|node| self.group(*node, group).digest()).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    }

    pub async fn stop(self) {
        for node in self.nodes.into_values() {
            let Node { endpoint, groups, store, runtime, .. } = node;
            let stopping = runtime.spawn(async move {
                endpoint.close().await;
                for group in &groups {
                    group.shutdown().await;
                }
                drop(groups);
                tokio::task::spawn_blocking(|| store.close()).await.unwrap().unwrap();
            });
            soon("a node stops", stopping).await.unwrap();
            runtime.shutdown_background();
        }
    }
}

async fn start(
    authority: &Authority,
    node: u64,
    listen: SocketAddr,
    told: &str,
    options: GroupOptions,
    dir: &Path,
) -> Node {
    // As a node's own is: with a single thread, whoever syncs the log would hold up who sends it.
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    let (table, door) = (GroupTable::default(), Door::default());
    let admission = Arc::new(door.clone());
    let (endpoint, transport) = until("the address is free", || async {
        let current = CurrentIdentity::replaced_by(watch::channel(Arc::new(authority.issue(CLUSTER, node))).1);
        let options = PeerOptions { listen, me: hello(node, told) };
        let (table, admission) = (Arc::new(table.clone()), admission.clone());
        let open = async move {
            PeerEndpoint::open(&SystemNetwork, options, current, table, admission, Arc::new(SystemClock))
        };
        match runtime.spawn(open).await.unwrap() {
            Ok(opened) => Some(opened),
            Err(PeerEndpointError::Bind { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    let dir = dir.to_owned();
    let opening = runtime.spawn(async move {
        // Of a node that was killed, the last thread may still hold the folder.
        let open = || async { NodeStore::open(&dir, StoreOptions::default()).ok() };
        let store = until("the folder is free", open).await;
        let mut groups = Vec::new();
        for group in GROUPS {
            let options = GroupOptions { group, ..options.clone() };
            let started = Group::start(store.clone(), options, transport.clone()).await.unwrap();
            table.insert(group, Arc::new(started.clone()));
            groups.push(started);
        }
        (store, groups)
    });
    let (store, groups) = opening.await.unwrap();
    let address = endpoint.address().unwrap();
    Node { endpoint, address, door, groups, store, runtime }
}

/// An entry that submits these tasks, with as many bytes of arguments each.
pub fn submit(numbers: std::ops::Range<u64>, bytes: usize) -> Entry {
    let now = Timestamp(1_000 + numbers.start);
    let task = |number: u64| {
        let mut id = [0x11; 16];
        id[8..].copy_from_slice(&number.to_be_bytes());
        Command::SubmitTask(SubmitTask {
            task: TaskId(id),
            name: "send".into(),
            queue: "emails".into(),
            args: Payload::json(vec![b'7'; bytes]),
            priority: 4,
            policy: RetryPolicy::NEVER,
            delay: Millis(0),
        })
    };
    Entry { now, commands: numbers.map(task).collect(), ..Entry::default() }
}
