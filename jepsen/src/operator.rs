//! What an operator does: forms a cluster, asks how it is, lets nodes in and out. Patient, because any node may be gone.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use coda_client::{Client, ClientError, ConnectOptions};
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::join::JoinToken;
use coda_protocol::operate::{ClusterReply, ClusterReport, ClusterRequest, Health, NodeReport, ReplicaDigest};
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::Request;
use tokio::time::{Instant, sleep};

/// One try at one question; a node that stands still answers none.
const ANSWER_PATIENCE: Duration = Duration::from_secs(8);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Nothing that an operator waits for takes so long.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub struct Operator {
    client: Client,
}

impl Operator {
    /// Connects to nodes too that are in no cluster yet.
    pub async fn connect(options: ConnectOptions) -> anyhow::Result<Self> {
        Ok(Self { client: Client::connect(ConnectOptions { outside: true, ..options }).await? })
    }

    pub async fn init(&self, replication_factor: u8, groups: u16) -> anyhow::Result<()> {
        self.done(ClusterRequest::Init { replication_factor, groups }).await
    }

    /// Lets in a node that is in no cluster yet. `options` lead to it.
    pub async fn join(&self, options: ConnectOptions) -> anyhow::Result<NodeId> {
        let token = JoinToken::random();
        let (id, digest) = (token.id, token.digest());
        self.ask(ClusterRequest::CreateToken { token: id, digest, ttl: None }).await?;
        let newcomer = Self::connect(options).await?;
        let NodeReport { node, registration, .. } = newcomer.node().await?;
        newcomer.client.close().await;
        self.done(ClusterRequest::Join { token: id, digest, node, registration }).await?;
        Ok(node)
    }

    pub async fn drain(&self, node: u64) -> anyhow::Result<()> {
        self.done(ClusterRequest::Drain(NodeId(node))).await
    }

    /// Takes a drained node out, as soon as nothing is left on it.
    pub async fn remove(&self, node: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let removed = self.ask_once(ClusterRequest::Remove(NodeId(node))).await;
            match removed {
                Ok(_) => return Ok(()),
                // Asked again because an answer was lost.
                Err(ClientError::Refused(Reject::NodeRemoved { .. })) => return Ok(()),
                Err(error) if Instant::now() >= deadline => bail!("node {node} cannot be removed: {error}"),
                Err(_) => sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// One try. The error is what the cluster says, too.
    pub async fn transfer(&self, group: GroupId, to: NodeId) -> Result<(), ClientError> {
        self.ask_once(ClusterRequest::TransferLeader { group, to: Some(to) }).await.map(drop)
    }

    pub async fn report(&self) -> anyhow::Result<ClusterReport> {
        match self.ask(ClusterRequest::Report).await? {
            Reply::Cluster(ClusterReply::Cluster(report)) => Ok(*report),
            other => bail!("not a report: {other:?}"),
        }
    }

    /// What the node that is asked knows of itself.
    pub async fn node(&self) -> anyhow::Result<NodeReport> {
        match self.ask(ClusterRequest::ReportNode(None)).await? {
            Reply::Cluster(ClusterReply::Node(report)) => Ok(*report),
            other => bail!("not a report: {other:?}"),
        }
    }

    /// Waits until the cluster says that nothing is wrong, and all leaders are where they should be.
    pub async fn healthy(&self, patience: Duration) -> anyhow::Result<ClusterReport> {
        let deadline = Instant::now() + patience;
        loop {
            let report = self.report().await?;
            let health = report.health();
            let in_place = |group: &coda_protocol::operate::GroupReport| group.leader == group.preferred;
            let misplaced = report.groups.iter().find(|group| !in_place(group));
            if health == Health::Healthy && misplaced.is_none() {
                return Ok(report);
            }
            if Instant::now() >= deadline {
                bail!("not healthy after {patience:?}: {health:?}, {misplaced:?}");
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    pub async fn until_state(&self, node: u64, state: NodeState) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.report().await?;
            let member = report.members.iter().find(|member| member.member.node == NodeId(node));
            let now = member.map(|member| member.member.state);
            if now == Some(state) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("node {node} is {now:?} and not {state} after {PATIENCE:?}");
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    pub async fn verify(&self, group: GroupId) -> anyhow::Result<Vec<ReplicaDigest>> {
        match self.ask(ClusterRequest::Verify(group)).await? {
            Reply::Cluster(ClusterReply::Digests(digests)) => Ok(digests),
            other => bail!("no digests: {other:?}"),
        }
    }

    pub async fn close(&self) {
        self.client.close().await;
    }

    async fn done(&self, request: ClusterRequest) -> anyhow::Result<()> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            other => bail!("not done: {other:?}"),
        }
    }

    /// Asks until somebody answers. What is asked can be asked twice.
    async fn ask(&self, request: ClusterRequest) -> anyhow::Result<Reply> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask_once(request.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(ClientError::Deadline { .. }) if Instant::now() < deadline => {}
                Err(error) => return Err(error).with_context(|| format!("no answer to {request:?}")),
            }
        }
    }

    async fn ask_once(&self, request: ClusterRequest) -> Result<Reply, ClientError> {
        Ok(self.client.link().request_within(Request::Cluster(request), ANSWER_PATIENCE).await?.0)
    }
}

/// How many groups each node leads that could; the nodes that lead none too.
pub fn leads(report: &ClusterReport) -> BTreeMap<u64, Vec<GroupId>> {
    let active = report.members.iter().filter(|member| member.member.state == NodeState::Active);
    let mut leads: BTreeMap<u64, Vec<GroupId>> = active.map(|member| (member.member.node.0, Vec::new())).collect();
    for group in &report.groups {
        if let Some(leader) = group.leader {
            leads.entry(leader.0).or_default().push(group.group);
        }
    }
    leads
}
