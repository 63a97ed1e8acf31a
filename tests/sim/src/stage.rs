//! One run's cluster with everybody around it: nodes, workers, clients, an operator.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use coda_client::{Admin, ConnectOptions};
use coda_protocol::ids::SessionId;
use coda_raft_store::group::Group;
use coda_raft_store::sim::Faults;

use crate::book::Book;
use crate::check::Watch;
use crate::cluster::Cluster;
use crate::faults;
use crate::host::Host;
use crate::plan::Plan;
use crate::readers::{read, read_of_one};
use crate::trace::Trace;
use crate::workload::{Starter, work};
use crate::world::{HostId, World};

/// Numbers of one client's work; the next client's begin behind them.
const NUMBERS_PER_CLIENT: u64 = 10_000;

pub struct Stage {
    pub plan: Plan,
    pub world: World,
    pub cluster: Cluster,
    pub book: Book,
    pub operator: HostId,
    workers: Vec<HostId>,
    clients: Vec<HostId>,
    stop: Arc<AtomicBool>,
}

impl Stage {
    /// All machines, the nodes running and everybody else waiting.
    #[must_use]
    pub fn new(plan: Plan, dir: &Path, trace: Trace) -> Self {
        let mut world = World::new(plan.seed, trace.clone());
        let cluster = Cluster::new(&mut world, plan.nodes, dir);
        let operator = world.add("operator", 1);
        let workers = (1..=plan.workers).map(|number| world.add("worker", number)).collect();
        let clients = (1..=plan.clients).map(|number| world.add("client", number)).collect();
        let book = Book::new(trace);
        Self { plan, world, cluster, book, operator, workers, clients, stop: Arc::default() }
    }

    #[must_use]
    pub fn options(&self, host: HostId) -> ConnectOptions {
        let nodes: Vec<u8> = (1..=self.plan.nodes).collect();
        self.cluster.options(&self.world, host, &nodes)
    }

    /// Workers serve, and clients begin work.
    pub fn begin(&mut self) {
        (1..=self.plan.nodes).for_each(|node| self.set_disk(node));
        for worker in 1..=self.plan.workers {
            self.start_worker(worker);
        }
        for (at, host) in self.clients.clone().into_iter().enumerate() {
            let starter = Starter {
                options: self.options(host),
                first: at as u64 * NUMBERS_PER_CLIENT,
                load: self.plan.load,
                seed: self.plan.seed ^ (at as u64 + 1),
                book: self.book.clone(),
                stop: self.stop.clone(),
            };
            self.world.host(host).spawn(starter.run());
            let options = ConnectOptions { session: SessionId::random(), ..self.options(host) };
            self.world.host(host).spawn(read(options, !self.plan.seed ^ at as u64, self.book.clone()));
        }
        (1..=self.plan.nodes).for_each(|node| self.read_of(node));
    }

    /// Whoever reaches this node alone reads what it leads, and what it only believes to lead.
    fn read_of(&mut self, node: u8) {
        let host = self.clients[usize::from(node) % self.clients.len()];
        let nic = self.world.nic(host).only_to(self.node_ip(node));
        let options = ConnectOptions { network: Arc::new(nic), ..self.cluster.options(&self.world, host, &[node]) };
        let options = ConnectOptions { session: SessionId::random(), ..options };
        let (groups, seed) = (u32::from(self.plan.groups), !self.plan.seed ^ u64::from(node) << 32);
        self.world.host(host).spawn(read_of_one(options, groups, seed, self.book.clone()));
    }

    /// Clients begin nothing more.
    pub fn finish(&self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    pub fn start_worker(&mut self, worker: u8) {
        let id = self.workers[usize::from(worker) - 1];
        if self.world.host(id).is_up() && self.world.host(id).has_begun() {
            return;
        }
        let work = work(self.options(id), self.plan.slots, self.plan.parks, self.book.clone());
        let host = self.world.host(id);
        if !host.is_up() {
            host.boot();
        }
        host.spawn(work);
    }

    pub fn kill_worker(&mut self, worker: u8) {
        let id = self.workers[usize::from(worker) - 1];
        self.world.kill(id);
    }

    pub fn worker_host(&mut self, worker: u8) -> &mut Host {
        self.world.host(self.workers[usize::from(worker) - 1])
    }

    pub fn node_host(&mut self, node: u8) -> &mut Host {
        self.world.host(self.cluster.host(node))
    }

    pub fn power_cut(&mut self, node: u8) {
        self.cluster.power_cut(&mut self.world, node);
    }

    pub fn kill(&mut self, node: u8) {
        self.cluster.kill(&mut self.world, node);
    }

    /// The node runs, or is started.
    pub fn go(&mut self, node: u8) {
        self.cluster.go(&mut self.world, node);
    }

    /// All copies on a node write their state down.
    pub fn checkpoint(&mut self, node: u8) {
        let copies = self.cluster.copies(node);
        self.node_host(node).within(|| copies.iter().for_each(Group::checkpoint));
    }

    /// A node's disk is as good as the plan says.
    fn set_disk(&self, node: u8) {
        let flushed_every = self.plan.flushed_every;
        self.cluster.change_disk(node, |disk| *disk = Faults { flushed_every, ..Faults::default() });
        self.set_sync_ms(node, self.plan.sync_ms);
    }

    /// A sync of a node's log takes between these.
    pub fn set_sync_ms(&self, node: u8, (min, max): (u64, u64)) {
        self.cluster.change_disk(node, |disk| {
            (disk.sync_min, disk.sync_max) = (Duration::from_millis(min), Duration::from_millis(max));
        });
    }

    /// Nodes whose process has ended and should not have are started again, as a service manager does.
    pub fn watch_nodes(&mut self, watch: &mut Watch) {
        for (node, why) in self.cluster.look_after(&mut self.world) {
            watch.look_anew(node);
            if let Some(why) = why {
                self.book.find(format!("nodes_stay_up: node {node} has ended by itself: {why}"));
            }
        }
    }

    /// Everything runs, and all clocks and disks are good.
    pub fn heal(&mut self) {
        for node in 1..=self.plan.nodes {
            self.set_disk(node);
            let host = self.node_host(node);
            host.resume();
            host.set_drift(0);
            host.set_wall_clock();
            self.go(node);
        }
        for worker in 1..=self.plan.workers {
            self.worker_host(worker).resume();
            self.start_worker(worker);
        }
    }

    #[must_use]
    pub fn node_ip(&self, node: u8) -> IpAddr {
        self.world.ip(self.cluster.host(node))
    }

    /// Of those who use the cluster.
    #[must_use]
    pub fn user_ips(&self) -> Vec<IpAddr> {
        self.workers.iter().chain(&self.clients).map(|host| self.world.ip(*host)).collect()
    }

    #[must_use]
    pub fn all_ips(&self) -> Vec<IpAddr> {
        (1..=self.plan.nodes).map(|node| self.node_ip(node)).chain(self.user_ips()).collect()
    }

    /// The operator does something, beside everything else.
    pub fn operate<F: Future<Output = ()> + Send + 'static>(&mut self, what: impl FnOnce(Admin) -> F + Send + 'static) {
        let options = self.options(self.operator);
        self.world.host(self.operator).spawn(faults::operate(options, what));
    }
}
