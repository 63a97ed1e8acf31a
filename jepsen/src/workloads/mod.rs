//! What clients and workers do while things go wrong. One file each, and one line in [`kinds`].

pub mod leases;
pub mod ledger;
pub mod memo;
pub mod order;
pub mod reads;
pub mod retries;
pub mod tasks;

use std::time::Duration;

use coda_client::ConnectOptions;
use coda_protocol::ids::SessionId;
use futures::future::LocalBoxFuture;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::args::RunArgs;
use crate::cluster::Cluster;
use crate::findings::Findings;
use crate::history::History;
use crate::operations::Operations;

/// A workload that can be asked for by its name.
pub struct Kind {
    pub name: &'static str,
    pub about: &'static str,
    /// What a worker in Python runs beside those in Rust.
    pub python: Option<&'static str>,
    pub start: for<'a> fn(Setting<'a>) -> Doing<'a, Box<dyn Workload>>,
}

pub type Doing<'a, T> = LocalBoxFuture<'a, anyhow::Result<T>>;

/// What a workload begins with.
pub struct Setting<'a> {
    pub args: &'a RunArgs,
    pub cluster: &'a Cluster,
    pub history: History,
    pub findings: Findings,
    /// Every operation goes in here when it ends.
    pub operations: Operations,
    pub chance: StdRng,
    /// The worker in Python, if there is one.
    pub python: Option<SessionId>,
}

/// A workload that goes on by itself, until it is told to be quiet.
pub trait Workload {
    /// Begins nothing more, and waits for what is under way. What has no end by then is a finding.
    fn quiet(&mut self, patience: Duration) -> Doing<'_, ()>;

    /// All is well and quiet: reads for the last time, as clients that were not there before, ends its clients and workers,
    /// and checks what everybody has seen. Its figures, for the report.
    fn finish(self: Box<Self>, options: ConnectOptions) -> Doing<'static, Value>;
}

pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    [&ledger::KIND, &memo::KIND, &tasks::KIND, &leases::KIND, &retries::KIND, &order::KIND, &reads::KIND].into_iter()
}

pub fn names() -> Vec<&'static str> {
    kinds().map(|kind| kind.name).collect()
}
