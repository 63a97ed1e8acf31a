//! A host's UDP sockets, as quinn asks for them: real QUIC and real TLS run on these.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, UdpPoller};

use super::{INBOX_DATAGRAMS_MAX, Net};

/// Ports of sockets that asked for any.
const EPHEMERAL_PORT_MIN: u16 = 20_000;
/// Each datagram a read takes is one.
const SEGMENTS: usize = 1;

/// A host's way into the network: where its sockets come from.
#[derive(Clone, Debug)]
pub struct Nic {
    net: Net,
    host: IpAddr,
    next_port: Arc<AtomicU16>,
    /// What is sent to any other host goes nowhere.
    only: Option<IpAddr>,
}

impl Nic {
    #[must_use]
    pub fn new(net: Net, host: IpAddr) -> Self {
        Self { net, host, next_port: Arc::new(AtomicU16::new(EPHEMERAL_PORT_MIN)), only: None }
    }

    /// The same, whose sockets reach this host alone, as behind a firewall.
    #[must_use]
    pub fn only_to(self, other: IpAddr) -> Self {
        Self { only: Some(other), ..self }
    }

    fn endpoint(&self, port: u16, config: EndpointConfig, server: Option<ServerConfig>) -> io::Result<Endpoint> {
        let port = if port == 0 { self.next_port.fetch_add(1, Ordering::Relaxed) } else { port };
        let address = SocketAddr::new(self.host, port);
        let inbox = Arc::new(Inbox::default());
        {
            let mut state = self.net.0.lock();
            if state.sockets.contains_key(&address) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            state.sockets.insert(address, inbox.clone());
        }
        let socket = Arc::new(Socket { net: self.net.clone(), address, inbox, only: self.only });
        Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
    }
}

impl coda_broker::network::Network for Nic {
    fn listen(&self, address: SocketAddr, config: EndpointConfig, server: ServerConfig) -> io::Result<Endpoint> {
        if address.ip() != self.host {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        self.endpoint(address.port(), config, Some(server))
    }
}

impl coda_client::network::Network for Nic {
    fn open(&self, _remote: SocketAddr) -> io::Result<Endpoint> {
        self.endpoint(0, EndpointConfig::default(), None)
    }
}

/// What has arrived at a socket and was not read.
#[derive(Default)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    closed: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    datagrams: VecDeque<(SocketAddr, Arc<[u8]>)>,
    reader: Option<Waker>,
}

impl Inbox {
    pub fn push(&self, from: SocketAddr, bytes: Arc<[u8]>) {
        let mut waiting = self.waiting.lock();
        if waiting.datagrams.len() < INBOX_DATAGRAMS_MAX {
            waiting.datagrams.push_back((from, bytes));
        }
        let reader = waiting.reader.take();
        drop(waiting);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

struct Socket {
    net: Net,
    address: SocketAddr,
    inbox: Arc<Inbox>,
    only: Option<IpAddr>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({})", self.address)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let is_forbidden = self.only.is_some_and(|only| only != transmit.destination.ip());
        if is_forbidden || self.inbox.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(size) {
            self.net.send(self.address, transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut waiting = self.inbox.waiting.lock();
        let mut read = 0;
        while read < bufs.len().min(meta.len())
            && let Some((from, bytes)) = waiting.datagrams.pop_front()
        {
            let len = bytes.len().min(bufs[read].len());
            bufs[read][..len].copy_from_slice(&bytes[..len]);
            let dst_ip = Some(self.address.ip());
            meta[read] = RecvMeta { addr: from, len, stride: len, ecn: None, dst_ip };
            read += 1;
        }
        if read > 0 {
            return Poll::Ready(Ok(read));
        }
        waiting.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.net.0.lock();
        // Its successor may have the address by now.
        if state.sockets.get(&self.address).is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            state.sockets.remove(&self.address);
        }
    }
}

/// The network takes whatever comes.
#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
