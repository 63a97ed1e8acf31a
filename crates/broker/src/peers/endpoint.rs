//! A node's socket for its peers: opens it, follows its certificates, asks again who may be there, and closes it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coda_protocol::frame::CLOSE_SHUTDOWN;
use coda_protocol::ids::NodeId;
use coda_raft_store::peers::PeerTransport;
use quinn::{Connection, Endpoint, VarInt};
use smol_str::SmolStr;
use thiserror::Error;
use tokio::time::timeout;
use tracing::warn;

use crate::clock::Clock;
use crate::endpoint::endpoint_config;
use crate::identity::CurrentIdentity;
use crate::messages::AbortOnDrop;
use crate::network::Network;
use crate::peers::asks::Asker;
use crate::peers::complaints::{Complaints, Who};
use crate::peers::dial::{Links, Standing};
use crate::peers::greet::{Admission, Greeter};
use crate::peers::groups::Groups;
use crate::peers::hello::PeerHello;
use crate::peers::limits::CLOSE_TIMEOUT;
use crate::peers::serve::{self, Host};
use crate::peers::tls;
use crate::peers::transport::QuicTransport;

/// How to meet peers.
pub struct PeerOptions {
    /// Where peers connect. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// What this node says of itself; its certificate must say the same.
    pub me: PeerHello,
}

#[derive(Debug, Error)]
pub enum PeerEndpointError {
    #[error("CODA4147 cannot listen for peers on {address}: {why}")]
    Bind { address: SocketAddr, why: std::io::Error },
    #[error("CODA4148 the certificate for peers cannot be used: {0}")]
    Certificate(String),
}

impl PeerEndpointError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "CODA4147",
            Self::Certificate(_) => "CODA4148",
        }
    }
}

/// What this node knows of one peer's connections.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub node: NodeId,
    /// The connection that this node dialled, or why there is none; `Ok(None)` if none was needed yet.
    pub dialled: Result<Option<PeerLink>, SmolStr>,
    /// The connection that the peer dialled.
    pub serves: Option<PeerLink>,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct PeerLink {
    pub at: SocketAddr,
    /// Of the peer protocol.
    pub version: u16,
    pub incarnation: u64,
    pub program: SmolStr,
    pub round_trip: Duration,
}

/// The socket. Dropped without [`PeerEndpoint::close`], it ends all connections at once.
pub struct PeerEndpoint {
    endpoint: Endpoint,
    links: Arc<Links>,
    host: Arc<Host>,
    _tasks: [AbortOnDrop; 2],
}

impl PeerEndpoint {
    /// Opens the socket and begins to serve; peers are dialled when the transport is first asked for them. Groups may
    /// come later: until then their peers are told that they are not here yet. When the identity is replaced, new
    /// connections are made with the new one. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`PeerEndpointError`], when the address is taken, or the certificate cannot be used or is another node's.
    pub fn open(
        network: &dyn Network,
        options: PeerOptions,
        identity: CurrentIdentity,
        groups: Arc<dyn Groups>,
        admission: Arc<dyn Admission>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Arc<dyn PeerTransport>), PeerEndpointError> {
        let PeerOptions { listen, me } = options;
        let bind_error = |why| PeerEndpointError::Bind { address: listen, why };
        let now = identity.get();
        let (server, client) = tls::configs(&now, &me)?;
        let endpoint = network.listen(listen, endpoint_config(&now.quic), server).map_err(bind_error)?;
        let greeter = Arc::new(Greeter::new(me, admission));
        let complaints = Arc::new(Complaints::new(clock.clone()));
        let links = Arc::new(Links::new(endpoint.clone(), client, greeter, clock, complaints));
        let host = Arc::new(Host::new(groups, links.clone()));
        let tasks = [
            tokio::spawn(serve::accept(endpoint.clone(), host.clone())),
            tokio::spawn(follow(endpoint.clone(), links.clone(), identity)),
        ];
        let transport = Arc::new(QuicTransport::new(links.clone()));
        Ok((Self { endpoint, links, host, _tasks: tasks.map(AbortOnDrop) }, transport))
    }

    /// Asks other nodes, on the connections that Raft's messages take.
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker::new(self.links.clone())
    }

    /// Where a peer may be found, besides what groups' memberships and it itself say.
    pub fn know(&self, node: NodeId, address: &str) {
        self.links.know(node, address);
    }

    /// Where peers connect.
    ///
    /// # Errors
    /// [`PeerEndpointError::Bind`], if the system does not say.
    pub fn address(&self) -> Result<SocketAddr, PeerEndpointError> {
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        self.endpoint.local_addr().map_err(|why| PeerEndpointError::Bind { address: unspecified, why })
    }

    /// Asks the admission about every peer that is connected, and disconnects those that it refuses now: to be called
    /// when the membership has changed.
    pub fn readmit(&self) {
        let greeter = &self.links.greeter;
        greeter.membership_has_changed();
        let dialled = self.links.all().into_iter().filter_map(|(_, live)| live.ok());
        let dialled = dialled.map(|live| (live.connection.clone(), live.peer.clone()));
        let served = self.host.served().into_iter().map(|served| (served.connection, served.peer));
        for (connection, peer) in dialled.chain(served) {
            if let Err(refused) = greeter.admit(&peer) {
                self.host.complaints.close(&connection, Who::Node(peer.node), &refused.into());
            }
        }
    }

    /// Every peer that was ever dialled, or is connected.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let link = |connection: &Connection, peer: &PeerHello, version| PeerLink {
            at: connection.remote_address(),
            version,
            incarnation: peer.incarnation,
            program: peer.program.clone(),
            round_trip: connection.rtt(),
        };
        let served = self.host.served().into_iter();
        let mut serves: BTreeMap<NodeId, PeerLink> =
            served.map(|one| (one.peer.node, link(&one.connection, &one.peer, one.version))).collect();
        let status = |(node, live): (NodeId, Standing)| PeerStatus {
            node,
            dialled: match live {
                Ok(live) => Ok(Some(link(&live.connection, &live.peer, live.version))),
                Err(Some(error)) => Err(error.to_string().into()),
                Err(None) => Ok(None),
            },
            serves: serves.remove(&node),
        };
        self.links.all().into_iter().map(status).collect()
    }

    /// Tells all peers that this node goes, and ends what is served. Close it before the groups are shut down.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(CLOSE_SHUTDOWN), b"the node is stopping");
        self.host.stop().await;
        drop(timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await);
    }
}

/// Makes and takes new connections with the certificates of the moment. Those that are up stay.
async fn follow(endpoint: Endpoint, links: Arc<Links>, mut current: CurrentIdentity) {
    let me = &links.greeter.me;
    while let Some(identity) = current.next().await {
        match tls::configs(&identity, me) {
            Ok((server, client)) => {
                *links.client.write() = client;
                endpoint.set_server_config(Some(server));
            }
            Err(error) => {
                warn!(node = %me.node, code = error.code(), %error, "new certificates are refused, those in use stay");
            }
        }
    }
}

impl Drop for PeerEndpoint {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(CLOSE_SHUTDOWN), b"the node is stopping");
        self.host.abort();
    }
}
