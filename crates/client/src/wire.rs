//! One QUIC connection: TLS against the cluster's CA alone, the transport's bounds, hello, welcome and map.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use coda_protocol::cluster::ClusterMap;
use coda_protocol::frame::{
    CLOSE_GOODBYE, CLOSE_REPLACED, CLOSE_SHUTDOWN, CLOSE_SLOW_FRAME, CLOSE_TOO_SLOW, Frame, FrameError, Hello, Welcome,
};
use coda_protocol::limits::PAYLOAD_STREAMS_MAX;
use coda_protocol::push::Push;
use coda_protocol::version::{ALPN_CLIENT, WIRE_VERSIONS, agree};
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportErrorCode, VarInt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::certificate::ClientCertificate;
use crate::error::ClientError;
use crate::network::Network;

/// Every node's certificate carries this name, whatever its address.
const SERVER_NAME: &str = "coda";
const KEEP_ALIVE: Duration = Duration::from_millis(1_000);
const IDLE_TIMEOUT_MS: u32 = 5_000;
/// Before the first round trip is measured. The default of 333 ms makes an early loss slow to recover from.
const INITIAL_RTT: Duration = Duration::from_millis(100);
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The first read buffer. It grows to a frame's size where needed.
const READ_BYTES: usize = 64 << 10;

/// Why there is no connection, or none any more.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Another attempt may succeed.
    ForNow(String),
    /// Another attempt at this node would end the same way.
    ForGood(ClientError),
}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        Self::ForGood(ClientError::Protocol(error))
    }
}

/// An open connection after its handshake.
pub(crate) struct Wire {
    pub connection: Connection,
    pub send: SendStream,
    pub recv: RecvStream,
    /// What arrived after the map.
    pub buffer: BytesMut,
    pub welcome: Welcome,
    /// None from a node that is in no cluster.
    pub map: Option<ClusterMap>,
}

/// Makes connections from one socket per address family, so that a reconnect costs a handshake and nothing else.
pub(crate) struct Dialer {
    config: quinn::ClientConfig,
    endpoints: Mutex<[Option<Endpoint>; 2]>,
    hello: Hello,
    outside: bool,
    network: Arc<dyn Network>,
}

impl Dialer {
    pub(crate) fn new(
        ca_pem: &[u8],
        certificate: Option<&ClientCertificate>,
        hello: Hello,
        outside: bool,
        network: Arc<dyn Network>,
    ) -> Result<Self, ClientError> {
        let mut config = quinn::ClientConfig::new(Arc::new(tls(ca_pem, certificate)?));
        config.transport_config(Arc::new(transport()));
        Ok(Self { config, endpoints: Mutex::new([None, None]), hello, outside, network })
    }

    /// Connects, says hello and waits for the welcome and the map.
    pub(crate) async fn dial(&self, address: &str) -> Result<Wire, Broken> {
        let for_now = |error: &dyn std::fmt::Display| Broken::ForNow(error.to_string());
        let mut resolved = tokio::net::lookup_host(address).await.map_err(|error| for_now(&error))?;
        let remote = resolved.next().ok_or_else(|| Broken::ForNow(format!("{address} has no IP address")))?;
        let endpoint = self.endpoint(remote)?;
        let connecting =
            endpoint.connect_with(self.config.clone(), remote, SERVER_NAME).map_err(|error| for_now(&error))?;
        let connection = connecting.await.map_err(|error| broken(address, &error))?;
        let greeted = match greet(&connection, &self.hello).await {
            Ok(Wire { map: None, welcome, .. }) if !self.outside => {
                let why = format!("node {} is in no cluster yet", welcome.node.0);
                connection.close(VarInt::from_u32(CLOSE_GOODBYE), why.as_bytes());
                return Err(Broken::ForNow(why));
            }
            greeted => greeted,
        };
        greeted.map_err(|error| match error {
            Broken::ForGood(error) => {
                refuse(&connection, &error);
                Broken::ForGood(error)
            }
            // The close code says more than the stream's error.
            Broken::ForNow(_) => connection.close_reason().map_or(error, |reason| broken(address, &reason)),
        })
    }

    fn endpoint(&self, remote: SocketAddr) -> Result<Endpoint, Broken> {
        let mut endpoints = self.endpoints.lock();
        let slot = &mut endpoints[usize::from(remote.is_ipv6())];
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let endpoint = self
            .network
            .open(remote)
            .map_err(|error| Broken::ForGood(ClientError::Socket { why: error.to_string() }))?;
        Ok(slot.insert(endpoint).clone())
    }

    /// Waits until closed connections have said so.
    pub(crate) async fn idle(&self) {
        let endpoints = self.endpoints.lock().clone();
        for endpoint in endpoints.into_iter().flatten() {
            endpoint.wait_idle().await;
        }
    }
}

/// Tells the node why its bytes are refused.
pub(crate) fn refuse(connection: &Connection, error: &ClientError) {
    if let ClientError::Protocol(error) = error {
        connection.close(VarInt::from_u32(error.close_code()), error.to_string().as_bytes());
    }
}

