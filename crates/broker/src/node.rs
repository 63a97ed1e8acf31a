//! A node: everything built in dependency order, and taken down in the other. Start reading here.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coda_protocol::cluster::{ClusterMap, MapGroup, MapNode, NodeState};
use coda_protocol::ids::{ClusterId, GroupId};
use coda_protocol::slots::SlotMap;
use coda_raft_store::error::StoreError;
use coda_raft_store::group::{Group, GroupOptions};
use coda_raft_store::peers::NoPeers;
use coda_raft_store::store::{NodeStore, StoreOptions};
use parking_lot::RwLock;
use ractor::Actor;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::clock::{Clock, SystemClock};
use crate::config::SHUTDOWN_TIMEOUT;
pub use crate::config::{Certificates, NodeConfig};
use crate::endpoint::{self, Admission, EndpointError};
use crate::host::Host;
use crate::identity::{self, CurrentIdentity, IdentityError, QuicKeys, Reloader, Source};
use crate::messages::{AbortOnDrop, SupervisorMsg};
use crate::routes::Routes;
use crate::sessions::Sessions;
use crate::supervisor::{Supervisor, SupervisorArgs};
use crate::usage;
pub use crate::usage::Usage;

/// A running node.
pub struct Node {
    address: SocketAddr,
    ca_path: PathBuf,
    identity: CurrentIdentity,
    endpoint: quinn::Endpoint,
    accepting: JoinHandle<()>,
    rotating: [AbortOnDrop; 2],
    watching: JoinHandle<()>,
    host: Host,
    groups: Vec<Group>,
    failed: watch::Receiver<Option<String>>,
}

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot use the folder {}: {why}", path.display())]
    Folder { path: PathBuf, why: std::io::Error },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot start the group: {0}")]
    Group(String),
    #[error("cannot start the supervisor: {0}")]
    Supervisor(#[from] ractor::SpawnErr),
}

impl StartError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "CODA4201",
            Self::Identity(error) => error.code(),
            Self::Endpoint(EndpointError::Bind { .. }) => "CODA4203",
            Self::Endpoint(EndpointError::Certificate(_)) => "CODA4206",
            Self::Store(error) => error.code(),
            Self::Group(_) => "CODA4204",
            Self::Supervisor(_) => "CODA4205",
        }
    }
}

