//! The nodes: real ones, with certificates of one authority, each on a host of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coda_broker::clock::{Clock, SystemClock};
use coda_broker::config::Medium;
use coda_broker::identity::{Authority, IdentityFiles, Lifetime};
use coda_broker::node::{Certificates, Node, NodeConfig, Peering};
use coda_client::{Admin, Client, ClientError, ConnectOptions};
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::{NodeId, SessionId};
use coda_protocol::join::JoinToken;
use coda_protocol::operate::{GroupReport, Health};
use coda_raft_store::group::Group;
use coda_raft_store::sim::{Faults, SimApplied, SimCounts, SimDisk};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::world::{HostId, World};

const CLIENT_PORT: u16 = 4747;
const PEER_PORT: u16 = 4748;
const LIFETIME_DAYS: u32 = 30;
/// One question of the operator's.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A service manager waits so long.
const START_AGAIN_AFTER: Duration = Duration::from_millis(300);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// All nodes, by their ids, which begin with 1.
pub struct Cluster {
    seats: Vec<Seat>,
    ca: Vec<u8>,
}

/// A node's host, and what runs on it.
struct Seat {
    host: HostId,
    disk: SimDisk,
    config: NodeConfig,
    state: Arc<Mutex<State>>,
    /// Dropped, it asks the node to stop.
    stop: Option<oneshot::Sender<()>>,
    /// It should run.
    wanted: bool,
    /// What it had in memory is gone, since anybody asked.
    went_down: bool,
    /// Why it ended, if it should not have.
    why: Option<String>,
    /// How often its disk had refused something when it started.
    refused: u64,
    /// Not before, after it ended by itself.
    again_at: Duration,
}

#[derive(Default)]
struct State {
    node: Option<Arc<Node>>,
    /// How the process ended, if by itself.
    ended: Option<String>,
}

impl Cluster {
    /// So many nodes, which run, and are in no cluster yet.
    ///
    /// # Panics
    /// When certificates cannot be made.
    #[must_use]
    pub fn new(world: &mut World, nodes: u8, dir: &Path) -> Self {
        // Older than the simulation: clocks may be behind.
        let lifetime = Lifetime::days(SystemClock.now(), LIFETIME_DAYS).expect("days");
        let authority = Authority::found(&"shop".parse().expect("a name"), lifetime).expect("an authority");
        let mut cluster = Self { seats: Vec::new(), ca: Vec::new() };
        for number in 1..=nodes {
            cluster.add(world, number, &authority, lifetime, dir);
        }
        cluster
    }

    fn add(&mut self, world: &mut World, number: u8, authority: &Authority, lifetime: Lifetime, dir: &Path) {
        let host = world.add("node", number);
        let certs = dir.join(format!("node-{number}"));
        let issued = authority.node(NodeId(number.into()), &[], lifetime).expect("a certificate");
        issued.save(&certs, "node", false).expect("saved");
        let [ca, cert, key] = ["ca.pem", "node.pem", "node.key"].map(|name| certs.join(name));
        if self.ca.is_empty() {
            self.ca = std::fs::read(&ca).expect("just written");
        }
        let ip = world.ip(host);
        let disk = SimDisk::new(world.seed() ^ u64::from(number) << 32);
        let data: PathBuf = dir.join(format!("data-{number}"));
        let config = NodeConfig {
            node: NodeId(number.into()),
            peering: Some(Peering { listen: SocketAddr::new(ip, PEER_PORT), advertise: None }),
            zone: format!("zone-{number}").into(),
            certificates: Certificates::Files(IdentityFiles { ca, cert, key }),
            network: Arc::new(world.nic(host)),
            medium: Medium::Sim(disk.clone()),
            ..NodeConfig::alone(data, SocketAddr::new(ip, CLIENT_PORT))
        };
        let mut seat = Seat {
            host,
            disk,
            config,
            state: Arc::default(),
            stop: None,
            wanted: true,
            went_down: false,
            why: None,
            refused: 0,
            again_at: Duration::ZERO,
        };
        seat.start(world);
        self.seats.push(seat);
    }