/// Sorts a connection's end into those worth another attempt and the others.
pub(crate) fn broken(address: &str, error: &ConnectionError) -> Broken {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            match u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX) {
                CLOSE_SHUTDOWN => Broken::ForNow("the node is shutting down".into()),
                CLOSE_REPLACED => Broken::ForNow("another connection of this session replaced this one".into()),
                CLOSE_GOODBYE => Broken::ForNow("the node said goodbye".into()),
                // Whoever was slow for a while need not be for ever, and what it missed is said again.
                CLOSE_TOO_SLOW => Broken::ForNow(format!("CODA1008 {reason}")),
                CLOSE_SLOW_FRAME => Broken::ForNow(format!("CODA1115 {reason}")),
                code @ 1_000..2_000 => Broken::ForGood(ClientError::ClosedByNode { code, reason }),
                code => Broken::ForNow(format!("closed with code {code} {reason}")),
            }
        }
        ConnectionError::TransportError(error) if is_tls(error.code) => {
            Broken::ForGood(ClientError::Untrusted { address: address.to_owned(), why: error.to_string() })
        }
        ConnectionError::ConnectionClosed(close) if is_tls(close.error_code) => {
            Broken::ForGood(refused_by_node(address, close))
        }
        ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
            Broken::ForNow("CODA1009 the node has as many connections as it takes".into())
        }
        ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => Broken::ForNow(error.to_string()),
    }
}

/// QUIC carries a TLS alert as transport error 0x100 + alert.
const TLS_ALERT: u64 = 0x100;

fn is_tls(code: TransportErrorCode) -> bool {
    (TLS_ALERT..2 * TLS_ALERT).contains(&u64::from(code))
}

/// What the node's alert says about this side. Numbers are those of RFC 8446.
fn refused_by_node(address: &str, close: &quinn::ConnectionClose) -> ClientError {
    let address = address.to_owned();
    let refused = |why: &str| ClientError::CertificateRefused { address: address.clone(), why: why.into() };
    match u64::from(close.error_code) - TLS_ALERT {
        116 => ClientError::CertificateRequired { address },
        45 => refused("it has expired, or is not valid yet"),
        48 | 51 => refused("no authority that the node trusts has signed it"),
        49 => refused("it is not a client's or node's certificate of this cluster"),
        43 => refused("it may not be used by a client"),
        42 | 44 | 46 => refused(&close.to_string()),
        _ => ClientError::Untrusted { address, why: close.to_string() },
    }
}

async fn greet(connection: &Connection, hello: &Hello) -> Result<Wire, Broken> {
    let for_now = |error: &dyn std::fmt::Display| Broken::ForNow(error.to_string());
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| for_now(&error))?;
    let mut out = Vec::with_capacity(128);
    Frame::Hello { versions: WIRE_VERSIONS, hello: hello.clone() }.encode(&mut out);
    send.write_all(&out).await.map_err(|error| for_now(&error))?;
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut welcomed = None;
    loop {
        match (Frame::take(&mut buffer)?, welcomed.take()) {
            (Some(Frame::Welcome(welcome)), None) => {
                let theirs = (welcome.version, welcome.version);
                agree(WIRE_VERSIONS, theirs).ok_or(FrameError::VersionMismatch { ours: WIRE_VERSIONS, theirs })?;
                welcomed = Some(welcome);
                continue;
            }
            (Some(Frame::Push(Push::Map(map))), Some(welcome)) => {
                let map = Some(map);
                return Ok(Wire { connection: connection.clone(), send, recv, buffer, welcome, map });
            }
            (Some(Frame::Push(Push::Outside)), Some(welcome)) => {
                return Ok(Wire { connection: connection.clone(), send, recv, buffer, welcome, map: None });
            }
            (Some(_), None) => return Err(FrameError::Unexpected { what: "the first is not a welcome" }.into()),
            (Some(_), Some(_)) => return Err(FrameError::Unexpected { what: "the second is not a map" }.into()),
            (None, welcome) => welcomed = welcome,
        }
        if read_more(&mut recv, &mut buffer).await.map_err(|error| for_now(&error))? == 0 {
            return Err(Broken::ForNow("the node ended the stream".into()));
        }
    }
}

/// Appends what the stream has; 0 means it ended. Cancel safe.
pub(crate) async fn read_more(recv: &mut RecvStream, buffer: &mut BytesMut) -> std::io::Result<usize> {
    if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
        buffer.reserve(READ_BYTES);
    }
    tokio::io::AsyncReadExt::read_buf(recv, buffer).await
}

fn tls(ca_pem: &[u8], certificate: Option<&ClientCertificate>) -> Result<QuicClientConfig, ClientError> {
    let bad = |error: &dyn std::fmt::Display| ClientError::BadCa { why: error.to_string() };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() {
        return Err(bad(&"it holds no certificate"));
    }
    // The provider is named here: with two in the build, rustls would panic rather than choose.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| bad(&error))?
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let (chain, key) = certificate.parse()?;
            // It compares the two.
            let with = builder.with_client_auth_cert(chain, key);
            with.map_err(|error| ClientError::BadCertificate { why: error.to_string() })?
        }
    };
    config.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
    // Early data could be replayed by an attacker.
    config.enable_early_data = false;
    QuicClientConfig::try_from(config).map_err(|error| bad(&error))
}

fn transport() -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    config
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        .initial_rtt(INITIAL_RTT)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .max_concurrent_uni_streams(VarInt::from_u32(PAYLOAD_STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    config
}
