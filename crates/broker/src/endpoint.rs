//! The QUIC endpoint for clients and workers: its socket, its bounds, and the greeting of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use coda_protocol::frame::{CLOSE_SHUTDOWN, Frame, FrameError, Hello, Welcome};
use coda_protocol::limits::{FRAME_BYTES_MAX, PAYLOAD_STREAMS_MAX};
use coda_protocol::version::{ALPN_CLIENT, WIRE_VERSIONS, agree};
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TransportConfig, VarInt};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::config::{
    CONNECTIONS_MAX, HELLO_BYTES_MAX, HELLO_TIMEOUT, IDLE_TIMEOUT, INCOMING_BYTES_MAX, INCOMING_BYTES_TOTAL_MAX,
    KEEP_ALIVE, RESET_INTERVAL_MIN, UNGREETED_PER_ADDRESS_MAX, UNGREETED_WINDOW_BYTES, UNPROVEN_HANDSHAKES_MAX,
};
use crate::connection;
use crate::handshakes::{Handshake, Handshakes};
use crate::host::Host;
use crate::identity::{self, CurrentIdentity, NodeIdentity, PeerIdentity, QuicKeys};
use crate::network::Network;
use crate::sessions::Sessions;

/// Bytes asked of the socket at once.
pub const READ_BYTES: usize = 64 << 10;
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

#[derive(Debug, Error)]
pub enum EndpointError {
    #[error("cannot listen on {address}: {why}")]
    Bind { address: SocketAddr, why: std::io::Error },
    #[error("cannot use the node's certificate: {0}")]
    Certificate(String),
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Everyone,
    /// Whoever has a certificate of the cluster's authority.
    Certified,
}

/// Opens the endpoint.
///
/// # Errors
/// When the address is taken or the certificate cannot be used.
pub fn open(
    network: &dyn Network,
    address: SocketAddr,
    identity: &NodeIdentity,
    admission: Admission,
) -> Result<Endpoint, EndpointError> {
    let server = server_config(identity, admission)?;
    let endpoint = network.listen(address, endpoint_config(&identity.quic), server);
    endpoint.map_err(|why| EndpointError::Bind { address, why })
}

/// Serves new connections with the certificates of the moment. Those that are open stay as they are.
pub async fn follow(endpoint: Endpoint, mut current: CurrentIdentity, admission: Admission) {
    while let Some(identity) = current.next().await {
        match server_config(&identity, admission) {
            Ok(server) => endpoint.set_server_config(Some(server)),
            Err(error) => warn!(code = "CODA4206", %error, "new certificates are refused, those in use stay"),
        }
    }
}

/// With both keys kept, a restarted node resets the connections of its predecessor at once.
pub(crate) fn endpoint_config(keys: &QuicKeys) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &keys.reset)));
    let key = keys.connection_ids;
    // Ids that this node or one before it has not made are dropped without an answer.
    config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(key)));
    config.min_reset_interval(RESET_INTERVAL_MIN);
    config
}

fn server_config(identity: &NodeIdentity, admission: Admission) -> Result<quinn::ServerConfig, EndpointError> {
    let certificate = |error: &dyn std::fmt::Display| EndpointError::Certificate(error.to_string());
    let builder = rustls::ServerConfig::builder_with_provider(identity::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| certificate(&error))?;
    let builder = match admission {
        Admission::Everyone => builder.with_no_client_auth(),
        Admission::Certified => {
            builder.with_client_cert_verifier(identity::clients_of(identity).map_err(|error| certificate(&error))?)
        }
    };
    let mut tls = builder
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| certificate(&error))?;
    tls.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
    if admission == Admission::Certified {
        // A resumed connection shows no certificate: one that has expired meanwhile would go on being let in.
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    }
    // Commands must not be replayable.
    tls.max_early_data_size = 0;
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| certificate(&error))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    // The main stream, and nothing else and not much, until the hello is understood: see `welcome`.
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(UNGREETED_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("a few seconds fit")))
        .keep_alive_interval(Some(KEEP_ALIVE));
    server.transport_config(Arc::new(transport)).max_incoming(CONNECTIONS_MAX);
    bound_incoming(&mut server);
    Ok(server)
}