    #[must_use]
    pub fn count(&self) -> u8 {
        self.seats.len() as u8
    }

    fn seat(&mut self, node: u8) -> &mut Seat {
        &mut self.seats[usize::from(node) - 1]
    }

    #[must_use]
    pub fn host(&self, node: u8) -> HostId {
        self.seats[usize::from(node) - 1].host
    }

    /// How a program on this host reaches the cluster.
    ///
    /// # Panics
    /// Never: addresses are addresses.
    #[must_use]
    pub fn options(&self, world: &World, host: HostId, nodes: &[u8]) -> ConnectOptions {
        let address = |node: &u8| self.seats[usize::from(*node) - 1].config.listen.to_string();
        let addresses: Vec<String> = nodes.iter().map(address).collect();
        let options = ConnectOptions::new(&addresses.join(","), self.ca.clone()).expect("addresses");
        ConnectOptions { network: Arc::new(world.nic(host)), ..options }
    }

    /// The power of a node's machine fails.
    pub fn power_cut(&mut self, world: &mut World, node: u8) {
        self.seat(node).disk.crash();
        self.down(world, node);
    }

    /// A node's process is killed.
    pub fn kill(&mut self, world: &mut World, node: u8) {
        self.seat(node).disk.kill();
        self.down(world, node);
    }

    fn down(&mut self, world: &mut World, node: u8) {
        let seat = self.seat(node);
        world.kill(seat.host);
        *seat.state.lock() = State::default();
        seat.stop = None;
        seat.wanted = false;
        seat.went_down = true;
    }

    /// A node is to run from now on.
    pub fn go(&mut self, world: &mut World, node: u8) {
        let seat = self.seat(node);
        seat.wanted = true;
        if seat.stop.is_none() && !seat.is_stopping(world) {
            seat.start(world);
        }
    }

    /// Asks a node to stop, as an operator does.
    pub fn stop(&mut self, node: u8) {
        let seat = self.seat(node);
        seat.stop = None;
        seat.wanted = false;
    }

    /// Starts what has ended and is wanted. Which nodes have lost what was in their memory since the last time, and why, if
    /// nobody wanted it and no disk is to blame.
    pub fn look_after(&mut self, world: &mut World) -> Vec<(u8, Option<String>)> {
        let mut lost = Vec::new();
        for (at, seat) in self.seats.iter_mut().enumerate() {
            let ended = seat.state.lock().ended.take();
            if let Some(why) = ended {
                let node = at + 1;
                world.trace.event(world.now(), format_args!("node {node} has ended: {why}"));
                seat.why = (seat.stop.is_some() && !seat.disk_was_bad()).then_some(why);
                seat.disk.kill();
                world.kill(seat.host);
                seat.stop = None;
                seat.went_down = true;
                seat.again_at = world.now() + START_AGAIN_AFTER;
            }
            if seat.wanted && !world.host(seat.host).is_up() && world.now() >= seat.again_at {
                seat.start(world);
            }
            if std::mem::take(&mut seat.went_down) {
                lost.push((at as u8 + 1, seat.why.take()));
            }
        }
        lost
    }

    /// How a node's disk is from now on.
    pub fn change_disk(&self, node: u8, change: impl FnOnce(&mut Faults)) {
        self.seats[usize::from(node) - 1].disk.change(change);
    }

    /// The entries that a node has applied since this was last asked.
    #[must_use]
    pub fn applied(&self, node: u8) -> Vec<SimApplied> {
        self.seats[usize::from(node) - 1].disk.applied()
    }

    /// What has happened to all disks.
    #[must_use]
    pub fn disks(&self) -> SimCounts {
        let mut all = SimCounts::default();
        for counts in self.seats.iter().map(|seat| seat.disk.counts()) {
            all.opened += counts.opened;
            all.syncs += counts.syncs;
            all.refused += counts.refused;
            all.logged_lost += counts.logged_lost;
            all.unflushed_lost += counts.unflushed_lost;
            all.files_lost += counts.files_lost;
            all.installed += counts.installed;
        }
        all
    }

