//! The courier of one session: carries requests to the nodes where they belong, and answers and pushes back.
//!
//! It has one connection to each node of the cluster. [`roads`] keeps them, [`road`] is one of them.
//!
//! Generic over a [`Handler`], which owns what the requests mean: a plain link has nearly nothing, a worker has leases.

mod road;
mod roads;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coda_protocol::cluster::ClusterMap;
use coda_protocol::frame::{Frame, Hello, Welcome};
use coda_protocol::ids::{GroupId, NodeId, Position, Work};
use coda_protocol::limits::{FRAME_BYTES_MAX, FRAME_INLINE_BYTES_MAX};
use coda_protocol::push::Push;
use coda_protocol::request::Request;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use crate::error::ClientError;
use crate::flight::{Class, Flight, Freed};
use crate::link::Answered;
use crate::options::{ConnectOptions, IN_FLIGHT_KIB_MAX, PROMPT_IN_FLIGHT_MAX, WAITS_IN_FLIGHT_MAX};
use crate::routes::Target;
use crate::wire::Dialer;

const LENGTH_BYTES: usize = 4;
/// A frame of this many bytes still goes on the shared stream.
const INLINE_MAX: usize = FRAME_INLINE_BYTES_MAX + LENGTH_BYTES;

/// What the courier reports, in the order in which it happened.
pub(crate) enum News<T> {
    /// Connected to one node more.
    Connected {
        first: bool,
        welcome: Welcome,
    },
    Answered {
        ticket: T,
        result: Answered,
        /// Of a refusal too; [`Position::NOWHERE`] without an answer.
        position: Position,
    },
    Push(NodeId, Push),
    /// One node fewer; how many are left.
    Disconnected {
        node: NodeId,
        left: usize,
    },
    /// The end: nothing follows.
    Failed(ClientError),
}

impl<T> News<T> {
    /// There will be no answer.
    fn failed(ticket: T, error: ClientError) -> Self {
        Self::Answered { ticket, result: Err(error), position: Position::NOWHERE }
    }
}

/// What the requests mean. Called by the courier's one task; must not block.
pub(crate) trait Handler: Send + Sync + Sized + 'static {
    type Ticket: Send;

    /// What a new connection says first. Called before anything else is sent on it.
    fn greeting(&self, node: NodeId) -> Vec<(Request, Self::Ticket)>;
    /// What the leader of a group is told before any request of that group.
    fn resume(&self, group: GroupId, map: Option<&ClusterMap>) -> Option<(Request, Self::Ticket)>;
    /// The connected nodes that lead groups have changed. Returns what to tell nodes about it.
    fn leading(&self, nodes: &BTreeSet<NodeId>) -> Vec<(NodeId, Request, Self::Ticket)>;
    /// Frames to a node that ask for no answer and go before all others of a write.
    fn credits(&self, node: NodeId, out: &mut Vec<u8>);
    /// What to ask nodes to give back, for the sake of others.
    fn reclaim(&self) -> Vec<(NodeId, Request, Self::Ticket)>;
    /// Takes a batch of news and leaves it empty.
    fn handle(&self, courier: &Courier<Self>, news: &mut Vec<News<Self::Ticket>>);
    /// Waits until the program has kept up. Nothing is read meanwhile.
    fn room(&self) -> impl Future<Output = ()> + Send;
    /// Nobody waits for this any more.
    fn is_abandoned(ticket: &Self::Ticket) -> bool;
}

#[derive(Clone, Debug)]
enum State {
    Connecting { last: String },
    Up,
    Over(ClientError),
}

/// An encoded request that has not been given to the courier yet.
pub(crate) struct Packed<T> {
    pub id: u64,
    frame: Bytes,
    class: Class,
    target: Target,
    pub ticket: T,
}

pub(crate) struct Courier<H: Handler> {
    pub handler: H,
    flight: Mutex<Flight<H::Ticket>>,
    next_id: AtomicU64,
    /// The newest map, for who keeps the connections.
    map: watch::Sender<Option<Arc<ClusterMap>>>,
    was_up: AtomicBool,
    /// Everything but waits for results has been answered.
    settled: Notify,
    prompt: Semaphore,
    waits: Semaphore,
    kib: Semaphore,
    state: watch::Sender<State>,
    closing: watch::Sender<bool>,
}

