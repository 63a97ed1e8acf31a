//! A node that has a socket for peers and pretended groups, on a runtime of its own.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coda_broker::clock::SystemClock;
use coda_broker::identity::{CurrentIdentity, NodeIdentity, QuicKeys};
use coda_broker::network::SystemNetwork;
use coda_broker::peers::{Admission, GroupTable, PeerEndpoint, PeerEndpointError, PeerHello, PeerOptions, Refused};
use coda_protocol::ids::{ClusterId, GroupId, NodeId, StorageId};
use coda_raft_store::peers::{Peer, PeerError, PeerTransport, Rpc};
use coda_raft_store::store::SnapshotFile;
use futures::stream::BoxStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::authority::Authority;
use crate::fake::{Fake, Mood};
use crate::{PATIENCE, logs, until};

pub const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
/// What every node has, and echoes.
pub const ECHO: GroupId = GroupId(1);

/// Lets in whom a test does not refuse.
#[derive(Clone, Default)]
pub struct Door {
    refused: Arc<Mutex<Option<Refused>>>,
    asked: Arc<AtomicUsize>,
}

impl Door {
    pub fn refuse(&self, why: Option<Refused>) {
        *self.refused.lock().unwrap() = why;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Admission for Door {
    fn admit(&self, _: &PeerHello) -> Result<(), Refused> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.refused.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

pub struct Side {
    pub node: u64,
    pub address: SocketAddr,
    pub groups: GroupTable,
    pub echo: Fake,
    pub door: Door,
    pub endpoint: Option<PeerEndpoint>,
    pub transport: Arc<dyn PeerTransport>,
    identity: watch::Sender<Arc<NodeIdentity>>,
    runtime: Option<Runtime>,
}

/// Keys that stay the same from start to start.
pub fn quic_keys(node: u64) -> QuicKeys {
    QuicKeys { reset: [node as u8; 64], connection_ids: node }
}

pub fn hello(node: u64, address: &str) -> PeerHello {
    static INCARNATIONS: AtomicU64 = AtomicU64::new(1);
    PeerHello {
        cluster: CLUSTER,
        node: NodeId(node),
        incarnation: INCARNATIONS.fetch_add(1, Ordering::Relaxed),
        storage: StorageId([node as u8; 16]),
        address: address.into(),
        program: "test/1".into(),
    }
}

/// Known before it is bound, as that of a node behind a name is. Nobody takes it meanwhile: each process has a loopback
/// address of its own, and ports that the system gives to nobody who asks for any.
pub fn free_address() -> SocketAddr {
    static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, 0x80 | a, b, c), NEXT_PORT.fetch_add(1, Ordering::Relaxed)).into()
}

pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

impl Side {
    pub async fn new(authority: &Authority, node: u64) -> Self {
        Self::with(node, authority.issue(CLUSTER, node), hello(node, ""), "127.0.0.1:0".parse().unwrap()).await.unwrap()
    }

    /// On an address that another one may just have left.
    pub async fn again(authority: &Authority, node: u64, address: SocketAddr, told: &str) -> Self {
        until("the address is free", || async {
            let identity = authority.issue(CLUSTER, node);
            match Self::with(node, identity, hello(node, told), address).await {
                Ok(side) => Some(side),
                Err(PeerEndpointError::Bind { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await
    }

    pub async fn with(
        node: u64,
        identity: NodeIdentity,
        me: PeerHello,
        listen: SocketAddr,
    ) -> Result<Self, PeerEndpointError> {
        logs::collect();
        let runtime = runtime();
        let (groups, door, echo) = (GroupTable::default(), Door::default(), Fake::new(Mood::Echoes));
        groups.insert(ECHO, Arc::new(echo.clone()));
        let options = PeerOptions { listen, me };
        let (identity, current) = watch::channel(Arc::new(identity));
        let current = CurrentIdentity::replaced_by(current);
        let (table, admission) = (Arc::new(groups.clone()), Arc::new(door.clone()));
        let open = async move {
            PeerEndpoint::open(&SystemNetwork, options, current, table, admission, Arc::new(SystemClock))
        };
        let opened = runtime.spawn(open).await.unwrap();
        let (endpoint, transport) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let address = endpoint.address().unwrap();
        let (endpoint, runtime) = (Some(endpoint), Some(runtime));
        Ok(Self { node, address, groups, echo, door, endpoint, transport, identity, runtime })
    }

    /// Replaces the certificates, as is done when their files are replaced.
    pub fn replace(&self, identity: NodeIdentity) {
        self.identity.send_replace(Arc::new(identity));
    }

    pub fn peer(&self) -> Peer {
        peer(self.node, self.address)
    }

    pub fn endpoint(&self) -> &PeerEndpoint {
        self.endpoint.as_ref().unwrap()
    }

    /// On this node's own runtime; dropped there when it is dropped here.
    pub async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let mut running = JoinSet::new();
        running.spawn_on(future, self.runtime.as_ref().unwrap().handle());
        running.join_next().await.unwrap().unwrap()
    }

    pub async fn call_group(&self, to: &Peer, group: GroupId, timeout: Duration) -> Result<Bytes, PeerError> {
        let (transport, to) = (self.transport.clone(), to.clone());
        self.run(async move { transport.call(&to, group, Rpc::Vote, Bytes::from_static(b"me"), timeout).await }).await
    }

    /// Asks the group that echoes.
    pub async fn call(&self, to: &Peer) -> Result<Bytes, PeerError> {
        self.call_group(to, ECHO, Duration::from_secs(10)).await
    }

    pub async fn appends(
        &self,
        to: &Peer,
        group: GroupId,
        requests: BoxStream<'static, Bytes>,
    ) -> Result<BoxStream<'static, Result<Bytes, PeerError>>, PeerError> {
        let (transport, to) = (self.transport.clone(), to.clone());
        self.run(async move { transport.appends(&to, group, requests).await }).await
    }

    pub async fn snapshot(&self, to: &Peer, group: GroupId, file: PathBuf) -> Result<Bytes, PeerError> {
        let (transport, to, file) = (self.transport.clone(), to.clone(), SnapshotFile::at(file));
        self.run(async move { transport.snapshot(&to, group, Bytes::from_static(b"head"), file).await }).await
    }

    /// Stops as a process does that is asked to.
    pub async fn close(mut self) {
        let endpoint = self.endpoint.take().unwrap();
        self.run(async move { endpoint.close().await }).await;
    }

    /// Stops as a process does that is killed: no word to anybody.
    pub async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        // Before the rest of it goes: nobody is left who could send a goodbye.
        tokio::task::spawn_blocking(|| runtime.shutdown_timeout(PATIENCE)).await.unwrap();
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn peer(node: u64, address: SocketAddr) -> Peer {
    Peer { node: NodeId(node), addr: address.to_string() }
}

/// The answer of a group that echoes.
pub fn echoed() -> Result<Bytes, PeerError> {
    Ok(Bytes::from_static(b"Vote me"))
}

/// Not reached, and why.
pub fn unreachable(answer: Result<impl std::fmt::Debug, PeerError>) -> String {
    match answer {
        Err(PeerError::Unreachable(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Reached, and failed.
pub fn failed(answer: Result<impl std::fmt::Debug, PeerError>) -> String {
    match answer {
        Err(PeerError::Failed(why)) => why,
        other => panic!("{other:?}"),
    }
}
