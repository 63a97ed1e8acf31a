//! Keeps one connection to each node of the cluster: the first by the addresses that the program gave, the others by what
//! the first one says.

use std::collections::BTreeMap;
use std::sync::Arc;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::NodeId;
use tokio::sync::{RwLock, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

use super::road::Road;
use super::{Courier, Handler, News, State};
use crate::error::ClientError;
use crate::options::{ATTEMPT_TIMEOUT, GOODBYE_TIMEOUT, RECONNECT_MAX, RECONNECT_MIN, SEEDS_AGAIN_AFTER};
use crate::wire::{Broken, Dialer, Wire};

/// Delays between attempts.
pub(super) fn delays() -> ExponentialBackoff {
    let delays = ExponentialBuilder::default().with_min_delay(RECONNECT_MIN).with_max_delay(RECONNECT_MAX);
    delays.with_jitter().without_max_times().build()
}

/// The roads that there are, each a task of its own.
struct Roads<H: Handler> {
    courier: Arc<Courier<H>>,
    dialer: Arc<Dialer>,
    tasks: JoinSet<(NodeId, ClientError)>,
    nodes: BTreeMap<NodeId, Known>,
    /// Nobody knows which node a seed leads to before it answers, and a session's second connection to a node replaces
    /// its first: seeds are tried while no road is dialling.
    dialling: Arc<RwLock<()>>,
}

struct Known {
    addresses: watch::Sender<Vec<String>>,
    task: AbortHandle,
    /// The program's own address for it, which may lead there where the cluster's does not.
    seed: Option<String>,
    hopeless: bool,
}

impl<H: Handler> Courier<H> {
    pub(super) async fn run(self: Arc<Self>, seeds: Vec<String>, dialer: Arc<Dialer>) {
        let mut closing = self.closing.subscribe();
        let roads = Roads {
            courier: self.clone(),
            dialer: dialer.clone(),
            tasks: JoinSet::new(),
            nodes: BTreeMap::new(),
            dialling: Arc::default(),
        };
        let error = tokio::select! {
            error = roads.keep(seeds) => error,
            _ = closing.wait_for(|closing| *closing) => ClientError::Closed,
        };
        if error != ClientError::Closed {
            warn!(code = error.code(), %error, "link failed for good");
        }
        // Connections that were open have been closed by their `Goodbye`; let that leave.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, dialer.idle()).await;
        let tickets = {
            let mut flight = self.flight.lock();
            self.state.send_replace(State::Over(error.clone()));
            flight.take_all()
        };
        self.settled.notify_waiters();
        [&self.prompt, &self.waits, &self.kib].into_iter().for_each(Semaphore::close);
        let mut news: Vec<_> = tickets.into_iter().map(|ticket| News::failed(ticket, error.clone())).collect();
        news.push(News::Failed(error));
        self.handler.handle(&self, &mut news);
    }

    /// Says how it goes with connecting, while nothing is connected.
    pub(super) fn not_connected(&self, address: &str, reason: &dyn std::fmt::Display) {
        if self.flight.lock().routes.nodes_up() == 0 {
            self.state.send_replace(State::Connecting { last: format!("{address}: {reason}") });
        }
    }
}

impl<H: Handler> Roads<H> {
    /// Until no address will ever do.
    async fn keep(mut self, seeds: Vec<String>) -> ClientError {
        let mut seeds = Seeds::new(seeds);
        let mut map = self.courier.map.subscribe();
        loop {
            let alone = self.nodes.is_empty();
            let (courier, dialer, dialling) = (self.courier.clone(), self.dialer.clone(), self.dialling.clone());
            tokio::select! {
                changed = map.changed() => match changed {
                    Ok(()) => self.follow_map(),
                    Err(_) => return ClientError::Closed,
                },
                found = seeds.next(&courier, &dialer, &dialling, alone) => match found {
                    Ok((address, wire)) => self.adopt(address, wire),
                    Err(error) => return error,
                },
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    let Ok((node, error)) = ended else { continue };
                    if let Some(known) = self.nodes.get_mut(&node) {
                        known.hopeless = true;
                    }
                    if self.nodes.values().all(|known| known.hopeless) {
                        return error;
                    }
                    warn!(node = node.0, code = error.code(), %error, "a node will have nothing to do with this client");
                }
            }
        }
    }

    /// A seed has answered: its connection is that of its node from now on.
    fn adopt(&mut self, address: String, wire: Wire) {
        let node = wire.welcome.node;
        if let Some(known) = self.nodes.remove(&node) {
            known.task.abort();
        }
        self.open(node, vec![address.clone()], Some(address.clone()), Some((address, wire)));
        self.follow_map();
    }

    fn open(&mut self, node: NodeId, addresses: Vec<String>, seed: Option<String>, wire: Option<(String, Wire)>) {
        let (addresses, following) = watch::channel(addresses);
        let (courier, dialer, dialling) = (self.courier.clone(), self.dialer.clone(), self.dialling.clone());
        let road = Road { courier, dialer, dialling, node, addresses: following };
        let task = self.tasks.spawn(async move { (node, road.keep(wire).await) });
        self.nodes.insert(node, Known { addresses, task, seed, hopeless: false });
    }

    /// Opens roads to nodes that are new, and closes those to nodes that are gone.
    fn follow_map(&mut self) {
        let Some(map) = self.courier.map.borrow().clone() else { return };
        let stays = |node: &NodeId| map.node(*node).is_some_and(|known| known.state != NodeState::Removed);
        self.nodes.retain(|node, known| {
            if !stays(node) {
                info!(node = node.0, "the node has left the cluster");
                known.task.abort();
            }
            stays(node)
        });
        for node in map.nodes.iter().filter(|node| stays(&node.node)) {
            let address = node.client_addr.to_string();
            match self.nodes.get(&node.node) {
                Some(known) => {
                    let mut addresses: Vec<String> = known.seed.iter().cloned().collect();
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                    known.addresses.send_if_modified(|before| {
                        let modified = *before != addresses;
                        *before = addresses;
                        modified
                    });
                }
                None => self.open(node.node, vec![address], None, None),
            }
        }
    }
}