impl<H: Handler> Courier<H> {
    /// Starts the courier's task on the current Tokio runtime.
    pub(crate) fn start(options: ConnectOptions, handler: H) -> Result<Arc<Self>, ClientError> {
        if options.addresses.is_empty() {
            return Err(ClientError::NotConfigured);
        }
        let hello = Hello { session: options.session, agent: options.agent.clone() };
        let network = options.network.clone();
        let dialer = Dialer::new(&options.ca_pem, options.certificate.as_ref(), hello, options.outside, network)?;
        let courier = Arc::new(Self {
            handler,
            flight: Mutex::new(Flight::new()),
            next_id: AtomicU64::new(1),
            map: watch::Sender::new(None),
            was_up: AtomicBool::new(false),
            settled: Notify::new(),
            prompt: Semaphore::new(PROMPT_IN_FLIGHT_MAX),
            waits: Semaphore::new(WAITS_IN_FLIGHT_MAX),
            kib: Semaphore::new(IN_FLIGHT_KIB_MAX),
            state: watch::Sender::new(State::Connecting { last: "no attempt has ended yet".into() }),
            closing: watch::Sender::new(false),
        });
        tokio::spawn(courier.clone().run(options.addresses, Arc::new(dialer)));
        Ok(courier)
    }

    /// Waits for the first connection.
    pub(crate) async fn ready(&self, addresses: &str, timeout: Duration) -> Result<(), ClientError> {
        let mut state = self.state.subscribe();
        let up = state.wait_for(|state| !matches!(state, State::Connecting { .. }));
        if let Ok(state) = tokio::time::timeout(timeout, up).await {
            return match state.as_deref() {
                Ok(State::Over(error)) => Err(error.clone()),
                Ok(State::Up | State::Connecting { .. }) => Ok(()),
                Err(_) => Err(ClientError::Closed),
            };
        }
        let last = match &*self.state.borrow() {
            State::Connecting { last } => last.clone(),
            State::Up | State::Over(_) => String::new(),
        };
        Err(ClientError::NoNode { addresses: addresses.to_owned(), waited_ms: timeout.as_millis() as u64, last })
    }

    /// Encodes a request; the only copy that is made of it.
    pub(crate) fn pack(&self, request: Request, ticket: H::Ticket) -> Result<Packed<H::Ticket>, ClientError> {
        let class = match &request {
            Request::AwaitRun(run) => Class::Wait(Work::Run(*run)),
            Request::AwaitTask(task) => Class::Wait(Work::Task(*task)),
            _ => Class::Prompt,
        };
        self.pack_as(request, class, ticket)
    }

