//! Reaching peers: one connection per peer, made when it is first needed and again when it is lost. Whoever needs it
//! meanwhile shares the attempt.
//!
//! ```text
//!   DOWN ──first caller──▶ DIALLING: pause, handshake, hello ──▶ UP
//!    ▲                        │ failed: the next pause is longer   │ lost: no pause, if it was up for a while
//!    └────────────────────────┴────────────────────────────────────┘
//! ```
//!
//! Nobody is turned away during a pause: callers wait for its end and the attempt behind it, for as long as they like.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coda_protocol::frame::CLOSE_REPLACED;
use coda_protocol::ids::NodeId;
use coda_raft_store::peers::Peer;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::{Mutex, RwLock};
use quinn::{ClientConfig, Connection, Endpoint, VarInt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::clock::Clock;
use crate::identity::SERVER_NAME;
use crate::peers::complaints::Complaints;
use crate::peers::fault::{LinkError, PeerFault};
use crate::peers::greet::{Greeted, Greeter};
use crate::peers::hello::PeerHello;
use crate::peers::limits::{
    ADDRESSES_MAX, DIAL_TIMEOUT, REDIAL_PAUSE_MAX, REDIAL_PAUSE_MIN, RESOLVED_MAX, STEADY_AFTER,
};
use crate::peers::live::Live;

/// All peers that were ever asked for.
pub struct Links {
    pub endpoint: Endpoint,
    pub client: RwLock<ClientConfig>,
    pub greeter: Arc<Greeter>,
    pub clock: Arc<dyn Clock>,
    pub complaints: Arc<Complaints>,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
}

type Outcome = Result<Arc<Live>, LinkError>;

/// The connection, or why there is none, if it was needed.
pub type Standing = Result<Arc<Live>, Option<LinkError>>;

#[derive(Default)]
struct Link {
    state: Mutex<State>,
    /// The peer has made itself known: no reason to wait, or to knock where it was before.
    heard: Notify,
}

impl Link {
    fn standing(&self) -> Standing {
        let state = self.state.lock();
        match &state.road {
            Road::Up(live) if live.is_open() => Ok(live.clone()),
            _ => Err(state.last_error.clone()),
        }
    }
}

#[derive(Default)]
struct State {
    road: Road,
    /// Where the peer may be, the latest word first.
    addresses: Vec<String>,
    /// Attempts that have failed since a connection was up for a while.
    failures: u32,
    failed_at: Option<Instant>,
    last_error: Option<LinkError>,
}

#[derive(Default)]
enum Road {
    #[default]
    Down,
    Dialling(watch::Receiver<Option<Outcome>>),
    Up(Arc<Live>),
}

impl State {
    fn remember(&mut self, address: &str) {
        if address.is_empty() || self.addresses.first().is_some_and(|first| first == address) {
            return;
        }
        self.addresses.retain(|known| known != address);
        self.addresses.insert(0, address.to_owned());
        self.addresses.truncate(ADDRESSES_MAX);
    }

    fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
    }

    /// What is left of the pause before the next attempt.
    fn pause(&self, now: Instant) -> Duration {
        let Some(failed_at) = self.failed_at else { return Duration::ZERO };
        let doublings = self.failures.saturating_sub(1).min(16);
        let pause = (REDIAL_PAUSE_MIN * (1 << doublings)).min(REDIAL_PAUSE_MAX);
        (failed_at + pause).saturating_duration_since(now)
    }

    /// Notices that a connection has ended. One that never lasts is as bad as none.
    fn look(&mut self, now: Instant) {
        let Road::Up(live) = &self.road else { return };
        if live.is_open() {
            return;
        }
        if now.saturating_duration_since(live.since) >= STEADY_AFTER {
            self.failures = 0;
            self.failed_at = None;
        } else {
            self.failed(now);
        }
        self.road = Road::Down;
    }
}

impl Links {
    pub fn new(
        endpoint: Endpoint,
        client: ClientConfig,
        greeter: Arc<Greeter>,
        clock: Arc<dyn Clock>,
        complaints: Arc<Complaints>,
    ) -> Self {
        Self { endpoint, client: RwLock::new(client), greeter, clock, complaints, links: Mutex::default() }
    }

    fn link(&self, node: NodeId) -> Arc<Link> {
        self.links.lock().entry(node).or_default().clone()
    }

