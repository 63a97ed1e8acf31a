//! The end that is dialled: accepts connections of peers, and serves each until it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use coda_protocol::frame::CLOSE_REPLACED;
use coda_protocol::ids::NodeId;
use parking_lot::Mutex;
use quinn::{Connection, ConnectionError, Endpoint, VarInt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::handshakes::Handshakes;
use crate::peers::complaints::{Complaints, Who};
use crate::peers::dial::Links;
use crate::peers::fault::PeerFault;
use crate::peers::greet::{Greeted, Greeter, node_of};
use crate::peers::groups::Groups;
use crate::peers::hello::PeerHello;
use crate::peers::limits::{
    ASKS_SERVED_MAX, CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, HANDSHAKES_PER_ADDRESS_MAX, HELLO_TIMEOUT,
    SNAPSHOT_BYTES_PER_S, SNAPSHOTS_RECEIVED_MAX, STREAMS_MAX, UNPROVEN_HANDSHAKES_MAX,
};
use crate::peers::pace::Pace;
use crate::peers::stream::Ended;
use crate::peers::{serve_calls, serve_streams};

/// What all served connections share.
pub struct Host {
    pub groups: Arc<dyn Groups>,
    pub greeter: Arc<Greeter>,
    pub complaints: Arc<Complaints>,
    pub links: Arc<Links>,
    pub snapshots: Arc<Semaphore>,
    pub snapshot_pace: Pace,
    /// Names the files of snapshots.
    pub snapshots_received: AtomicU64,
    /// One connection of each peer.
    served: Mutex<BTreeMap<NodeId, ServedPeer>>,
    tasks: Mutex<JoinSet<()>>,
}

/// A peer that is connected to this node.
#[derive(Clone)]
pub struct ServedPeer {
    pub connection: Connection,
    pub peer: PeerHello,
    pub version: u16,
}

/// The same, for what serves it.
pub struct Caller {
    pub host: Arc<Host>,
    pub connection: Connection,
    pub node: NodeId,
    /// Places for its questions.
    pub asks: Semaphore,
}

impl Caller {
    /// What came from it is not to be trusted: closes the connection.
    pub fn close_for(&self, fault: &PeerFault) {
        self.host.complaints.close(&self.connection, Who::Node(self.node), fault);
    }
}

impl Host {
    pub fn new(groups: Arc<dyn Groups>, links: Arc<Links>) -> Self {
        Self {
            groups,
            greeter: links.greeter.clone(),
            complaints: links.complaints.clone(),
            snapshot_pace: Pace::new(SNAPSHOT_BYTES_PER_S, links.clock.clone()),
            links,
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_RECEIVED_MAX)),
            snapshots_received: AtomicU64::new(0),
            served: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// Starts what may outlive the connection that it came on.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Ends everything that is served.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }

    /// The same, without waiting for it.
    pub fn abort(&self) {
        self.tasks.lock().abort_all();
    }

    /// Peers that are connected to this node.
    pub fn served(&self) -> Vec<ServedPeer> {
        self.served.lock().values().cloned().collect()
    }

    fn enter(&self, served: ServedPeer) {
        let before = self.served.lock().insert(served.peer.node, served);
        if let Some(ServedPeer { connection, .. }) = before {
            connection.close(VarInt::from_u32(CLOSE_REPLACED), b"replaced by a newer connection");
        }
    }

    fn leave(&self, connection: &Connection, node: NodeId) {
        let mut served = self.served.lock();
        if served.get(&node).is_some_and(|current| current.connection.stable_id() == connection.stable_id()) {
            served.remove(&node);
        }
    }
}

/// Accepts connections until the endpoint is closed.
pub async fn accept(endpoint: Endpoint, host: Arc<Host>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Handshakes::new(HANDSHAKES_PER_ADDRESS_MAX);
    while let Some(incoming) = endpoint.accept().await {
        let from = incoming.remote_address().ip();
        if handshakes.count() >= UNPROVEN_HANDSHAKES_MAX && incoming.may_retry() {
            // Costs who dials honestly one round trip, and who forges addresses all that it has done.
            drop(incoming.retry());
            continue;
        }
        let (Ok(place), Some(handshake)) = (places.clone().try_acquire_owned(), handshakes.begin(from)) else {
            host.complaints.crowd(from, CONNECTIONS_MAX);
            incoming.refuse();
            continue;
        };
        let serving = host.clone();
        host.spawn(async move {
            let _place = place;
            let connection = timeout(HELLO_TIMEOUT, async { incoming.await }).await;
            drop(handshake);
            match connection {
                Ok(Ok(connection)) => serve(connection, serving).await,
                Ok(Err(ConnectionError::ApplicationClosed(_))) => debug!(%from, "gone before the handshake"),
                Ok(Err(error)) => serving.complaints.stranger(from, &error.to_string()),
                Err(_) => serving.complaints.stranger(from, "it took too long"),
            }
        });
    }
}

/// A connection from hello to end.
async fn serve(connection: Connection, host: Arc<Host>) {
    // By the certificate, which TLS has checked; of another cluster, it is a stranger.
    let who = match node_of(&connection) {
        Ok((cluster, node)) if cluster == host.greeter.me.cluster => Who::Node(node),
        _ => Who::Stranger(connection.remote_address().ip()),
    };
    let greeted = match timeout(HELLO_TIMEOUT, host.greeter.dialling(connection.clone())).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(Ended::Fault(fault))) => return host.complaints.close(&connection, who, &fault),
        Ok(Err(gone)) => return debug!(?who, ?gone, "gone before the hello"),
        Err(_) => return host.complaints.close(&connection, who, &PeerFault::Silent),
    };
    let Greeted { admitted, peer, version, outgoing, incoming, .. } = greeted;
    let node = peer.node;
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS_MAX));
    host.links.heard_from(&peer);
    info!(%node, at = %connection.remote_address(), version, program = %peer.program, "a peer has connected");
    host.enter(ServedPeer { connection: connection.clone(), peer: peer.clone(), version });
    if let Err(refused) = host.greeter.admit_again(admitted, &peer) {
        host.complaints.close(&connection, who, &refused.into());
    }
    let caller = Arc::new(Caller {
        host: host.clone(),
        connection: connection.clone(),
        node,
        asks: Semaphore::new(ASKS_SERVED_MAX),
    });
    let fault = tokio::select! {
        fault = serve_calls::serve(caller.clone(), outgoing, incoming) => fault,
        fault = serve_streams::serve(caller.clone()) => fault,
    };
    if let Some(fault) = fault {
        caller.close_for(&fault);
    }
    // Does nothing if it is closed, and if not, nobody serves it any more.
    connection.close(VarInt::from_u32(0), b"");
    host.leave(&connection, node);
    debug!(%node, "a peer has disconnected");
}