impl Node {
    /// Opens the data folder, joins its group, and serves clients.
    ///
    /// # Errors
    /// [`StartError`], with a stable code.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        Self::start_with(config, Arc::new(SystemClock)).await
    }

    /// As [`Node::start`], with another clock than the machine's.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_with(config: NodeConfig, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let dir = config.data_dir.clone();
        fs::create_dir_all(&dir).map_err(|why| StartError::Folder { path: dir.clone(), why })?;

        // The store first: its lock keeps a second process out before anything is touched.
        let store = NodeStore::open(
            dir.join("db"),
            StoreOptions { sync_delay: config.sync_delay.into(), ..StoreOptions::default() },
        )?;
        let Identified { identity, ca_path, reloading } = identify(&config, &clock)?;
        let admission = if config.require_client_certificate { Admission::Certified } else { Admission::Everyone };
        let endpoint = endpoint::open(config.listen, &identity.get(), admission)?;
        let following = tokio::spawn(endpoint::follow(endpoint.clone(), identity.clone(), admission));
        let rotating = [reloading, AbortOnDrop(following)];
        let address = endpoint.local_addr().map_err(|why| EndpointError::Bind { address: config.listen, why })?;

        let mut groups = Vec::new();
        for group in 1..=u32::from(config.groups) {
            let options = GroupOptions::new(GroupId(group), config.node);
            let group = Group::start(store.clone(), options, Arc::new(NoPeers)).await?;
            group.initialize_single().await.map_err(|error| StartError::Group(error.to_string()))?;
            groups.push(group);
        }
        let map = alone(&config, &identity, address);

        let (incarnation, started) = (store.incarnation(), clock.instant());
        let (sessions, routes) = (Sessions::default(), Routes::default());
        let (failed_tell, failed) = watch::channel(None);
        let args =
            SupervisorArgs { sessions: sessions.clone(), clock, routes: routes.clone(), failed: failed_tell.clone() };
        let (supervisor, supervising) = Actor::spawn(None, Supervisor, args).await?;
        let watching = tokio::spawn(async move {
            let _ = supervising.await;
            failed_tell.send_replace(Some("the supervisor failed".into()));
        });
        let mut led = routes.changes();
        for group in &groups {
            drop(supervisor.cast(SupervisorMsg::Host(group.clone())));
        }
        let host = Host {
            node: config.node,
            incarnation,
            started,
            store,
            sessions,
            supervisor,
            routes,
            map: Arc::new(RwLock::new(Arc::new(map))),
        };
        let accepting = tokio::spawn(endpoint::accept(endpoint.clone(), host.clone()));

        if let Certificates::Own = config.certificates {
            let path = dir.join("client.json");
            write_client_json(&path, address).map_err(|why| StartError::Folder { path, why })?;
        }
        let node = Self { address, ca_path, identity, endpoint, accepting, rotating, watching, host, groups, failed };
        // Ready means ready: a client that connects now is served.
        let failed = tokio::select! {
            _ = led.wait_for(|_| node.host.routes.count() == node.groups.len()) => None,
            why = node.failed() => Some(why),
        };
        if let Some(why) = failed {
            node.shutdown().await;
            return Err(StartError::Group(why));
        }
        info!(%address, data = %dir.display(), "ready");
        Ok(node)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients verify the node with.
    #[must_use]
    pub fn ca_path(&self) -> &Path {
        &self.ca_path
    }

    /// The certificates in use, for whoever serves or dials as this node.
    #[must_use]
    pub fn identity(&self) -> &CurrentIdentity {
        &self.identity
    }

    /// How much the node holds for its clients.
    pub async fn usage(&self) -> Usage {
        usage::count(&self.host).await
    }

    /// Resolves if the node cannot go on; says why.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the supervisor failed".into(),
        }
    }

    /// Stops cleanly: sessions are told to come back, what is in flight ends, the store is flushed and closed.
    pub async fn shutdown(self) {
        self.accepting.abort();
        self.watching.abort();
        // It holds the endpoint, whose address a successor in this process may want.
        drop(self.rotating);
        let Host { supervisor, store, .. } = self.host;
        if ractor::call!(supervisor, SupervisorMsg::Shutdown).is_err() {
            warn!("the supervisor was gone before the shutdown");
        }
        self.endpoint
            .close(quinn::VarInt::from_u32(coda_protocol::frame::CLOSE_SHUTDOWN), b"the node is shutting down");
        drop(timeout(SHUTDOWN_TIMEOUT, self.endpoint.wait_idle()).await);
        drop(supervisor.stop_and_wait(None, Some(SHUTDOWN_TIMEOUT)).await);
        for group in &self.groups {
            group.shutdown().await;
        }
        // The store closes once nobody holds it.
        drop(self.groups);
        match tokio::task::spawn_blocking(|| store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the store did not close cleanly; nothing acknowledged is lost"),
            Err(error) => warn!(%error, "closing the store failed"),
        }
        info!("stopped");
    }
}

struct Identified {
    identity: CurrentIdentity,
    ca_path: PathBuf,
    /// Ends at once where nothing is ever replaced.
    reloading: AbortOnDrop,
}

/// Loads the node's certificates, or makes them, and begins to look after them.
fn identify(config: &NodeConfig, clock: &Arc<dyn Clock>) -> Result<Identified, IdentityError> {
    match &config.certificates {
        Certificates::Own => {
            let dir = config.data_dir.join("certs");
            let identity = CurrentIdentity::fixed(identity::load_or_make(&dir, config.node)?);
            Ok(Identified { identity, ca_path: dir.join("ca.pem"), reloading: AbortOnDrop(tokio::spawn(async {})) })
        }
        Certificates::Files(files) => {
            let quic = QuicKeys::keep(&config.data_dir.join("quic.key"))?;
            let source = Source { files: files.clone(), node: config.node, quic, clock: clock.clone() };
            let (reloader, identity) = Reloader::open(source)?;
            Ok(Identified { identity, ca_path: files.ca.clone(), reloading: AbortOnDrop(tokio::spawn(reloader.run())) })
        }
    }
}

/// The map of a cluster of this node alone.
fn alone(config: &NodeConfig, identity: &CurrentIdentity, address: SocketAddr) -> ClusterMap {
    let node = MapNode {
        node: config.node,
        client_addr: address.to_string().into(),
        zone: "".into(),
        state: NodeState::Active,
    };
    let group = |group| MapGroup { group: GroupId(group), voters: vec![config.node], leader: Some(config.node) };
    ClusterMap {
        version: 1,
        cluster: identity.get().cluster.unwrap_or(ClusterId([0; 16])),
        commands_version: 1,
        nodes: vec![node],
        groups: (1..=u32::from(config.groups)).map(group).collect(),
        slots: SlotMap::even(config.groups),
    }
}

/// Lets clients in this folder find the node. Relative paths, so that the folder can move.
fn write_client_json(path: &Path, address: SocketAddr) -> std::io::Result<()> {
    let text = serde_json::json!({ "address": address.to_string(), "ca": "certs/ca.pem" }).to_string();
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text)?;
    fs::rename(temporary, path)
}
