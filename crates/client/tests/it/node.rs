//! A node made of paper: it speaks the protocol over real QUIC and does exactly what the test tells it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use coda_client::ConnectOptions;
use coda_client::protocol::cluster::{ClusterMap, MapGroup, MapNode, NodeState};
use coda_client::protocol::frame::{Frame, Hello, Welcome};
use coda_client::protocol::ids::{ClusterId, GroupId, NodeId, Position};
use coda_client::protocol::limits::FRAME_BYTES_MAX;
use coda_client::protocol::push::{GroupLeader, Push};
use coda_client::protocol::reject::Refusal;
use coda_client::protocol::reply::{Answer, Reply};
use coda_client::protocol::request::Request;
use coda_client::protocol::slots::SlotMap;
use coda_client::protocol::version::ALPN_CLIENT;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;

const NODE: NodeId = NodeId(1);
/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Node {
    pub id: NodeId,
    pub address: SocketAddr,
    pub ca_pem: String,
    #[allow(dead_code, reason = "for `beside`")]
    config: quinn::ServerConfig,
    endpoint: Endpoint,
}

/// One client connection. `answer` and `push` write at once.
pub struct Peer {
    node: NodeId,
    address: SocketAddr,
    pub connection: Connection,
    pub hello: Hello,
    send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
}

pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

impl Node {
    pub fn start() -> Self {
        let (config, ca_pem) = server_config();
        Self::of(NODE, config, ca_pem)
    }

    /// Another one whose certificate is of the same authority.
    #[allow(dead_code, reason = "the tests of the programs use it, and this file")]
    pub fn beside(&self, id: NodeId) -> Self {
        Self::of(id, self.config.clone(), self.ca_pem.clone())
    }

    fn of(id: NodeId, config: quinn::ServerConfig, ca_pem: String) -> Self {
        let endpoint = Endpoint::server(config.clone(), "127.0.0.1:0".parse().unwrap()).unwrap();
        Self { id, address: endpoint.local_addr().unwrap(), ca_pem, config, endpoint }
    }

    pub fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new(&self.address.to_string(), self.ca_pem.as_bytes()).unwrap();
        options.connect_timeout = PATIENCE;
        options
    }

    /// A connection that fails in its handshake.
    pub async fn refused(&self) {
        assert!(within(self.endpoint.accept()).await.unwrap().await.is_err());
    }

    /// Turns the next connection away, as a node does that has too many.
    pub async fn turn_away(&self) {
        within(self.endpoint.accept()).await.unwrap().refuse();
    }

    /// The next connection, its hello read.
    pub async fn greeted(&self) -> Peer {
        within(async {
            let connection = self.endpoint.accept().await.unwrap().await.unwrap();
            let (send, mut recv) = connection.accept_bi().await.unwrap();
            let mut buffer = BytesMut::new();
            let Frame::Hello { hello, .. } = read(&mut recv, &mut buffer).await else { panic!("no hello") };
            Peer { node: self.id, address: self.address, connection, hello, send, recv, buffer }
        })
        .await
    }

    /// The next connection, welcomed.
    pub async fn accept(&self) -> Peer {
        let mut peer = self.greeted().await;
        peer.welcome(1).await;
        peer
    }
}

/// Of a cluster of this node and one group.
fn map(node: NodeId, address: SocketAddr) -> ClusterMap {
    let client_addr = address.to_string().into();
    ClusterMap {
        version: 1,
        cluster: ClusterId([7; 16]),
        commands_version: 1,
        nodes: vec![MapNode { node, client_addr, zone: "".into(), state: NodeState::Active }],
        groups: vec![MapGroup { group: GroupId(1), voters: vec![node], leader: Some(node) }],
        slots: SlotMap::even(1),
    }
}

/// Of a cluster of nodes at these addresses, numbered from 1, each of which leads the group of its number.
pub fn map_of(addresses: &[SocketAddr]) -> ClusterMap {
    let ids = || 1..=addresses.len() as u64;
    let node = |(id, address): (u64, &SocketAddr)| {
        let client_addr = address.to_string().into();
        MapNode { node: NodeId(id), client_addr, zone: "".into(), state: NodeState::Active }
    };
    let group = |id| {
        let voters = ids().map(NodeId).collect();
        MapGroup { group: GroupId(id as u32), voters, leader: Some(NodeId(id)) }
    };
    ClusterMap {
        version: 1,
        cluster: ClusterId([7; 16]),
        commands_version: 1,
        nodes: ids().zip(addresses).map(node).collect(),
        groups: ids().map(group).collect(),
        slots: SlotMap::even(addresses.len() as u16),
    }
}

