//! A cluster of processes: certificates, settings, `coda serve`, and what is done to it by signals and on its disks.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use coda_broker::clock::{Clock, SystemClock};
use coda_broker::identity::{Authority, Lifetime};
use coda_client::ConnectOptions;
use coda_protocol::ids::NodeId;
use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;

use crate::args::RunArgs;
use crate::clock::{self, FakeClock};
use crate::disk::Disk;
use crate::network::{Host, Network, namespace_path};
use crate::process::Process;
use crate::world::{self, is_inside};

/// A node that starts reads its log; a killed one has to wait for nothing.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// A clean stop hands over and flushes.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
const CERTIFICATES_DAYS: u32 = 2;
/// Below the ports that the system gives away: a node comes back to its own.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// In namespaces every node can have the same.
const CLIENT_PORT: u16 = 4_747;
const PEER_PORT: u16 = 4_748;

pub struct Cluster {
    coda: PathBuf,
    out: PathBuf,
    log_level: String,
    authority: Authority,
    ca: PathBuf,
    nodes: BTreeMap<u64, Member>,
    network: Option<Network>,
    /// The library by which each node sees a time of day of its own, if clocks can be wrong.
    fake_clocks: Option<PathBuf>,
    ports: StdRng,
}

struct Member {
    folder: PathBuf,
    client: SocketAddr,
    disk: Option<Disk>,
    /// The time of day that it sees, if that can be wrong.
    clock: Option<FakeClock>,
    process: Option<Process>,
}

impl Cluster {
    /// No nodes, and certificates for any.
    pub fn empty(args: &RunArgs, mut ports: StdRng) -> anyhow::Result<Self> {
        let coda = match &args.common.coda {
            Some(coda) => coda.canonicalize().with_context(|| format!("there is no {}", coda.display()))?,
            None => std::env::current_exe()?.with_file_name("coda"),
        };
        let lifetime = Lifetime::days(SystemClock.now(), CERTIFICATES_DAYS)?;
        let authority = Authority::found(&"jepsen".parse()?, lifetime)?;
        let out = args.common.out.canonicalize()?;
        authority.save(&out.join("ca"), false)?;
        let network = if is_inside() && !args.plain { Some(Network::open(ports.random())?) } else { None };
        let fake_clocks = if args.wants_fake_clocks() { Some(clock::build(&out)?) } else { None };
        Ok(Self {
            coda,
            ca: out.join("ca/ca.pem"),
            out,
            log_level: args.log_level.clone(),
            authority,
            nodes: BTreeMap::new(),
            network,
            fake_clocks,
            ports,
        })
    }

    /// Starts a node that is in no cluster yet.
    pub async fn add(&mut self, node: u64) -> anyhow::Result<()> {
        let (client, peer) = match &mut self.network {
            Some(network) => {
                network.add(node)?;
                let address = Host::Node(node).address();
                (SocketAddr::from((address, CLIENT_PORT)), SocketAddr::from((address, PEER_PORT)))
            }
            None => (free_address(&mut self.ports)?, free_address(&mut self.ports)?),
        };
        let folder = self.out.join(format!("node-{node}"));
        let lifetime = Lifetime::days(SystemClock.now(), CERTIFICATES_DAYS)?;
        self.authority.node(NodeId(node), &[], lifetime)?.save(&folder.join("certs"), "node", false)?;
        let settings = format!(
            "[node]\nid = {node}\ndata_dir = \"data\"\nzone = \"zone-{node}\"\n\n\
             [listen]\nclient = \"{client}\"\npeer = \"{peer}\"\n\n\
             [tls]\nca = \"certs/ca.pem\"\ncert = \"certs/node.pem\"\nkey = \"certs/node.key\"\n\n\
             [log]\nlevel = \"{}\"\n",
            self.log_level
        );
        fs::write(folder.join("node.toml"), settings)?;
        let clock = self.fake_clocks.as_ref().map(|library| FakeClock::make(library, &folder)).transpose()?;
        let disk = if self.network.is_some() { Some(Disk::make(&folder)?) } else { None };
        self.nodes.insert(node, Member { folder, client, disk, clock, process: None });
        self.start(node).await
    }

    /// Starts a node that was there before.
    pub async fn start(&mut self, node: u64) -> anyhow::Result<()> {
        self.start_all(&[node]).await
    }

    /// Starts nodes at once: none may be ready before others are there.
    pub async fn start_all(&mut self, nodes: &[u64]) -> anyhow::Result<()> {
        for node in nodes {
            self.spawn(*node)?;
        }
        for node in nodes {
            self.until_ready(*node).await?;
        }
        Ok(())
    }

    fn spawn(&mut self, node: u64) -> anyhow::Result<()> {
        let mut command = match &self.network {
            // A namespace of mounts of its own it must not get: `ip netns exec` gives it one, in which disks stay that were
            // taken away.
            Some(_) => {
                let mut command = world::command("nsenter");
                command.arg(format!("--net={}", namespace_path(node))).arg(&self.coda);
                command
            }
            None => world::command(&self.coda),
        };
        let member = self.nodes.get_mut(&node).with_context(|| format!("there is no node {node}"))?;
        command.args(["serve", "--config"]).arg(member.folder.join("node.toml")).env("NO_COLOR", "1");
        command.envs(member.clock.iter().flat_map(FakeClock::environment));
        member.process = Some(Process::spawn("node", command, &member.folder)?);
        Ok(())
    }

