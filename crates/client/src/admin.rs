//! What operators ask of a cluster: one method for each request, and each answered within a limit.

use std::time::Duration;

use coda_protocol::cluster::{Registration, SettingDescription, SettingValue, TokenDescription};
use coda_protocol::ids::{GroupId, Millis, NodeId, Timestamp, TokenId};
use coda_protocol::join::JoinToken;
use coda_protocol::operate::{ClusterReply, ClusterReport, ClusterRequest, NodeReport, ReplicaDigest};
use coda_protocol::rebalance::Plan;
use coda_protocol::reply::Reply;
use coda_protocol::request::Request;
use smol_str::SmolStr;

use crate::error::ClientError;
use crate::link::Link;

/// A cluster as its operators see it. Cheap to clone; any node answers.
///
/// What a leader decides waits for one, so each method is given up after a limit: [`ClientError::Deadline`]. What it asked
/// for may still happen after that, and asking again is safe: twice equals once.
#[derive(Clone)]
pub struct Admin {
    link: Link,
    limit: Duration,
}

/// Unpacks the one reply that fits a request.
macro_rules! expect {
    ($answer:expr, $variant:ident) => {
        match $answer.await? {
            Reply::Cluster(ClusterReply::$variant(value)) => Ok(value),
            _ => Err(ClientError::UnexpectedReply { expected: stringify!($variant) }),
        }
    };
}

impl Admin {
    /// Asks through this link, and gives each question so much time.
    #[must_use]
    pub fn new(link: Link, limit: Duration) -> Self {
        Self { link, limit }
    }

    /// The same with another limit.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self { link: self.link.clone(), limit }
    }

    /// The cluster begins, with the node that this is connected to as its first.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Deadline`], or what ended the link; so for all below.
    pub async fn init(&self, replication_factor: u8, groups: u16) -> Result<(), ClientError> {
        self.done(ClusterRequest::Init { replication_factor, groups }).await
    }

    /// Lets a node in. What it says of itself, [`Admin::node_report`] tells, asked of that node.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn join(&self, token: &JoinToken, node: NodeId, registration: Registration) -> Result<(), ClientError> {
        self.done(ClusterRequest::Join { token: token.id, digest: token.digest(), node, registration }).await
    }

    /// One node more may join, with this token and until the time that is returned. Its secret is not sent.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn create_token(&self, token: &JoinToken, ttl: Option<Millis>) -> Result<Timestamp, ClientError> {
        match self.ask(ClusterRequest::CreateToken { token: token.id, digest: token.digest(), ttl }).await? {
            Reply::TokenCreated { expires } => Ok(expires),
            _ => Err(ClientError::UnexpectedReply { expected: "TokenCreated" }),
        }
    }

    /// Nobody may join with it any more.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn revoke_token(&self, token: TokenId) -> Result<(), ClientError> {
        self.done(ClusterRequest::RevokeToken(token)).await
    }

    /// All tokens that are known, the used and expired ones too.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn tokens(&self) -> Result<Vec<TokenDescription>, ClientError> {
        expect!(self.ask(ClusterRequest::ListTokens), Tokens)
    }

    /// Empty a node.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn drain(&self, node: NodeId) -> Result<(), ClientError> {
        self.done(ClusterRequest::Drain(node)).await
    }

    /// Use it again.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn undrain(&self, node: NodeId) -> Result<(), ClientError> {
        self.done(ClusterRequest::Undrain(node)).await
    }

    /// A node that is empty leaves for good.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn remove(&self, node: NodeId) -> Result<(), ClientError> {
        self.done(ClusterRequest::Remove(node)).await
    }

    /// How many copies of each group there should be.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn set_replication_factor(&self, replication_factor: u8) -> Result<(), ClientError> {
        self.done(ClusterRequest::SetReplicationFactor(replication_factor)).await
    }

    /// Without a value, the default holds again.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn set_setting(&self, key: &str, value: Option<SettingValue>) -> Result<(), ClientError> {
        self.done(ClusterRequest::SetSetting { key: SmolStr::new(key), value }).await
    }

    /// The cluster's settings, by key.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn settings(&self) -> Result<Vec<SettingDescription>, ClientError> {
        expect!(self.ask(ClusterRequest::ListSettings), Settings)
    }

    /// Everything about the cluster, as far as nodes answer.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn report(&self) -> Result<Box<ClusterReport>, ClientError> {
        expect!(self.ask(ClusterRequest::Report), Cluster)
    }

    /// What a node knows of itself; one that is connected, if none is named.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn node_report(&self, node: Option<NodeId>) -> Result<Box<NodeReport>, ClientError> {
        expect!(self.ask(ClusterRequest::ReportNode(node)), Node)
    }

    /// What is to be moved, and what cannot be.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn plan(&self) -> Result<Plan, ClientError> {
        expect!(self.ask(ClusterRequest::Plan), Plan)
    }

    /// Do what the plan says. Returns when that has begun, with what is to be done.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn rebalance(&self) -> Result<Plan, ClientError> {
        expect!(self.ask(ClusterRequest::Rebalance), Plan)
    }

    /// Hand a group's leadership to another node; to the best one, if none is named.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn transfer_leader(&self, group: GroupId, to: Option<NodeId>) -> Result<(), ClientError> {
        self.done(ClusterRequest::TransferLeader { group, to }).await
    }

    /// Checksums of a group's copies.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn verify(&self, group: GroupId) -> Result<Vec<ReplicaDigest>, ClientError> {
        expect!(self.ask(ClusterRequest::Verify(group)), Digests)
    }

    async fn ask(&self, request: ClusterRequest) -> Result<Reply, ClientError> {
        Ok(self.link.request_within(Request::Cluster(request), self.limit).await?.0)
    }

    async fn done(&self, request: ClusterRequest) -> Result<(), ClientError> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::UnexpectedReply { expected: "Done" }),
        }
    }
}