    /// The connection to a peer; made, if there is none.
    pub async fn live(self: &Arc<Self>, to: &Peer) -> Outcome {
        let link = self.link(to.node);
        let mut dialling = {
            let mut state = link.state.lock();
            state.look(self.clock.instant());
            match &state.road {
                Road::Up(live) => return Ok(live.clone()),
                // Its task is gone, with the runtime that it ran on, or by a panic.
                Road::Dialling(dialling) if dialling.has_changed().is_ok() => {
                    let dialling = dialling.clone();
                    state.remember(&to.addr);
                    dialling
                }
                Road::Dialling(_) | Road::Down => {
                    state.remember(&to.addr);
                    let (tell, dialling) = watch::channel(None);
                    state.road = Road::Dialling(dialling.clone());
                    tokio::spawn(self.clone().dial(to.node, link.clone(), tell));
                    dialling
                }
            }
        };
        let outcome = dialling.wait_for(Option::is_some).await.map_err(|_| LinkError::Closed)?;
        outcome.clone().unwrap_or(Err(LinkError::Closed))
    }

    /// What to say to a caller whose time is over.
    pub fn why_late(&self, node: NodeId, after: Duration) -> LinkError {
        let link = self.link(node);
        let state = link.state.lock();
        match &state.road {
            Road::Up(live) if live.is_open() => LinkError::Late { node, after },
            _ => {
                let not_yet = || LinkError::NoAnswer { node, at: state.addresses.join(", ") };
                state.last_error.clone().unwrap_or_else(not_yet)
            }
        }
    }

    /// Where a peer is, as the cluster knows it.
    pub fn know(&self, node: NodeId, address: &str) {
        self.link(node).state.lock().remember(address);
    }

    /// A peer has dialled this node, and says where it is.
    pub fn heard_from(&self, peer: &PeerHello) {
        let link = self.link(peer.node);
        let mut state = link.state.lock();
        state.remember(&peer.address);
        match &state.road {
            Road::Dialling(_) => link.heard.notify_one(),
            // It has started again since it was dialled, perhaps somewhere else: nobody is at the other end any more.
            Road::Up(live) if live.peer.incarnation != peer.incarnation => {
                live.connection.close(VarInt::from_u32(CLOSE_REPLACED), b"the node has started again");
            }
            Road::Up(_) | Road::Down => {}
        }
    }

    /// Every peer that was ever asked for.
    pub fn all(&self) -> Vec<(NodeId, Standing)> {
        let links: Vec<_> = self.links.lock().iter().map(|(node, link)| (*node, link.clone())).collect();
        links.into_iter().map(|(node, link)| (node, link.standing())).collect()
    }

    /// One peer, if it was ever asked for.
    pub fn standing(&self, node: NodeId) -> Option<Standing> {
        let link = self.links.lock().get(&node).cloned();
        link.map(|link| link.standing())
    }

    async fn dial(self: Arc<Self>, node: NodeId, link: Arc<Link>, tell: watch::Sender<Option<Outcome>>) {
        let pause = link.state.lock().pause(self.clock.instant());
        if !pause.is_zero() {
            drop(timeout(pause, link.heard.notified()).await);
        }
        let outcome = match self.reach(node, &link).await {
            Ok(greeted) => {
                let at = greeted.connection.remote_address();
                info!(%node, %at, version = greeted.version, program = %greeted.peer.program, "a peer is reached");
                self.complaints.reached(node);
                Ok(Arc::new(Live::start(greeted, self.clock.instant(), self.complaints.clone())))
            }
            Err(error) => {
                self.complaints.unreached(node, &error);
                Err(error)
            }
        };
        {
            let mut state = link.state.lock();
            state.last_error = outcome.as_ref().err().cloned();
            state.road = match &outcome {
                Ok(live) => Road::Up(live.clone()),
                Err(_) => {
                    state.failed(self.clock.instant());
                    Road::Down
                }
            };
        }
        if let Ok(live) = &outcome
            && let Err(refused) = self.greeter.admit_again(live.admitted, &live.peer)
        {
            live.close_for(refused.into());
        }
        tell.send_replace(Some(outcome));
    }