    async fn until_ready(&mut self, node: u64) -> anyhow::Result<()> {
        let member = self.nodes.get_mut(&node).with_context(|| format!("there is no node {node}"))?;
        let process = member.process.as_mut().with_context(|| format!("node {node} does not run"))?;
        let ready = process.until_it_says("coda is ready on ", STARTS_WITHIN).await;
        ready.with_context(|| format!("node {node} does not start: see {}", member.folder.join("node.err").display()))
    }

    /// kill -9.
    pub async fn kill(&mut self, node: u64) -> anyhow::Result<()> {
        self.take(node)?.kill().await
    }

    /// SIGTERM, and waits for the end. The error says how it was not clean.
    pub async fn stop(&mut self, node: u64) -> anyhow::Result<()> {
        let mut process = self.take(node)?;
        process.signal(Signal::TERM)?;
        let status = process.ended(STOPS_WITHIN).await?;
        // A stop that was asked for by SIGTERM ends as such a stop.
        if status.success() || status.code() == Some(128 + Signal::TERM.as_raw()) {
            return Ok(());
        }
        Err(anyhow!("{status}"))
    }

    pub fn signal(&self, node: u64, signal: Signal) -> anyhow::Result<()> {
        self.process(node)?.signal(signal)
    }

    pub fn process(&self, node: u64) -> anyhow::Result<&Process> {
        self.member(node)?.process.as_ref().with_context(|| format!("node {node} does not run"))
    }

    pub fn disk(&self, node: u64) -> anyhow::Result<&Disk> {
        self.member(node)?.disk.as_ref().context("the nodes have no disks of their own")
    }

    pub fn clock(&self, node: u64) -> anyhow::Result<&FakeClock> {
        self.member(node)?.clock.as_ref().context("the nodes see the system's clock")
    }

    /// Ends what still runs of a node that is lost.
    pub async fn forget(&mut self, node: u64) {
        if let Ok(process) = self.take(node) {
            drop(process.kill().await);
        }
    }

    /// Whether the node's process has ended by itself, though it should run.
    pub fn has_fallen(&mut self, node: u64) -> bool {
        self.nodes.get_mut(&node).and_then(|member| member.process.as_mut()).is_some_and(Process::is_over)
    }

    pub fn network(&mut self) -> anyhow::Result<&mut Network> {
        self.network.as_mut().context("the nodes have no namespaces")
    }

    pub fn running(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, member)| member.process.is_some()).map(|(node, _)| *node).collect()
    }

    /// All that there ever were.
    pub fn nodes(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// Nodes whose process has ended without having been told to.
    pub fn fallen(&mut self) -> Vec<u64> {
        let running = self.nodes.iter_mut().filter_map(|(node, member)| Some((*node, member.process.as_mut()?)));
        running.filter_map(|(node, process)| process.is_over().then_some(node)).collect()
    }

    /// Ends whatever runs, cleanly as far as it can. Which did not.
    pub async fn stop_all(&mut self) -> Vec<String> {
        let mut unclean = Vec::new();
        for node in self.running() {
            if let Err(error) = self.stop(node).await {
                unclean.push(format!("node {node} did not stop cleanly: {error:#}"));
            }
        }
        unclean
    }

    /// How to reach these nodes to begin with.
    pub fn options(&self, nodes: &[u64]) -> anyhow::Result<ConnectOptions> {
        let addresses: Vec<String> =
            nodes.iter().map(|node| Ok(self.member(*node)?.client.to_string())).collect::<anyhow::Result<_>>()?;
        let ca = fs::read(&self.ca)?;
        Ok(ConnectOptions::new(&addresses.join(","), ca)?)
    }

    /// The same in the environment of a program.
    pub fn environment(&self) -> anyhow::Result<[(&'static str, String); 2]> {
        let addresses = self.options(&self.running())?.addresses.join(",");
        Ok([("CODA_ADDRESS", addresses), ("CODA_CA", self.ca.display().to_string())])
    }

    /// Takes away what disks were made, with all that is on them.
    pub async fn remove_disks(&self) {
        for disk in self.nodes.values().filter_map(|member| member.disk.as_ref()) {
            disk.remove().await;
        }
    }

    pub fn folder(&self, node: u64) -> anyhow::Result<&Path> {
        Ok(&self.member(node)?.folder)
    }

    /// Where each node that ever was keeps its log and its data.
    pub fn folders(&self) -> impl Iterator<Item = (u64, &Path)> {
        self.nodes.iter().map(|(node, member)| (*node, member.folder.as_path()))
    }

    fn member(&self, node: u64) -> anyhow::Result<&Member> {
        self.nodes.get(&node).with_context(|| format!("there is no node {node}"))
    }

    fn take(&mut self, node: u64) -> anyhow::Result<Process> {
        let member = self.nodes.get_mut(&node).with_context(|| format!("there is no node {node}"))?;
        member.process.take().with_context(|| format!("node {node} does not run"))
    }
}

fn free_address(ports: &mut StdRng) -> anyhow::Result<SocketAddr> {
    for _ in 0..100 {
        let address = SocketAddr::from(([127, 0, 0, 1], ports.random_range(PORTS)));
        if UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(anyhow!("no free port was found"))
}
