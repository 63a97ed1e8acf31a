//! A node: everything built in dependency order, and taken down in the other. Start reading here.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coda_engine::command::COMMANDS_VERSION;
use coda_protocol::cluster::{MapNode, Registration};
use coda_protocol::ids::{ClusterId, GroupId, NodeId};
use coda_raft_store::error::StoreError;
use coda_raft_store::group::Group;
use coda_raft_store::peers::{NoPeers, PeerTransport};
use coda_raft_store::store::{DiskWatch, NodeStore, StoreOptions};
use ractor::Actor;
use smol_str::SmolStr;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::clock::{Clock, SystemClock};
use crate::cluster::{self, Answers, Asking, ClusterView, Door, Hosting, HostingOptions, Rebalance, View};
use crate::config::SHUTDOWN_TIMEOUT;
pub use crate::config::{Certificates, DiskOptions, DiskProbe, NodeConfig, Peering, Space, SyncDelay};
use crate::endpoint::{self, Admission, EndpointError};
use crate::host::Host;
use crate::identity::{self, CurrentIdentity, IdentityError, QuicKeys, Reloader, Source};
use crate::intake::Intake;
use crate::messages::{AbortOnDrop, SupervisorMsg};
use crate::peers::{GroupTable, PeerEndpoint, PeerEndpointError, PeerHello, PeerOptions};
use crate::routes::Routes;
use crate::sessions::Sessions;
use crate::supervisor::{Supervisor, SupervisorArgs};
use crate::usage;
pub use crate::usage::Usage;
use crate::wants;

