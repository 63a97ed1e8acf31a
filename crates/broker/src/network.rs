//! How a node comes by its sockets. The one place where UDP is opened: everything else speaks QUIC on an [`Endpoint`].

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{Endpoint, EndpointConfig, ServerConfig};

/// Sockets of one kind: the machine's, or those of a simulation.
pub trait Network: Debug + Send + Sync {
    /// Listens on an address. Port 0 takes a free one. Called within a tokio runtime.
    ///
    /// # Errors
    /// When the address is taken, or is not this machine's.
    fn listen(&self, address: SocketAddr, config: EndpointConfig, server: ServerConfig) -> io::Result<Endpoint>;
}

const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The machine's own.
#[derive(Debug)]
pub struct SystemNetwork;

impl Network for SystemNetwork {
    fn listen(&self, address: SocketAddr, config: EndpointConfig, server: ServerConfig) -> io::Result<Endpoint> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
        // Best effort: the system may allow less.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.bind(&address.into())?;
        Endpoint::new(config, Some(server), socket.into(), Arc::new(quinn::TokioRuntime))
    }
}
