//! How a client comes by its socket. The one place where UDP is opened.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{Endpoint, EndpointConfig};
use tracing::debug;

/// Sockets of one kind: the machine's, or those of a simulation.
pub trait Network: Debug + Send + Sync {
    /// A socket that can reach this address. Called within a tokio runtime.
    ///
    /// # Errors
    /// When the system has none.
    fn open(&self, remote: SocketAddr) -> io::Result<Endpoint>;
}

const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The machine's own.
#[derive(Debug)]
pub(crate) struct SystemNetwork;

impl Network for SystemNetwork {
    fn open(&self, remote: SocketAddr) -> io::Result<Endpoint> {
        let any: SocketAddr = if remote.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().expect("a constant");
        let socket = socket2::Socket::new(socket2::Domain::for_address(any), socket2::Type::DGRAM, None)?;
        socket.bind(&any.into())?;
        for (what, set) in [
            ("receive", socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)),
            ("send", socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)),
        ] {
            if let Err(error) = set {
                debug!(%error, what, "socket buffer stays as it is");
            }
        }
        Endpoint::new(EndpointConfig::default(), None, socket.into(), Arc::new(quinn::TokioRuntime))
    }
}