/// A running node.
pub struct Node {
    address: SocketAddr,
    ca_path: PathBuf,
    identity: CurrentIdentity,
    endpoint: quinn::Endpoint,
    accepting: JoinHandle<()>,
    rotating: [AbortOnDrop; 2],
    wanting: AbortOnDrop,
    disk: DiskWatch,
    watching: JoinHandle<()>,
    host: Host,
    peers: Option<Arc<PeerEndpoint>>,
    table: GroupTable,
    /// What follows the cluster.
    following: JoinSet<()>,
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
    #[error(transparent)]
    Peers(#[from] PeerEndpointError),
    #[error(
        "others cannot reach this node at {listen}: say how with `{key}`, as `host:port`, or listen on one address"
    )]
    NotReachable { listen: SocketAddr, key: &'static str },
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
            Self::Peers(error) => error.code(),
            Self::NotReachable { .. } => "CODA4230",
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
        // Large, and awaited once.
        Box::pin(Self::build(config, clock)).await
    }

    async fn build(config: NodeConfig, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let dir = config.data_dir.clone();
        fs::create_dir_all(&dir).map_err(|why| StartError::Folder { path: dir.clone(), why })?;

        // The store first: its lock keeps a second process out before anything is touched.
        let options = StoreOptions {
            sync_delay: config.sync_delay.clone(),
            disk: config.disk.clone(),
            medium: config.medium.clone(),
        };
        let store = NodeStore::open(dir.join("db"), options)?;
        let Identified { identity, ca_path, reloading } = identify(&config, &store, &clock)?;
        let admission = if config.require_client_certificate { Admission::Certified } else { Admission::Everyone };
        let endpoint = endpoint::open(&*config.network, config.listen, &identity.get(), admission)?;
        let following = tokio::spawn(endpoint::follow(endpoint.clone(), identity.clone(), admission));
        let rotating = [reloading, AbortOnDrop(following)];
        let address = endpoint.local_addr().map_err(|why| EndpointError::Bind { address: config.listen, why })?;

        let cluster_id = identity.get().cluster.unwrap_or(ClusterId([0; 16]));
        let registration = registration(&config, &store, address)?;
        let (cluster, table, routes) = (ClusterView::default(), GroupTable::default(), Routes::default());
        let (peers, transport) = match &config.peering {
            None => (None, Arc::new(NoPeers) as Arc<dyn PeerTransport>),
            Some(peering) => {
                let me = PeerHello {
                    cluster: cluster_id,
                    node: config.node,
                    incarnation: store.incarnation(),
                    storage: store.storage(),
                    address: registration.peer_addr.clone(),
                    program: concat!("coda/", env!("CARGO_PKG_VERSION")).into(),
                };
                let options = PeerOptions { listen: peering.listen, me };
                let (groups, door) =
                    (Arc::new(table.clone()), Arc::new(Door { me: config.node, view: cluster.clone() }));
                let (peers, transport) =
                    PeerEndpoint::open(&*config.network, options, identity.clone(), groups, door, clock.clone())?;
                (Some(Arc::new(peers)), transport)
            }
        };

        let (incarnation, started) = (store.incarnation(), clock.instant());
        let sessions = Sessions::default();
        let (failed_tell, failed) = watch::channel(None);
        let args = SupervisorArgs {
            sessions: sessions.clone(),
            clock: clock.clone(),
            routes: routes.clone(),
            disk: store.disk(),
            failed: failed_tell.clone(),
        };
        let (supervisor, supervising) = Actor::spawn(None, Supervisor, args).await?;
        let tell = failed_tell.clone();
        let watching = tokio::spawn(async move {
            let _ = supervising.await;
            tell.send_replace(Some("the supervisor failed".into()));
        });
        let hosting = Hosting::new(HostingOptions {
            node: config.node,
            address: registration.peer_addr.to_string(),
            store: store.clone(),
            transport,
            table: table.clone(),
            routes: routes.clone(),
            supervisor: supervisor.clone(),
        });
        let disk = store.watch_disk();
        let host = Host {
            node: config.node,
            incarnation,
            started,
            store,
            sessions,
            supervisor,
            routes,
            registration: Arc::new(registration),
            cluster,
            hosting,
            asking: Asking::new(peers.as_ref().map(|peers| peers.asker())),
            rebalance: Rebalance::default(),
            intake: Intake::new(clock.clone()),
            clock,
            cluster_id,
        };
        table.answer_with(Arc::new(Answers(host.clone())));
        let accepting = tokio::spawn(endpoint::accept(endpoint.clone(), host.clone()));
        let wanting = AbortOnDrop(tokio::spawn(wants::run(host.clone(), host.clock.clone())));
        let following = JoinSet::new();
        let mut node = Self {
            address,
            ca_path,
            identity,
            endpoint,
            accepting,
            rotating,
            wanting,
            disk,
            watching,
            host,
            peers,
            table,
            following,
            failed,
        };
        if let Err(error) = node.take_part(&config, failed_tell).await {
            node.shutdown().await;
            return Err(error);
        }
        if let Certificates::Own = config.certificates {
            let path = dir.join("client.json");
            write_client_json(&path, address).map_err(|why| StartError::Folder { path, why })?;
        }
        info!(%address, data = %dir.display(), "ready");
        Ok(node)
    }

    /// Starts the groups that are here, and takes this node's place in its cluster. A node that is alone begins one, and is
    /// ready when it leads all of it.
    async fn take_part(
        &mut self,
        config: &NodeConfig,
        failed: watch::Sender<Option<String>>,
    ) -> Result<(), StartError> {
        let host = self.host.clone();
        self.following.spawn(cluster::keep(host.clone()));
        self.following.spawn(follow_disk(host.clone()));
        let meta = host.hosting.start(GroupId::META).await?;
        host.cluster.set(View::read(&meta));
        for group in host.store.groups()? {
            host.hosting.start(group).await?;
        }
        self.following.spawn(cluster::follow(host.clone(), meta, self.peers.clone()));
        let is_new = host.map().is_none();
        if config.peering.is_some() {
            self.following.spawn(Hosting::follow(host.clone()));
            let registering = host.clone();
            self.following.spawn(async move {
                if let Err(reject) = cluster::register(&registering).await {
                    let why = format!("{} {reject}", reject.code());
                    failed.send_replace(Some(why));
                }
            });
            return Ok(());
        }
        let failure = self.failed();
        let ready = async {
            let refused = |refusal: &dyn std::fmt::Display| StartError::Group(refusal.to_string());
            if is_new {
                cluster::init(&host, 1, config.groups).await.map_err(|refusal| refused(&refusal))?;
            } else {
                cluster::register(&host).await.map_err(|reject| refused(&reject))?;
            }
            // Ready means ready: a client that connects now is served.
            let mut view = host.cluster.follow();
            let groups = view.wait_for(|view| view.map.is_some()).await.map_or(0, |view| view.placements.len() - 1);
            let mut led = host.routes.changes();
            drop(led.wait_for(|_| host.routes.count() == groups).await);
            Ok(())
        };
        tokio::select! {
            ready = ready => ready,
            why = failure => Err(StartError::Group(why)),
        }
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

    /// What it says of itself to a cluster that it is to join.
    #[must_use]
    pub fn registration(&self) -> &Registration {
        &self.host.registration
    }

    /// Whether it is in no cluster yet, as far as it knows.
    #[must_use]
    pub fn is_outside(&self) -> bool {
        self.host.map().is_none()
    }

    /// How much the node holds for its clients.
    pub async fn usage(&self) -> Usage {
        usage::count(&self.host).await
    }

    /// The copies of groups that are here: for whoever checks what is in them.
    #[doc(hidden)]
    #[must_use]
    pub fn copies(&self) -> Vec<Group> {
        self.host.routes.all_hosted()
    }

    /// As if the cluster had another node, which nobody can reach: for tests of what a node does only then.
    #[doc(hidden)]
    pub fn imagine_another(&self) {
        let mut view = (*self.host.cluster.get()).clone();
        let mut map = view.map.as_deref().expect("a cluster").clone();
        map.nodes.push(MapNode { node: NodeId(u64::MAX), ..map.nodes[0].clone() });
        map.version += 1;
        view.map = Some(Arc::new(map));
        self.host.cluster.set(view);
    }

    /// Resolves if the node cannot go on; says why.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the supervisor failed".into(),
        }
    }

    /// Stops cleanly: others take over what it leads, sessions are told to come back, what is in flight ends, the store is
    /// flushed and closed.
    pub async fn shutdown(mut self) {
        self.watching.abort();
        // Who decides where things are must not undo it.
        self.following.shutdown().await;
        if self.peers.is_some() {
            cluster::hand_over(&self.host).await;
        }
        self.accepting.abort();
        // It holds the endpoint, whose address a successor in this process may want.
        drop(self.rotating);
        drop((self.wanting, self.disk));
        if ractor::call!(self.host.supervisor, SupervisorMsg::Shutdown).is_err() {
            warn!("the supervisor was gone before the shutdown");
        }
        self.endpoint
            .close(quinn::VarInt::from_u32(coda_protocol::frame::CLOSE_SHUTDOWN), b"the node is shutting down");
        drop(timeout(SHUTDOWN_TIMEOUT, self.endpoint.wait_idle()).await);
        if let Some(peers) = &self.peers {
            peers.close().await;
        }
        drop(self.host.supervisor.stop_and_wait(None, Some(SHUTDOWN_TIMEOUT)).await);
        for group in self.host.routes.all_hosted() {
            group.shutdown().await;
        }
        // The store closes once nobody holds it: the table holds who answers, and that this host.
        self.table.clear();
        self.host.routes.clear();
        let store = self.host.store.clone();
        drop(self.host);
        let workshop = store.workshop().clone();
        match workshop.run(|| store.close()).await {
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
fn identify(config: &NodeConfig, store: &NodeStore, clock: &Arc<dyn Clock>) -> Result<Identified, IdentityError> {
    match &config.certificates {
        Certificates::Own => {
            let dir = config.data_dir.join("certs");
            let identity = CurrentIdentity::fixed(identity::load_or_make(&dir, config.node)?);
            Ok(Identified { identity, ca_path: dir.join("ca.pem"), reloading: AbortOnDrop(tokio::spawn(async {})) })
        }
        Certificates::Files(files) => {
            let quic = QuicKeys::keep(&config.data_dir.join("quic.key"))?;
            let (clock, workshop) = (clock.clone(), store.workshop().clone());
            let source = Source { files: files.clone(), node: config.node, quic, clock, workshop };
            let (reloader, identity) = Reloader::open(source)?;
            Ok(Identified { identity, ca_path: files.ca.clone(), reloading: AbortOnDrop(tokio::spawn(reloader.run())) })
        }
    }
}

/// Goes on with what a full disk has held up. The store says itself how its disk is.
async fn follow_disk(host: Host) {
    let mut disk = host.store.disk();
    while disk.changed().await.is_ok() {
        if !disk.borrow_and_update().is_full() {
            host.routes.all().iter().for_each(|router| router.shared.proposer.kick());
        }
    }
}

/// What the node says of itself.
fn registration(config: &NodeConfig, store: &NodeStore, address: SocketAddr) -> Result<Registration, StartError> {
    let reached = |listen: SocketAddr, advertise: &Option<SmolStr>, key| match advertise {
        Some(advertise) => Ok(advertise.clone()),
        None if listen.ip().is_unspecified() => Err(StartError::NotReachable { listen, key }),
        None => Ok(listen.to_string().into()),
    };
    let (client_addr, peer_addr) = match &config.peering {
        Some(peering) => (
            reached(address, &config.advertise, "listen.advertise_client")?,
            reached(peering.listen, &peering.advertise, "listen.advertise_peer")?,
        ),
        // Whoever reaches it from elsewhere has been told where.
        None if address.ip().is_unspecified() && config.advertise.is_none() => {
            (format!("127.0.0.1:{}", address.port()).into(), SmolStr::default())
        }
        None => (reached(address, &config.advertise, "listen.advertise_client")?, SmolStr::default()),
    };
    Ok(Registration {
        storage: store.storage(),
        incarnation: store.incarnation(),
        peer_addr,
        client_addr,
        zone: config.zone.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        commands_version: COMMANDS_VERSION,
    })
}

/// Lets clients in this folder find the node. Relative paths, so that the folder can move.
fn write_client_json(path: &Path, address: SocketAddr) -> std::io::Result<()> {
    let text = serde_json::json!({ "address": address.to_string(), "ca": "certs/ca.pem" }).to_string();
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text)?;
    fs::rename(temporary, path)
}
