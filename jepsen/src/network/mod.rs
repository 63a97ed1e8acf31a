//! A network namespace for each node, and one hub that all of them hang on. Whoever is no node, clients and workers
//! and the suite, is outside: in the namespace of the suite's own [`world`](crate::world).

mod hub;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::thread;

use anyhow::{Context, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::world::run;

use hub::Hub;
pub use hub::{Count, Rule};

/// The last part of the address of everybody who is no node.
const OUTSIDE: u8 = 254;
const NODES_MAX: u64 = 99;
/// For tests of networks (RFC 2544). Nothing of it leaves the world.
const NETWORK: [u8; 3] = [198, 18, 0];
const DEVICE: &str = "eth0";

/// One end of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    Node(u64),
    /// Clients, workers, and the suite.
    Outside,
}

impl Host {
    pub fn address(self) -> Ipv4Addr {
        let [a, b, c] = NETWORK;
        Ipv4Addr::new(a, b, c, self.number())
    }

    /// The address of its device, by which the hub knows it.
    fn hardware(self) -> [u8; 6] {
        [2, 0, 0, 0, 0, self.number()]
    }

    fn number(self) -> u8 {
        match self {
            Self::Node(node) => u8::try_from(node).unwrap_or(u8::MAX),
            Self::Outside => OUTSIDE,
        }
    }
}

pub struct Network {
    hub: Hub,
}

impl Network {
    pub fn open(seed: u64) -> anyhow::Result<Self> {
        let hub = Hub::start(seed)?;
        let tap = tap().context("a tap cannot be made")?;
        hub.plug(Host::Outside, tap)?;
        set_up(Host::Outside, &[])?;
        Ok(Self { hub })
    }

    /// Gives a node its namespace.
    pub fn add(&mut self, node: u64) -> anyhow::Result<()> {
        ensure!(node <= NODES_MAX, "node {node} is too many for one network");
        let namespace = namespace(node);
        run("ip", &["netns", "add", &namespace])?;
        run("ip", &["-n", &namespace, "link", "set", "lo", "up"])?;
        let tap = in_namespace(&namespace, tap)?.join().map_err(|_| anyhow!("making a tap has panicked"))??;
        self.hub.plug(Host::Node(node), tap)?;
        set_up(Host::Node(node), &["-n", &namespace])
    }

    /// What is done to frames of a link, one way, from now on.
    pub fn change(&mut self, from: Host, to: Host, change: impl FnOnce(&mut Rule)) {
        let mut rule = self.hub.rule(from, to);
        change(&mut rule);
        self.hub.set(from, to, rule);
    }

    /// What was done to frames so far.
    pub fn count(&self) -> Count {
        self.hub.count()
    }

    pub fn count_of(&self, links: &[(Host, Host)]) -> Count {
        links.iter().fold(Count::default(), |all, (from, to)| all + self.hub.count_of(*from, *to))
    }
}

pub fn namespace(node: u64) -> String {
    format!("n{node}")
}

/// As a path, for programs that enter it.
pub fn namespace_path(node: u64) -> String {
    format!("/run/netns/{}", namespace(node))
}

/// Starts a thread in a namespace. What it opens is there.
pub fn in_namespace<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<thread::JoinHandle<anyhow::Result<T>>> {
    let path = format!("/run/netns/{namespace}");
    let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let thread = thread::Builder::new().name(namespace.to_owned()).spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {path}"))?;
        work()
    })?;
    Ok(thread)
}

/// A tap in the namespace of this thread. It is gone when it is dropped.
fn tap() -> anyhow::Result<SyncDevice> {
    Ok(DeviceBuilder::new().name(DEVICE).layer(Layer::L2).build_sync()?)
}

fn set_up(host: Host, there: &[&str]) -> anyhow::Result<()> {
    let hardware = host.hardware().map(|byte| format!("{byte:02x}")).join(":");
    let address = format!("{}/24", host.address());
    let ip = |command: &[&str]| run("ip", &[there, command].concat());
    ip(&["link", "set", DEVICE, "address", &hardware])?;
    ip(&["address", "add", &address, "dev", DEVICE])?;
    ip(&["link", "set", DEVICE, "up"])
}