/// The addresses that the program gave, tried in turn.
struct Seeds {
    addresses: Vec<String>,
    turn: usize,
    delay: ExponentialBackoff,
    hopeless: usize,
}

impl Seeds {
    fn new(addresses: Vec<String>) -> Self {
        // Clients of one cluster should not all choose its first node.
        let turn = rand::random_range(0..addresses.len());
        Self { addresses, turn, delay: delays(), hopeless: 0 }
    }

    /// The next connection that a seed gives: at once while no node is known, later when none has been connected for a
    /// while. May be dropped at any time.
    async fn next<H: Handler>(
        &mut self,
        courier: &Courier<H>,
        dialer: &Dialer,
        dialling: &RwLock<()>,
        alone: bool,
    ) -> Result<(String, Wire), ClientError> {
        loop {
            if !alone {
                wait_until_lost(courier).await;
            }
            let quiet = dialling.write().await;
            if !alone && courier.flight.lock().routes.nodes_up() > 0 {
                continue;
            }
            let address = self.addresses[self.turn % self.addresses.len()].clone();
            self.turn += 1;
            let dialed = tokio::time::timeout(ATTEMPT_TIMEOUT, dialer.dial(&address)).await;
            match dialed.unwrap_or_else(|_| Err(Broken::ForNow("no answer".into()))) {
                Ok(wire) => {
                    (self.hopeless, self.delay) = (0, delays());
                    return Ok((address, wire));
                }
                Err(Broken::ForNow(reason)) => {
                    info!(%address, reason, "not connected, trying again");
                    self.hopeless = 0;
                    courier.not_connected(&address, &reason);
                }
                Err(Broken::ForGood(error)) => {
                    self.hopeless += 1;
                    if alone && self.hopeless >= self.addresses.len() {
                        return Err(error);
                    }
                    warn!(%address, code = error.code(), %error, "node refused, trying the next address");
                    courier.not_connected(&address, &error);
                }
            }
            drop(quiet);
            tokio::time::sleep(self.delay.next().unwrap_or(RECONNECT_MAX)).await;
        }
    }
}

/// Resolves when no node has been connected for [`SEEDS_AGAIN_AFTER`].
async fn wait_until_lost<H: Handler>(courier: &Courier<H>) {
    let mut state = courier.state.subscribe();
    loop {
        let is_up = |state: &State| matches!(state, State::Up);
        let Ok(_) = state.wait_for(|state| !is_up(state)).await else { return std::future::pending().await };
        let up_again = state.wait_for(is_up);
        if tokio::time::timeout(SEEDS_AGAIN_AFTER, up_again).await.is_err() {
            return;
        }
    }
}