    /// The copies of groups on a node, if it runs.
    #[must_use]
    pub fn copies(&self, node: u8) -> Vec<Group> {
        let state = self.seats[usize::from(node) - 1].state.lock();
        state.node.as_ref().map(|node| node.copies()).unwrap_or_default()
    }
}

impl Seat {
    /// It was asked to stop, and has not yet.
    fn is_stopping(&self, world: &mut World) -> bool {
        self.stop.is_none() && world.host(self.host).is_up()
    }

    /// Since it started, or now.
    fn disk_was_bad(&self) -> bool {
        let Faults { hangs, fails, room, .. } = self.disk.faults();
        hangs || fails || room.is_some() || self.disk.counts().refused > self.refused
    }

    fn start(&mut self, world: &mut World) {
        if !world.host(self.host).is_up() {
            world.host(self.host).boot();
        }
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        self.refused = self.disk.counts().refused;
        *self.state.lock() = State::default();
        world.host(self.host).spawn(live(self.config.clone(), self.state.clone(), stopped));
    }
}

/// A node's process from its start to its end.
async fn live(config: NodeConfig, state: Arc<Mutex<State>>, stopped: oneshot::Receiver<()>) {
    let node = match Node::start(config).await {
        Ok(node) => Arc::new(node),
        Err(error) => {
            state.lock().ended = Some(error.code().into());
            return;
        }
    };
    state.lock().node = Some(node.clone());
    let why = tokio::select! {
        why = node.failed() => why,
        _ = stopped => "it was asked to".into(),
    };
    state.lock().node = None;
    // Nobody else holds it but between ticks.
    if let Ok(node) = Arc::try_unwrap(node) {
        node.shutdown().await;
    }
    state.lock().ended = Some(why);
}

/// What an operator does to make them one cluster: the first begins it, the others join, and everything finds its place.
///
/// # Errors
/// What the operator was told.
pub async fn form(
    first: ConnectOptions,
    others: Vec<ConnectOptions>,
    replication_factor: u8,
    groups: u16,
) -> Result<(), ClientError> {
    let outside = |options: ConnectOptions| ConnectOptions { outside: true, session: SessionId::random(), ..options };
    let client = Client::connect(outside(first)).await?;
    let admin = Admin::new(client.link().clone(), ANSWER_WITHIN);
    admin.init(replication_factor, groups).await?;
    for options in others {
        let its_own = Client::connect(outside(options)).await?;
        let report = Admin::new(its_own.link().clone(), ANSWER_WITHIN).node_report(None).await?;
        its_own.close().await;
        let token = JoinToken::random();
        admin.create_token(&token, None).await?;
        admin.join(&token, report.node, report.registration).await?;
    }
    calm(&admin, &Mutex::default()).await;
    client.close().await;
    Ok(())
}

/// Until nothing is wrong, and all leaders are where they should be; what is wrong meanwhile.
pub async fn calm(admin: &Admin, wrong: &Mutex<String>) {
    loop {
        match admin.report().await {
            Ok(report) => {
                // What was asked for during the trouble may be done after what was to undo it.
                let draining = report.members.iter().filter(|member| member.member.state == NodeState::Draining);
                for member in draining {
                    drop(admin.undrain(member.member.node).await);
                }
                let elsewhere = |group: &&GroupReport| group.leader != group.preferred;
                let elsewhere = report.groups.iter().find(elsewhere);
                match (report.health(), elsewhere) {
                    (Health::Healthy, None) => return,
                    (Health::Healthy, Some(group)) => *wrong.lock() = format!("{group:?}"),
                    (health, _) => *wrong.lock() = format!("{health:?}"),
                }
            }
            Err(error) => *wrong.lock() = error.to_string(),
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
}
