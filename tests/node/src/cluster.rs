//! Several nodes in this process that are one cluster, on loopback, with certificates of one authority.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use coda_broker::clock::{Clock, SystemClock};
use coda_broker::identity::{Authority, IdentityFiles, Lifetime};
use coda_broker::node::{Certificates, DiskOptions, DiskProbe, Node, NodeConfig, Peering, Space, StartError};
use coda_client::{Client, ConnectOptions, Worker, WorkerBuilder};
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::NodeId;
use coda_protocol::join::JoinToken;
use coda_protocol::operate::{ClusterReply, ClusterReport, ClusterRequest, Health, NodeReport, ReplicaDigest};
use coda_protocol::reply::Reply;
use coda_protocol::request::Request;
use tempfile::TempDir;

use crate::raw::Raw;
use crate::{logs, soon, until};

pub struct TestCluster {
    dir: TempDir,
    authority: Authority,
    nodes: BTreeMap<u64, Member>,
}

struct Member {
    config: NodeConfig,
    node: Option<Node>,
    free: Arc<AtomicU64>,
}

/// A disk of a terabyte, of which as much is free as a test says.
#[derive(Debug)]
struct Pretended(Arc<AtomicU64>);

impl DiskProbe for Pretended {
    fn space(&self, _: &Path) -> std::io::Result<Space> {
        Ok(Space { total_bytes: 1 << 40, free_bytes: self.0.load(Ordering::Relaxed) })
    }
}

/// Known before it is bound, so that a node can say where it is, and come back there. Nobody takes it meanwhile: each process
/// has a loopback address of its own, and ports that the system gives to nobody who asks for any.
fn free_address() -> SocketAddr {
    static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, 0x80 | a, b, c), NEXT_PORT.fetch_add(1, Ordering::Relaxed)).into()
}

impl TestCluster {
    /// So many nodes, from 1, each with a copy of each group as far as the factor says, and everything in its place.
    pub async fn start(nodes: u64, replication_factor: u8, groups: u16) -> Self {
        let mut cluster = Self::empty();
        cluster.add(1).await;
        let init = ClusterRequest::Init { replication_factor, groups };
        let client = cluster.client_of(&[1]).await;
        assert_eq!(ask(&client, init).await, Reply::Done);
        for node in 2..=nodes {
            cluster.add(node).await;
            cluster.join(&client, node).await;
        }
        client.close().await;
        cluster.calm().await;
        cluster
    }

    /// No nodes, and certificates for any.
    #[must_use]
    pub fn empty() -> Self {
        logs::collect();
        let lifetime = Lifetime::days(SystemClock.now(), 30).expect("days");
        let authority = Authority::found(&"shop".parse().expect("a name"), lifetime).expect("an authority");
        Self { dir: tempfile::tempdir().expect("a folder"), authority, nodes: BTreeMap::new() }
    }

    /// Starts a node that is in no cluster yet.
    pub async fn add(&mut self, node: u64) {
        let dir = self.dir.path().join(format!("node-{node}"));
        let lifetime = Lifetime::days(SystemClock.now(), 20).expect("days");
        let issued = self.authority.node(NodeId(node), &[], lifetime).expect("a certificate");
        issued.save(&dir.join("certs"), "node", false).expect("saved");
        let [ca, cert, key] = ["ca.pem", "node.pem", "node.key"].map(|name| dir.join("certs").join(name));
        let free = Arc::new(AtomicU64::new(1 << 39));
        let disk = DiskOptions {
            probe: Arc::new(Pretended(free.clone())),
            check_every: Duration::from_millis(50),
            ..DiskOptions::default()
        };
        let config = NodeConfig {
            disk,
            node: NodeId(node),
            peering: Some(Peering { listen: free_address(), advertise: None }),
            zone: format!("zone-{node}").into(),
            certificates: Certificates::Files(IdentityFiles { ca, cert, key }),
            ..NodeConfig::alone(dir.join("data"), free_address())
        };
        self.nodes.insert(node, Member { config, node: None, free });
        self.go(node).await;
    }

    /// Starts a node that was there before.
    pub async fn go(&mut self, node: u64) {
        self.try_go(node).await.unwrap_or_else(|error| panic!("{}: {error}", error.code()));
    }

    /// # Errors
    /// Why it does not start.
    pub async fn try_go(&mut self, node: u64) -> Result<(), StartError> {
        let member = self.nodes.get_mut(&node).expect("a known node");
        member.node = Some(soon("the node starts", Node::start(member.config.clone())).await?);
        Ok(())
    }

    /// What a node keeps.
    #[must_use]
    pub fn data_dir(&self, node: u64) -> &Path {
        &self.nodes[&node].config.data_dir
    }

    /// From now on each sync of a node's log takes so much longer; one that is under way too.
    pub fn slow_disk(&self, node: u64, delay: Duration) {
        self.nodes[&node].config.sync_delay.set(delay);
    }

    /// So much seems to be free on a node's disk from now on.
    pub fn free_on_disk(&self, node: u64, bytes: u64) {
        self.nodes[&node].free.store(bytes, Ordering::Relaxed);
    }

    /// A node's disk is lost while it does not run.
    pub fn wipe(&mut self, node: u64) {
        std::fs::remove_dir_all(&self.nodes[&node].config.data_dir).expect("its folder");
    }

    /// Lets a node in that was added.
    pub async fn join(&self, client: &Client, node: u64) {
        assert_eq!(self.try_join(client, node).await.expect("let in"), Reply::Done);
    }

