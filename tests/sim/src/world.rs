//! Everything there is: the network, all hosts, and the time that passes for them together.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::host::{Host, TICK};
use crate::net::{Net, Nic};
use crate::shims;
use crate::trace::Trace;

/// Which host; the order in which they get their turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub usize);

pub struct World {
    pub trace: Trace,
    pub net: Net,
    now: Duration,
    seed: u64,
    hosts: Vec<Host>,
    nics: Vec<Nic>,
}

/// It has not happened in time.
#[derive(Debug)]
pub struct TooLate;

impl World {
    /// An empty one. This thread lives in it from now on.
    #[must_use]
    pub fn new(seed: u64, trace: Trace) -> Self {
        shims::simulate(seed);
        let net = Net::new(seed ^ 0x6e65_7477_6f72_6b00, trace.clone());
        Self { trace, net, now: Duration::ZERO, seed, hosts: Vec::new(), nics: Vec::new() }
    }

    /// Since it began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// One more machine, which runs.
    pub fn add(&mut self, name: &'static str, number: u8) -> HostId {
        let id = HostId(self.hosts.len());
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, id.0 as u8, number));
        let seed = self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(id.0 as u64);
        let mut host = Host::new(name, number, ip, seed);
        host.boot();
        self.hosts.push(host);
        self.nics.push(Nic::new(self.net.clone(), ip));
        id
    }

    pub fn host(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[id.0]
    }

    #[must_use]
    pub fn nic(&self, id: HostId) -> Nic {
        self.nics[id.0].clone()
    }

    #[must_use]
    pub fn ip(&self, id: HostId) -> IpAddr {
        self.hosts[id.0].ip
    }

    /// A machine loses everything that is not on its disk.
    pub fn kill(&mut self, id: HostId) {
        self.net.unplug(self.hosts[id.0].ip);
        self.hosts[id.0].kill();
    }

    /// One tick passes for all.
    pub fn step(&mut self) {
        self.now += TICK;
        shims::set_now(self.now);
        self.net.advance(self.now);
        for host in &mut self.hosts {
            host.tick();
        }
    }

    /// Lets time pass.
    pub fn sleep(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Begins something on a host, which says what came of it, unless the host goes down meanwhile.
    pub fn begin<T: Send + 'static>(
        &mut self,
        id: HostId,
        what: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (tell, told) = oneshot::channel();
        self.hosts[id.0].spawn(async move { tell.send(what.await) });
        told
    }

    /// Does something on a host, and lets time pass until it is done.
    ///
    /// # Errors
    /// [`TooLate`], also when the host goes down meanwhile.
    pub fn wait<T: Send + 'static>(
        &mut self,
        id: HostId,
        within: Duration,
        what: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, TooLate> {
        let mut told = self.begin(id, what);
        let end = self.now + within;
        while self.now < end {
            self.step();
            match told.try_recv() {
                Ok(done) => return Ok(done),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Closed) => return Err(TooLate),
            }
        }
        Err(TooLate)
    }
}
