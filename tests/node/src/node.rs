//! A node in a temporary folder, which can be stopped and started again at the same address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coda_broker::node::{Node, NodeConfig, StartError};
use coda_client::{Client, ConnectOptions, Worker, WorkerBuilder};
use tempfile::TempDir;

use crate::clock::TestClock;
use crate::raw::Raw;
use crate::{logs, soon};

pub struct TestNode {
    pub dir: TempDir,
    pub clock: Arc<TestClock>,
    pub address: SocketAddr,
    sync_delay: Duration,
    groups: u16,
    node: Option<Node>,
}

impl TestNode {
    pub async fn start() -> Self {
        Self::start_slow(Duration::ZERO).await
    }

    /// On a disk whose syncs take this much longer: what arrives meanwhile waits for the proposer.
    pub async fn start_slow(sync_delay: Duration) -> Self {
        Self::start_as(sync_delay, 1).await
    }

    /// With so many groups, all of which it leads.
    pub async fn start_groups(groups: u16) -> Self {
        Self::start_as(Duration::ZERO, groups).await
    }

    async fn start_as(sync_delay: Duration, groups: u16) -> Self {
        logs::collect();
        let dir = tempfile::tempdir().expect("a folder");
        let address = "127.0.0.1:0".parse().expect("constant");
        let mut one = Self { dir, clock: TestClock::new(), address, sync_delay, groups, node: None };
        one.go().await;
        one
    }

    /// Starts it again where it was.
    pub async fn go(&mut self) {
        let started = soon("the node starts", Node::start_with(self.config(), self.clock.clone())).await;
        let node = started.unwrap_or_else(|error| panic!("{}: {error}", error.code()));
        self.address = node.address();
        self.node = Some(node);
    }

    /// Stops it cleanly.
    pub async fn stop(&mut self) {
        let node = self.node.take().expect("a node that runs");
        soon("the node stops", node.shutdown()).await;
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.go().await;
    }

    #[must_use]
    pub fn config(&self) -> NodeConfig {
        let (sync_delay, groups) = (self.sync_delay.into(), self.groups);
        NodeConfig { sync_delay, groups, ..NodeConfig::alone(self.dir.path().into(), self.address) }
    }

    /// # Errors
    /// What another node in the same folder is told.
    pub async fn start_another(&self) -> Result<Node, StartError> {
        let mut config = self.config();
        config.listen.set_port(0);
        soon("an answer", Node::start(config)).await
    }

    #[must_use]
    pub fn node(&self) -> &Node {
        self.node.as_ref().expect("a node that runs")
    }

    #[must_use]
    pub fn ca(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("certs/ca.pem")).expect("the node has made it")
    }

    #[must_use]
    pub fn options(&self) -> ConnectOptions {
        ConnectOptions::new(&self.address.to_string(), self.ca()).expect("an address")
    }

    pub async fn client(&self) -> Client {
        soon("a client connects", Client::connect(self.options())).await.expect("connected")
    }

    pub fn worker(&self) -> WorkerBuilder {
        Worker::builder(self.options())
    }

    /// A raw connection, not greeted yet.
    pub async fn raw(&self) -> Raw {
        Raw::connect(self.address, &self.ca()).await
    }
}