    /// # Errors
    /// Why it is not let in.
    pub async fn try_join(&self, client: &Client, node: u64) -> Result<Reply, coda_client::ClientError> {
        let token = JoinToken::random();
        let create = ClusterRequest::CreateToken { token: token.id, digest: token.digest(), ttl: None };
        assert!(matches!(ask(client, create).await, Reply::TokenCreated { .. }));
        let its_own = self.client_of(&[node]).await;
        let report = report_of(&its_own).await;
        its_own.close().await;
        let (node, registration) = (report.node, report.registration);
        let join = ClusterRequest::Join { token: token.id, digest: token.digest(), node, registration };
        try_ask(client, join).await
    }

    /// Stops a node cleanly. Its addresses are free then, as those of a process are that has ended.
    pub async fn stop(&mut self, node: u64) {
        let member = self.nodes.get_mut(&node).expect("a known node");
        let running = member.node.take().expect("a node that runs");
        soon("the node stops", running.shutdown()).await;
        // An endpoint closes its socket when the runtime comes to it.
        let peers = member.config.peering.as_ref().map(|peering| peering.listen);
        let addresses: Vec<SocketAddr> = peers.into_iter().chain([member.config.listen]).collect();
        let is_free = |address: &SocketAddr| UdpSocket::bind(address).is_ok();
        until("its addresses are free", || async { addresses.iter().all(is_free).then_some(()) }).await;
    }

    /// Stops all that run.
    pub async fn stop_all(mut self) {
        let running: Vec<u64> = self.running();
        for node in running {
            self.stop(node).await;
        }
    }

    #[must_use]
    pub fn running(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, member)| member.node.is_some()).map(|(node, _)| *node).collect()
    }

    #[must_use]
    pub fn options_of(&self, nodes: &[u64]) -> ConnectOptions {
        let addresses: Vec<String> = nodes.iter().map(|node| self.nodes[node].config.listen.to_string()).collect();
        let ca = self.ca(nodes[0]);
        ConnectOptions { outside: true, ..ConnectOptions::new(&addresses.join(","), ca).expect("addresses") }
    }

    /// A raw connection to one node, greeted.
    pub async fn raw(&self, node: u64) -> Raw {
        Raw::connect(self.nodes[&node].config.listen, &self.ca(node)).await.greet().await
    }

    fn ca(&self, node: u64) -> Vec<u8> {
        std::fs::read(self.dir.path().join(format!("node-{node}/certs/ca.pem"))).expect("saved before")
    }

    /// A client that knows these nodes to begin with.
    pub async fn client_of(&self, nodes: &[u64]) -> Client {
        soon("a client connects", Client::connect(self.options_of(nodes))).await.expect("connected")
    }

    /// A client that knows all that run.
    pub async fn client(&self) -> Client {
        self.client_of(&self.running()).await
    }

    pub fn worker(&self) -> WorkerBuilder {
        Worker::builder(self.options_of(&self.running()))
    }

    /// Waits until the cluster says that nothing is wrong, and that all leaders are where they should be.
    pub async fn calm(&self) -> ClusterReport {
        self.calm_without(&[]).await
    }

    /// The same, asked of all that run but these.
    pub async fn calm_without(&self, outside: &[u64]) -> ClusterReport {
        let inside: Vec<u64> = self.running().into_iter().filter(|node| !outside.contains(node)).collect();
        let client = self.client_of(&inside).await;
        let calm = until("the cluster is healthy", || async {
            let report = cluster_report(&client).await;
            let in_place = |group: &coda_protocol::operate::GroupReport| group.leader == group.preferred;
            let healthy = report.health() == Health::Healthy && report.groups.iter().all(in_place);
            if !healthy {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            healthy.then_some(report)
        })
        .await;
        client.close().await;
        calm
    }

    /// Waits until a node has come to a state.
    pub async fn until_state(&self, client: &Client, node: u64, state: NodeState) {
        until("the node's state", || async {
            let report = cluster_report(client).await;
            let member = report.members.iter().find(|member| member.member.node == NodeId(node));
            member.filter(|member| member.member.state == state).map(drop)
        })
        .await;
    }

    /// Waits until all copies of all groups are equal.
    pub async fn equal(&self, groups: u16) {
        let client = self.client().await;
        for group in 0..=u32::from(groups) {
            until("equal copies", || async {
                let verify = ClusterRequest::Verify(coda_protocol::ids::GroupId(group));
                let Reply::Cluster(ClusterReply::Digests(digests)) = ask(&client, verify).await else { panic!() };
                let first = digests[0].digest.clone().ok()?;
                let equal = |one: &ReplicaDigest| one.digest.as_ref().is_ok_and(|digest| *digest == first);
                digests.iter().all(equal).then_some(())
            })
            .await;
        }
        client.close().await;
    }
}

/// # Panics
/// When it is refused.
pub async fn ask(client: &Client, request: ClusterRequest) -> Reply {
    try_ask(client, request).await.expect("an answer")
}

/// # Errors
/// As [`coda_client::Link::request`].
pub async fn try_ask(client: &Client, request: ClusterRequest) -> Result<Reply, coda_client::ClientError> {
    Ok(soon("an answer", client.link().request(Request::Cluster(request))).await?.0)
}

pub async fn cluster_report(client: &Client) -> ClusterReport {
    let Reply::Cluster(ClusterReply::Cluster(report)) = ask(client, ClusterRequest::Report).await else { panic!() };
    *report
}

async fn report_of(client: &Client) -> NodeReport {
    let Reply::Cluster(ClusterReply::Node(report)) = ask(client, ClusterRequest::ReportNode(None)).await else {
        panic!()
    };
    *report
}