    fn pack_as(&self, request: Request, class: Class, ticket: H::Ticket) -> Result<Packed<H::Ticket>, ClientError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let target = request.slot().map_or(Target::Any, Target::Slot);
        let frame = encode(id, request);
        if frame.len() > FRAME_BYTES_MAX + LENGTH_BYTES {
            return Err(ClientError::RequestTooLarge { bytes: frame.len() });
        }
        Ok(Packed { id, frame: frame.into(), class, target, ticket })
    }

    /// Waits for room within the bounds on unanswered requests. The room is the packet's until it is answered.
    pub(crate) async fn admit(&self, packed: &Packed<H::Ticket>) -> Result<(), ClientError> {
        let Some(semaphore) = self.semaphore(packed.class) else { return Ok(()) };
        let count = semaphore.acquire().await.map_err(|_| self.over())?;
        let bytes = self.kib.acquire_many(kib(packed.frame.len())).await.map_err(|_| self.over())?;
        count.forget();
        bytes.forget();
        Ok(())
    }

    /// As [`Courier::admit`]; `Ok(false)` when there is no room at this moment.
    pub(crate) fn try_admit(&self, packed: &Packed<H::Ticket>) -> Result<bool, ClientError> {
        let Some(semaphore) = self.semaphore(packed.class) else { return Ok(true) };
        if semaphore.is_closed() {
            return Err(self.over());
        }
        let Ok(count) = semaphore.try_acquire() else { return Ok(false) };
        let Ok(bytes) = self.kib.try_acquire_many(kib(packed.frame.len())) else { return Ok(false) };
        count.forget();
        bytes.forget();
        Ok(true)
    }

    /// Sends an admitted packet, now or when a connection is there.
    pub(crate) fn submit(&self, packed: Packed<H::Ticket>) {
        let Packed { id, frame, class, target, ticket } = packed;
        let mut flight = self.flight.lock();
        // Read under the lock: the end of the courier takes everything out under it, once.
        let over = match &*self.state.borrow() {
            State::Over(error) => Some(error.clone()),
            State::Connecting { .. } | State::Up => None,
        };
        if let Some(error) = over {
            drop(flight);
            return self.tell(News::failed(ticket, error));
        }
        let freed = flight.add(id, frame, class, target, ticket);
        drop(flight);
        freed.into_iter().for_each(|freed| self.free(freed));
    }

    /// Gives back the room of a packet that is not submitted after all.
    pub(crate) fn drop_admitted(&self, packed: &Packed<H::Ticket>) {
        self.free(Freed { class: packed.class, bytes: packed.frame.len() });
    }

    /// Sends a request of the handler's own, outside the bounds.
    pub(crate) fn submit_internal(&self, request: Request, ticket: H::Ticket) {
        if let Ok(packed) = self.pack_as(request, Class::Internal, ticket) {
            self.submit(packed);
        }
    }

    /// As [`Courier::submit_internal`], to each connected node. Whoever connects later is greeted.
    pub(crate) fn submit_everywhere(&self, request: &Request, ticket: impl Fn() -> H::Ticket) {
        let mut flight = self.flight.lock();
        for node in flight.routes.connected() {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let frame = encode(id, request.clone()).into();
            let freed = flight.add(id, frame, Class::Internal, Target::Node(node), ticket());
            debug_assert!(freed.is_none(), "only waits join others");
        }
    }

    /// The credits have changed.
    pub(crate) fn wake(&self) {
        self.flight.lock().wake_all();
    }

    /// Nodes, leaders or slots have changed: leaders hear what this session holds, then get what waited for them.
    fn reroute(&self) {
        let mut flight = self.flight.lock();
        let map = flight.routes.map().cloned();
        for (group, node) in flight.routes.take_unresumed() {
            if let Some((request, ticket)) = self.handler.resume(group, map.as_deref()) {
                self.add_greeting(&mut flight, node, request, ticket);
            }
        }
        for (node, request, ticket) in self.handler.leading(&flight.routes.leading()) {
            self.add_greeting(&mut flight, node, request, ticket);
        }
        flight.reroute();
        flight.wake_all();
    }

    /// Asks nodes to give back what others want. Decided under the lock: a connection that is up then is the one that the
    /// handler knows of.
    pub(crate) fn reclaim(&self) {
        let mut flight = self.flight.lock();
        for (node, request, ticket) in self.handler.reclaim() {
            // Of one that is not, the handler is about to hear, and asks for nothing back then.
            if flight.routes.is_up(node) {
                self.add_greeting(&mut flight, node, request, ticket);
            }
        }
    }

    /// What a new connection says first.
    fn greet(&self, node: NodeId) {
        let mut flight = self.flight.lock();
        for (request, ticket) in self.handler.greeting(node) {
            self.add_greeting(&mut flight, node, request, ticket);
        }
        drop(flight);
        self.reroute();
    }

    /// What is said on this connection and not again on another.
    fn add_greeting(&self, flight: &mut Flight<H::Ticket>, node: NodeId, request: Request, ticket: H::Ticket) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let freed = flight.add(id, encode(id, request).into(), Class::Greeting, Target::Node(node), ticket);
        debug_assert!(freed.is_none(), "only waits join others");
    }

    pub(crate) fn deadline(&self, id: u64, after: Duration) -> ClientError {
        ClientError::Deadline { ms: after.as_millis() as u64, last: self.flight.lock().last_refusal(id) }
    }

    /// Waits until nothing is unanswered but waits for results.
    pub(crate) async fn settled(&self) {
        loop {
            let mut settled = pin!(self.settled.notified());
            settled.as_mut().enable();
            if self.flight.lock().is_settled() {
                return;
            }
            settled.await;
        }
    }

    /// Begins the clean end: goodbye to the node, [`ClientError::Closed`] to everyone who waits.
    pub(crate) fn begin_close(&self) {
        self.closing.send_replace(true);
    }

    pub(crate) async fn closed(&self) {
        let _ = self.state.subscribe().wait_for(|state| matches!(state, State::Over(_))).await;
    }

    fn over(&self) -> ClientError {
        match &*self.state.borrow() {
            State::Over(error) => error.clone(),
            State::Connecting { .. } | State::Up => ClientError::Closed,
        }
    }

    fn semaphore(&self, class: Class) -> Option<&Semaphore> {
        match class {
            Class::Greeting | Class::Internal => None,
            Class::Prompt => Some(&self.prompt),
            Class::Wait(_) => Some(&self.waits),
        }
    }

    fn free(&self, freed: Freed) {
        if let Some(semaphore) = self.semaphore(freed.class) {
            semaphore.add_permits(1);
            self.kib.add_permits(kib(freed.bytes) as usize);
        }
    }

    fn tell(&self, news: News<H::Ticket>) {
        self.handler.handle(self, &mut vec![news]);
    }
}

fn kib(bytes: usize) -> u32 {
    bytes.div_ceil(1 << 10) as u32
}

fn encode(id: u64, request: Request) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    Frame::Request { id, request }.encode(&mut out);
    out
}