    async fn reach(&self, node: NodeId, link: &Link) -> Result<Greeted, LinkError> {
        let connection = loop {
            let addresses = link.state.lock().addresses.clone();
            tokio::select! {
                connection = self.connect(node, addresses) => break connection?,
                // Interrupted only before a word was said, or two nodes could interrupt each other for ever.
                () = link.heard.notified() => {}
            }
        };
        let at = connection.remote_address();
        match timeout(DIAL_TIMEOUT, self.greeter.dialled(connection.clone(), node)).await {
            Ok(greeted) => greeted,
            Err(_) => {
                let fault = PeerFault::Silent;
                connection.close(VarInt::from_u32(fault.close_code()), fault.to_string().as_bytes());
                Err(LinkError::NoAnswer { node, at: at.to_string() })
            }
        }
    }

    /// Knocks at all addresses; the first where the right node answers is taken.
    async fn connect(&self, node: NodeId, addresses: Vec<String>) -> Result<Connection, LinkError> {
        if addresses.is_empty() {
            return Err(LinkError::Address { node, why: "it was never told".into() });
        }
        let mut telling: Option<LinkError> = None;
        let attempts = async {
            let mut knocks: FuturesUnordered<_> =
                addresses.iter().map(|address| self.connect_by_name(node, address)).collect();
            while let Some(knock) = knocks.next().await {
                match knock {
                    Ok(connection) => return Some(connection),
                    Err(error) => telling = more_telling(telling.take(), error),
                }
            }
            None
        };
        let reached = timeout(DIAL_TIMEOUT, attempts).await;
        let no_answer = || LinkError::NoAnswer { node, at: addresses.join(", ") };
        match reached {
            Ok(connection) => connection.ok_or_else(|| telling.unwrap_or_else(no_answer)),
            Err(_) => Err(more_telling(telling, no_answer()).unwrap_or_else(no_answer)),
        }
    }

    async fn connect_by_name(&self, node: NodeId, address: &str) -> Result<Connection, LinkError> {
        let unusable = |why: String| LinkError::Address { node, why: format!("{address:?}: {why}") };
        let resolved = tokio::net::lookup_host(address).await.map_err(|error| unusable(error.to_string()))?;
        let mut knocks: FuturesUnordered<_> =
            resolved.take(RESOLVED_MAX).map(|address| self.connect_to(node, address)).collect();
        let mut telling = None;
        while let Some(knock) = knocks.next().await {
            match knock {
                Ok(connection) => return Ok(connection),
                Err(error) => telling = more_telling(telling, error),
            }
        }
        Err(telling.unwrap_or_else(|| unusable("the name has no address".into())))
    }

    async fn connect_to(&self, node: NodeId, address: SocketAddr) -> Result<Connection, LinkError> {
        let client = self.client.read().clone();
        // Nobody looks at the name: nodes are known by what their certificate says.
        let connecting = match self.endpoint.connect_with(client, address, SERVER_NAME) {
            Ok(connecting) => connecting,
            Err(quinn::ConnectError::EndpointStopping) => return Err(LinkError::Closed),
            Err(error) => return Err(LinkError::Address { node, why: format!("{address}: {error}") }),
        };
        let connection = connecting.await.map_err(|error| match error {
            quinn::ConnectionError::TimedOut => LinkError::NoAnswer { node, at: address.to_string() },
            error => LinkError::ended(node, &error),
        })?;
        self.greeter.check_name(&connection, node)?;
        Ok(connection)
    }
}

fn more_telling(one: Option<LinkError>, other: LinkError) -> Option<LinkError> {
    Some(one.filter(|one| one.weight() > other.weight()).unwrap_or(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pauses_grow_to_a_bound_and_begin_with_the_failure() {
        let (now, mut state) = (Instant::now(), State::default());
        assert_eq!(state.pause(now), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..100 {
            state.failed(now);
            pauses.push(state.pause(now));
        }
        assert_eq!(pauses[..3], [REDIAL_PAUSE_MIN, REDIAL_PAUSE_MIN * 2, REDIAL_PAUSE_MIN * 4]);
        assert_eq!(pauses[99], REDIAL_PAUSE_MAX);
        assert_eq!(state.pause(now + REDIAL_PAUSE_MAX), Duration::ZERO);
    }

    #[test]
    fn the_latest_address_comes_first_and_old_ones_are_forgotten() {
        let mut state = State::default();
        for address in ["a:1", "b:1", "", "a:1", "c:1", "d:1", "e:1"] {
            state.remember(address);
        }
        assert_eq!(state.addresses, ["e:1", "d:1", "c:1", "a:1"]);
        assert_eq!(state.addresses.len(), ADDRESSES_MAX);
    }
}