/// Not as QUIC has it by itself, which is 10 MiB for each that waits to be accepted.
pub(crate) fn bound_incoming(server: &mut quinn::ServerConfig) {
    server.incoming_buffer_size(INCOMING_BYTES_MAX).incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
}

/// Accepts connections until the endpoint is closed.
pub async fn accept(endpoint: Endpoint, host: Host) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Handshakes::new(UNGREETED_PER_ADDRESS_MAX);
    while let Some(incoming) = endpoint.accept().await {
        if handshakes.count() >= UNPROVEN_HANDSHAKES_MAX && incoming.may_retry() {
            // Costs who connects honestly one round trip, and who forges addresses all that it has done.
            drop(incoming.retry());
            continue;
        }
        let Some(handshake) = handshakes.begin(incoming.remote_address().ip()) else {
            // Told once for each that connects from there would be as much again.
            debug!(peer = %incoming.remote_address(), "refusing a connection: too many from there say nothing");
            incoming.refuse();
            continue;
        };
        let Ok(place) = connections.clone().try_acquire_owned() else {
            let error = FrameError::TooManyConnections { max: CONNECTIONS_MAX };
            warn!(peer = %incoming.remote_address(), code = error.code(), %error, "refusing a connection");
            incoming.refuse();
            continue;
        };
        let host = host.clone();
        tokio::spawn(async move {
            let _place = place;
            let peer = incoming.remote_address();
            match timeout(HELLO_TIMEOUT, async { incoming.await }).await {
                Ok(Ok(connection)) => serve(connection, host, handshake).await,
                Ok(Err(quinn::ConnectionError::TransportError(error))) if is_tls(error.code) => {
                    info!(%peer, code = "CODA4226", %error, "refusing a client in its handshake");
                }
                Ok(Err(error)) => debug!(%peer, %error, "a handshake failed"),
                Err(_) => {}
            }
        });
    }
}

/// QUIC carries a TLS alert as transport error 0x100 + alert.
pub(crate) fn is_tls(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// A connection from hello to end.
async fn serve(connection: Connection, host: Host, handshake: Handshake) {
    let peer = connection.remote_address();
    if let Ok(Some(identity)) = PeerIdentity::shown(&connection) {
        debug!(%peer, %identity, "a client has shown its certificate");
    }
    let Ok(heard) = timeout(HELLO_TIMEOUT, hear(&connection)).await else {
        warn!(%peer, "no hello in time, closing a connection");
        return connection.close(VarInt::from_u32(CLOSE_SHUTDOWN), b"no hello in time");
    };
    drop(handshake);
    let heard = match heard {
        Ok(heard) => heard,
        Err(Greeting::Frame(error)) => return close_for(&connection, &error),
        Err(Greeting::Gone) => return,
    };
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(PAYLOAD_STREAMS_MAX));
    match timeout(HELLO_TIMEOUT, welcome(heard, &host)).await {
        Ok(Some(greeted)) => connection::open(connection, host, greeted).await,
        Ok(None) | Err(_) => debug!(%peer, "a client was gone before it was welcome"),
    }
}

/// Logs once, with the code that the peer sees too.
pub fn close_for(connection: &Connection, error: &FrameError) {
    // Each of a connection's streams may find something at the same moment, and looking and closing are two steps.
    static CLOSING: Mutex<()> = Mutex::new(());
    let _closing = CLOSING.lock();
    if connection.close_reason().is_some() {
        return;
    }
    warn!(peer = %connection.remote_address(), code = error.code(), %error, "closing a connection");
    connection.close(VarInt::from_u32(error.close_code()), error.to_string().as_bytes());
}

enum Greeting {
    Frame(FrameError),
    Gone,
}