impl Peer {
    pub async fn welcome(&mut self, version: u16) {
        let welcome = Welcome { version, node: self.node, incarnation: 7, server: "paper/1".into() };
        let map = Push::Map(map(self.node, self.address));
        let leader = Push::Leader(GroupLeader { group: GroupId(1), term: 1, leader: Some(self.node) });
        self.write(&[Frame::Welcome(welcome), Frame::Push(map), Frame::Push(leader)]).await;
    }

    /// As a node of a cluster, which leads the group of its number.
    pub async fn welcome_to(&mut self, version: u16, node: NodeId, map: ClusterMap) {
        let welcome = Welcome { version, node, incarnation: 7, server: "paper/1".into() };
        let leader = GroupLeader { group: GroupId(node.0 as u32), term: 1, leader: Some(node) };
        self.write(&[Frame::Welcome(welcome), Frame::Push(Push::Map(map)), Frame::Push(Push::Leader(leader))]).await;
    }

    /// The next request on the shared stream.
    pub async fn next(&mut self) -> (u64, Request) {
        let Frame::Request { id, request } = within(read(&mut self.recv, &mut self.buffer)).await else { panic!() };
        (id, request)
    }

    /// The next request, which must ask for an answer.
    pub async fn asked(&mut self) -> (u64, Request) {
        let (id, request) = self.next().await;
        assert_ne!(id, 0, "{request:?}");
        (id, request)
    }

    /// The next request that came on a stream of its own.
    pub async fn next_alone(&mut self) -> (u64, Request) {
        let mut stream = within(self.connection.accept_uni()).await.unwrap();
        let bytes = Bytes::from(within(stream.read_to_end(FRAME_BYTES_MAX + 4)).await.unwrap());
        let Frame::Request { id, request } = Frame::decode(bytes.slice(4..)).unwrap() else { panic!() };
        (id, request)
    }

    pub async fn answer(&mut self, id: u64, reply: Reply) {
        self.write(&[answer(id, Ok(reply))]).await;
    }

    pub async fn refuse(&mut self, id: u64, refusal: impl Into<Refusal>) {
        self.write(&[answer(id, Err(refusal.into()))]).await;
    }

    pub async fn push(&mut self, push: Push) {
        self.write(&[Frame::Push(push)]).await;
    }

    pub async fn write(&mut self, frames: &[Frame]) {
        let mut out = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        self.write_raw(&out).await;
    }

    pub async fn write_raw(&mut self, bytes: &[u8]) {
        within(self.send.write_all(bytes)).await.unwrap();
    }

    /// Sends a frame on a stream of its own.
    pub async fn write_alone(&mut self, frame: Frame) {
        let mut out = Vec::new();
        frame.encode(&mut out);
        let mut stream = within(self.connection.open_uni()).await.unwrap();
        within(stream.write_all(&out)).await.unwrap();
        stream.finish().unwrap();
    }

    /// Answers everything, one write for all that was read, for ever.
    pub async fn echo(&mut self) {
        let mut out = Vec::new();
        while let Ok(Some(chunk)) = self.recv.read_chunk(1 << 20, true).await {
            self.buffer.extend_from_slice(&chunk.bytes);
            while let Some(frame) = Frame::take(&mut self.buffer).unwrap() {
                let Frame::Request { id, .. } = frame else { panic!() };
                answer(id, Ok(Reply::Done)).encode(&mut out);
            }
            self.send.write_all(&out).await.unwrap();
            out.clear();
        }
    }

    /// The application code with which the client closed.
    pub async fn close_code(&self) -> u64 {
        match within(self.connection.closed()).await {
            quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("{other}"),
        }
    }

    pub fn close(&self, code: u32, reason: &str) {
        self.connection.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Everything that a worker of one queue says first: resume, subscribe, credit for both kinds.
    pub async fn worker_greeting(&mut self) -> Vec<Request> {
        let mut greeting = Vec::new();
        loop {
            let (id, request) = self.next().await;
            match &request {
                Request::Resume(_) => self.answer(id, Reply::Resumed { lost: vec![] }).await,
                Request::Subscribe(_) => self.answer(id, Reply::Done).await,
                _ => {}
            }
            greeting.push(request);
            if greeting.len() == 4 {
                return greeting;
            }
        }
    }
}

pub fn answer(id: u64, result: Result<Reply, Refusal>) -> Frame {
    Frame::Answer { id, answer: Answer { position: Position { group: 0, term: 1, index: id }, result } }
}

async fn read(recv: &mut RecvStream, buffer: &mut BytesMut) -> Frame {
    loop {
        if let Some(frame) = Frame::take(buffer).unwrap() {
            return frame;
        }
        let chunk = recv.read_chunk(1 << 20, true).await.unwrap().expect("the stream ended");
        buffer.extend_from_slice(&chunk.bytes);
    }
}

fn server_config() -> (quinn::ServerConfig, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["coda".into()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    (config, ca_pem)
}
