//! A network of this machine's own: a bridge, and each node in a namespace with a cable to it.
//!
//! A cut is made by giving a host's neighbour an address that nobody has: packets are sent and arrive nowhere, as on a
//! broken network, one direction at a time. No packet filter is needed, and the sender gets no error.
//! Everything is named after this process, and removed when the network is dropped; what a process has left behind that is
//! gone is removed by the next one.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use tracing::{info, warn};

/// Where namespaces are files.
const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "cj";
/// The last part of the address of everybody who is no node.
const OUTSIDE: u8 = 254;
const NODES_MAX: u64 = 99;
/// Nobody has it: locally administered, and no card of ours is given it.
const NOBODY: &str = "02:00:00:00:00:00";

/// One end of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Node(u64),
    /// Clients, workers, and the suite.
    Outside,
}

pub struct Network {
    owner: u32,
    nodes: BTreeSet<u64>,
    cuts: BTreeSet<(Host, Host)>,
}

impl Network {
    pub fn open() -> anyhow::Result<Self> {
        sweep();
        let network = Self { owner: std::process::id(), nodes: BTreeSet::new(), cuts: BTreeSet::new() };
        let bridge = network.bridge();
        ip(&["link", "add", "name", &bridge, "type", "bridge"]).context("a bridge cannot be made: is this root?")?;
        let address = format!("{}/24", network.address(Host::Outside));
        ip(&["address", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        Ok(network)
    }

    /// Gives a node its namespace.
    pub fn add(&mut self, node: u64) -> anyhow::Result<()> {
        ensure!(node <= NODES_MAX, "node {node} is too many for one network");
        let (namespace, cable, bridge) = (self.namespace(node), self.cable(node), self.bridge());
        self.nodes.insert(node);
        ip(&["netns", "add", &namespace])?;
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&["link", "set", &cable, "master", &bridge, "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        let address = format!("{}/24", self.address(Host::Node(node)));
        ip(&["-n", &namespace, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])
    }

    /// Each process has a subnet of its own, as far as there are enough.
    pub fn address(&self, host: Host) -> Ipv4Addr {
        let subnet = self.owner % (100 * 250);
        let last = match host {
            Host::Node(node) => node as u8,
            Host::Outside => OUTSIDE,
        };
        Ipv4Addr::new(10, 100 + (subnet / 250) as u8, (subnet % 250) as u8, last)
    }

    pub fn namespace(&self, node: u64) -> String {
        format!("{PREFIX}{}-{node}", self.owner)
    }

    /// From now on nothing that one sends arrives at the other.
    pub fn lose(&mut self, from: Host, to: Host) -> anyhow::Result<()> {
        if self.cuts.insert((from, to)) {
            let address = self.address(to).to_string();
            self.at(from, &["neighbour", "replace", &address, "lladdr", NOBODY, "nud", "permanent", "dev"])?;
        }
        Ok(())
    }

    /// Everything arrives again.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        for (from, to) in std::mem::take(&mut self.cuts) {
            let address = self.address(to).to_string();
            self.at(from, &["neighbour", "delete", &address, "dev"])?;
        }
        Ok(())
    }

    /// An `ip` command that ends in the host's device.
    fn at(&self, host: Host, command: &[&str]) -> anyhow::Result<()> {
        let (namespace, bridge) = match host {
            Host::Node(node) => (Some(self.namespace(node)), None),
            Host::Outside => (None, Some(self.bridge())),
        };
        let there = namespace.iter().flat_map(|namespace| ["-n", namespace.as_str()]);
        let device = bridge.as_deref().unwrap_or("eth0");
        let whole: Vec<&str> = there.chain(command.iter().copied()).chain([device]).collect();
        ip(&whole)
    }

    fn bridge(&self) -> String {
        format!("{PREFIX}{}", self.owner)
    }

    fn cable(&self, node: u64) -> String {
        format!("{PREFIX}{}n{node}", self.owner)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(self.owner);
    }
}

/// Removes what processes have left behind that are gone.
fn sweep() {
    let owner = |name: &str| name.strip_prefix(PREFIX)?.split(['-', 'n']).next()?.parse::<u32>().ok();
    let owners: BTreeSet<u32> =
        names(NAMESPACES).chain(names("/sys/class/net")).filter_map(|name| owner(&name)).collect();
    for owner in owners.into_iter().filter(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
        info!(owner, "removing the network of a process that is gone");
        remove(owner);
    }
}

/// A namespace takes its end of the cable with it, and that the other.
fn remove(owner: u32) {
    let namespaces = names(NAMESPACES).filter(|name| name.starts_with(&format!("{PREFIX}{owner}-")));
    for namespace in namespaces {
        removed(ip(&["netns", "delete", &namespace]));
    }
    // A cable whose namespace lives on in a process that does not end.
    let cables = names("/sys/class/net").filter(|name| name.starts_with(&format!("{PREFIX}{owner}n")));
    for cable in cables {
        drop(ip(&["link", "delete", &cable]));
    }
    if Path::new(&format!("/sys/class/net/{PREFIX}{owner}")).exists() {
        removed(ip(&["link", "delete", &format!("{PREFIX}{owner}")]));
    }
}

fn removed(done: anyhow::Result<()>) {
    if let Err(error) = done {
        warn!(%error, "a part of the network is left behind");
    }
}

fn names(folder: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

fn ip(command: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("ip").args(command).output().context("`ip` cannot be run: is iproute2 installed?")?;
    if !done.status.success() {
        bail!("`ip {}`: {}", command.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}