impl From<FrameError> for Greeting {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// A client that said hello and was welcomed.
pub struct Greeted {
    pub send: SendStream,
    pub recv: RecvStream,
    pub buffer: BytesMut,
    pub hello: Hello,
}

/// A client that said hello, in a version we speak.
struct Heard {
    send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
    hello: Hello,
    version: u16,
}

/// Reads the hello.
async fn hear(connection: &Connection) -> Result<Heard, Greeting> {
    let (send, mut recv) = connection.accept_bi().await.map_err(|_| Greeting::Gone)?;
    let mut buffer = BytesMut::new();
    let frame = loop {
        // Nobody who has not said hello makes the node hold more than a hello.
        let length = buffer.first_chunk().map_or(0, |prefix| u32::from_be_bytes(*prefix) as usize);
        if (HELLO_BYTES_MAX..=FRAME_BYTES_MAX).contains(&length) {
            return Err(FrameError::NotCoda.into());
        }
        if let Some(frame) = Frame::take(&mut buffer)? {
            break frame;
        }
        match recv.read_chunk(READ_BYTES, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            Ok(None) => return Err(FrameError::NotCoda.into()),
            Err(_) => return Err(Greeting::Gone),
        }
    };
    let Frame::Hello { versions, hello } = frame else { return Err(FrameError::NotCoda.into()) };
    let mismatch = FrameError::VersionMismatch { ours: WIRE_VERSIONS, theirs: versions };
    let version = agree(WIRE_VERSIONS, versions).ok_or(mismatch)?;
    Ok(Heard { send, recv, buffer, hello, version })
}

/// Says welcome. None when the client is gone.
async fn welcome(heard: Heard, host: &Host) -> Option<Greeted> {
    let Heard { mut send, recv, buffer, hello, version } = heard;
    let welcome = Welcome {
        version,
        node: host.node,
        incarnation: host.incarnation,
        server: concat!("coda/", env!("CARGO_PKG_VERSION")).into(),
    };
    let mut out = Vec::new();
    Frame::Welcome(welcome).encode(&mut out);
    send.write_all(&out).await.ok()?;
    Some(Greeted { send, recv, buffer, hello })
}

/// Tells every client to come back, to this node's successor or another.
pub fn send_away(sessions: &Sessions, why: &'static str) {
    let all = sessions.all();
    if !all.is_empty() {
        info!(sessions = all.len(), why, "sending sessions away");
    }
    for one in all {
        one.connection.close(VarInt::from_u32(CLOSE_SHUTDOWN), why.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use quinn_proto::{ConnectionIdGenerator, DatagramEvent, HashedConnectionIdGenerator};

    use super::*;

    const KEYS: QuicKeys = QuicKeys { reset: [7; 64], connection_ids: 7 };
    const SHORT_HEADER: u8 = 0x40;
    const PROBE_BYTES: usize = 40;

    /// What a client sends that has heard nothing for a while.
    fn probe(key: u64) -> BytesMut {
        let id = HashedConnectionIdGenerator::from_key(key).generate_cid();
        let mut probe = BytesMut::from([&[SHORT_HEADER], &id[..]].concat().as_slice());
        probe.resize(PROBE_BYTES, 0);
        probe
    }

    fn is_reset(endpoint: &mut quinn_proto::Endpoint, now: Instant, probe: BytesMut) -> bool {
        let from = SocketAddr::from(([127, 0, 0, 1], 4_747));
        let answer = endpoint.handle(now, from, None, None, probe, &mut Vec::new());
        matches!(answer, Some(DatagramEvent::Response(_)))
    }

    #[test]
    fn a_node_that_is_back_resets_all_connections_of_its_predecessor_at_once() {
        let mut endpoint = quinn_proto::Endpoint::new(Arc::new(endpoint_config(&KEYS)), None, true, None);
        let began = Instant::now();
        for client in 0..CONNECTIONS_MAX as u32 {
            let at = began + Duration::from_millis(100) * client / CONNECTIONS_MAX as u32;
            assert!(is_reset(&mut endpoint, at, probe(KEYS.connection_ids)), "client {client} has to ask again");
        }
        let later = began + Duration::from_secs(1);
        assert!(!is_reset(&mut endpoint, later, probe(8)), "an id that no node here has made");
    }
}
