//! Raw connections: real TLS and QUIC, and then any bytes at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use coda_protocol::frame::{Frame, Hello, Welcome};
use coda_protocol::ids::{GroupId, Millis, Name, SessionId, TaskId, WorkKind};
use coda_protocol::payload::Payload;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::push::{Push, TaskLease};
use coda_protocol::reject::Refusal;
use coda_protocol::reply::Reply;
use coda_protocol::request::{Credit, Request, Resume, SubmitTask, Subscribe};
use coda_protocol::version::WIRE_VERSIONS;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::{logs, soon};

/// A connection with its one stream.
pub struct Raw {
    pub connection: Connection,
    pub send: SendStream,
    pub recv: RecvStream,
    pub endpoint: Endpoint,
    pub session: SessionId,
    buffer: BytesMut,
    next_id: u64,
    /// Pushes that came while something else was waited for.
    pushes: Vec<Push>,
    /// What was said of the cluster: maps and leaders.
    pub told: Vec<Push>,
}

/// A client configuration that trusts this authority and speaks these protocols.
#[must_use]
pub fn tls(ca_pem: &[u8], alpn: &[&[u8]]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

#[must_use]
pub fn client_config(tls: rustls::ClientConfig) -> quinn::ClientConfig {
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS for QUIC")));
    let mut transport = quinn::TransportConfig::default();
    // As the SDK does: whoever says nothing would not learn of a close whose one datagram was lost.
    transport.keep_alive_interval(Some(Duration::from_millis(200)));
    config.transport_config(Arc::new(transport));
    config
}

#[must_use]
pub fn endpoint() -> Endpoint {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
    // As the SDK does: a small buffer loses the close that follows a burst.
    drop(socket.set_recv_buffer_size(4 << 20));
    let any: SocketAddr = "127.0.0.1:0".parse().expect("constant");
    socket.bind(&any.into()).expect("a port");
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(quinn::EndpointConfig::default(), None, socket.into(), runtime).expect("an endpoint")
}

/// A task that nothing is known of but its name.
#[must_use]
pub fn submit(name: &str, queue: &str) -> Request {
    Request::SubmitTask(SubmitTask {
        task: TaskId::random(),
        name: name.into(),
        queue: queue.into(),
        args: Payload::json("1"),
        priority: 4,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    })
}

/// One frame's bytes.
#[must_use]
pub fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

/// Code and reason of a connection that the node has closed.
pub async fn closed(connection: &Connection) -> (u32, String) {
    match soon("the node closes the connection", connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => (
            u32::try_from(close.error_code.into_inner()).expect("a small code"),
            String::from_utf8(close.reason.to_vec()).expect("text"),
        ),
        other => panic!("not closed by the node: {other}"),
    }
}

impl Raw {
    pub async fn connect(address: SocketAddr, ca_pem: &[u8]) -> Self {
        Self::connect_with(endpoint(), client_config(tls(ca_pem, &[b"coda"])), address).await
    }

    pub async fn connect_with(endpoint: Endpoint, config: quinn::ClientConfig, address: SocketAddr) -> Self {
        logs::forget(endpoint.local_addr().expect("bound"));
        let connecting = endpoint.connect_with(config, address, "coda").expect("a good configuration");
        let connection = soon("a handshake", connecting).await.expect("connected");
        let (send, recv) = soon("a stream", connection.open_bi()).await.expect("a stream");
        let session = SessionId::random();
        Self {
            connection,
            send,
            recv,
            endpoint,
            session,
            buffer: BytesMut::new(),
            next_id: 1,
            pushes: Vec::new(),
            told: Vec::new(),
        }
    }

    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("bound")
    }

    pub async fn say(&mut self, bytes: &[u8]) {
        // The node may have closed the connection already: the test looks at that.
        drop(soon("a write", self.send.write_all(bytes)).await);
    }

    pub async fn say_frame(&mut self, frame: &Frame) {
        self.say(&bytes_of(frame)).await;
    }

    /// Says hello and reads the welcome.
    pub async fn greet(self) -> Self {
        let session = self.session;
        self.greet_as(session).await.0
    }

    pub async fn greet_as(mut self, session: SessionId) -> (Self, Welcome) {
        self.session = session;
        let hello = Hello { session, agent: "raw/1".into() };
        self.say_frame(&Frame::Hello { versions: WIRE_VERSIONS, hello }).await;
        match self.frame().await {
            Frame::Welcome(welcome) => (self, welcome),
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// Takes a session over, and goes. Its owner may be back before this one is welcome.
    pub async fn take_over(mut self, session: SessionId) {
        let hello = Hello { session, agent: "raw/1".into() };
        self.say_frame(&Frame::Hello { versions: WIRE_VERSIONS, hello }).await;
        drop(soon("a welcome, or the end", self.recv.read_chunk(1 << 20, true)).await);
        self.close(9).await;
    }

    /// The next frame, but for what is said of the cluster: see [`Raw::told`].
    pub async fn frame(&mut self) -> Frame {
        loop {
            match self.any_frame().await {
                Frame::Push(push @ (Push::Map(_) | Push::Leader(_))) => self.told.push(push),
                other => return other,
            }
        }
    }

    /// The next frame, on the main stream or on one of its own.
    async fn any_frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer).expect("the node's frames are good") {
                return frame;
            }
            let next = async {
                tokio::select! {
                    chunk = self.recv.read_chunk(1 << 20, true) => {
                        let chunk = chunk.unwrap_or_else(|e| panic!("{e}: {:?}", self.connection.close_reason()));
                        self.buffer.extend_from_slice(&chunk.expect("the node keeps its stream").bytes);
                        None
                    }
                    stream = self.connection.accept_uni() => {
                        let bytes = stream.expect("a stream").read_to_end(8 << 20).await.expect("a payload");
                        Frame::take(&mut BytesMut::from(&bytes[..])).expect("a good frame")
                    }
                }
            };
            if let Some(frame) = soon("a frame", next).await {
                return frame;
            }
        }
    }

    /// Sends a request; its id.
    pub async fn post(&mut self, request: Request) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.say_frame(&Frame::Request { id, request }).await;
        id
    }

    pub async fn ask(&mut self, request: Request) -> Result<Reply, Refusal> {
        let id = self.post(request).await;
        self.answer(id).await
    }

    pub async fn answer(&mut self, wanted: u64) -> Result<Reply, Refusal> {
        loop {
            match self.frame().await {
                Frame::Answer { id, answer } if id == wanted => return answer.result,
                Frame::Answer { .. } => {}
                Frame::Push(push) => self.pushes.push(push),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// The next push.
    pub async fn push(&mut self) -> Push {
        if !self.pushes.is_empty() {
            return self.pushes.remove(0);
        }
        loop {
            if let Frame::Push(push) = self.frame().await {
                return push;
            }
        }
    }

    /// The next task.
    pub async fn task(&mut self) -> TaskLease {
        match self.push().await {
            Push::Task(lease) => lease,
            other => panic!("not a task: {other:?}"),
        }
    }

    /// Pushes that came so far, as of an answered request.
    pub async fn pushes_so_far(&mut self) -> Vec<Push> {
        self.ask(Request::DescribeNode).await.expect("described");
        std::mem::take(&mut self.pushes)
    }

    /// Says what a worker says first.
    pub async fn serve(&mut self, queue: &str, tasks: &[&str], slots: u32) {
        self.resume(1).await;
        self.subscribe(queue, tasks).await;
        self.credit(queue, slots).await;
    }

    /// Tells a group's leader that it holds nothing.
    pub async fn resume(&mut self, group: u32) {
        let resume = Resume { group: GroupId(group), held: Vec::new() };
        self.ask(Request::Resume(resume)).await.expect("resumed");
    }

    pub async fn subscribe(&mut self, queue: &str, tasks: &[&str]) {
        let tasks: Vec<Name> = tasks.iter().map(|name| (*name).into()).collect();
        let subscribe = Subscribe { queue: queue.into(), tasks, workflows: Vec::new() };
        self.ask(Request::Subscribe(subscribe)).await.expect("subscribed");
    }

    pub async fn credit(&mut self, queue: &str, slots: u32) {
        let credit = Credit { queue: queue.into(), kind: WorkKind::Task, slots };
        self.say_frame(&Frame::Request { id: 0, request: Request::Credit(credit) }).await;
    }

    /// Sends bytes on a unidirectional stream of their own.
    pub async fn payload(&self, bytes: &[u8]) {
        let mut stream = soon("a stream", self.connection.open_uni()).await.expect("a stream");
        drop(soon("a write", stream.write_all(bytes)).await);
        drop(stream.finish());
    }

    pub async fn closed(&self) -> (u32, String) {
        closed(&self.connection).await
    }

    /// Closes with a code of our own.
    pub async fn close(self, code: u32) {
        self.connection.close(VarInt::from_u32(code), b"");
        soon("the close leaves", self.endpoint.wait_idle()).await;
    }
}
