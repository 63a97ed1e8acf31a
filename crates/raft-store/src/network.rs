//! Openraft's calls, turned into bytes for [`PeerTransport`] and back. Every message starts with a version byte.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use coda_protocol::codec::{self, Malformed};
use coda_protocol::ids::{GroupId, NodeId};
use futures::{FutureExt, Stream, StreamExt, future};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use openraft::{BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::commits::WithCommits;
use crate::image::Image;
use crate::owed::Owed;
use crate::peers::{Peer, PeerError, PeerTransport, Rpc};
use crate::rows::{LogPoint, MembershipRow};
use crate::store::NodeStore;
use crate::types::{LogId, SnapshotMeta, Types, Vote, log_id, log_point};

const MESSAGE_VERSION: u8 = 1;

type RpcResult<T> = Result<T, RPCError<Types>>;

/// What goes before a snapshot file.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotHead {
    vote: Vote,
    applied: Option<LogPoint>,
    membership: MembershipRow,
}

impl SnapshotHead {
    pub fn new(vote: Vote, applied: Option<LogPoint>, membership: MembershipRow) -> Self {
        Self { vote, applied, membership }
    }

    pub fn into_parts(self) -> Result<(Vote, SnapshotMeta), crate::error::StoreError> {
        let last_membership = self.membership.to_stored()?;
        Ok((self.vote, SnapshotMeta { last_log_id: self.applied.map(log_id), last_membership }))
    }
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    let mut out = vec![MESSAGE_VERSION];
    codec::encode_into(message, &mut out);
    out.into()
}

pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Malformed> {
    match bytes.split_first() {
        Some((&MESSAGE_VERSION, body)) => codec::decode(what, body),
        Some((version, _)) => Err(Malformed { what, why: format!("unknown version {version}") }),
        None => Err(Malformed { what, why: "empty".into() }),
    }
}

/// Makes one connection per peer and purpose; they share the transport.
#[derive(Clone)]
pub(crate) struct Network {
    group: GroupId,
    peers: Arc<dyn PeerTransport>,
    store: NodeStore,
    owed: Arc<Owed>,
    /// Names the files of snapshots being sent.
    snapshots_sent: Arc<AtomicU64>,
}

impl Network {
    pub fn new(group: GroupId, peers: Arc<dyn PeerTransport>, store: NodeStore, owed: Arc<Owed>) -> Self {
        Self { group, peers, store, owed, snapshots_sent: Arc::default() }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Connection {
        Connection { network: self.clone(), peer: Peer { node: NodeId(target), addr: node.addr.clone() } }
    }
}

pub(crate) struct Connection {
    network: Network,
    peer: Peer,
}

impl Connection {
    async fn call<Q: Serialize, A: DeserializeOwned>(&self, rpc: Rpc, request: &Q, option: RPCOption) -> RpcResult<A> {
        let Network { group, peers, .. } = &self.network;
        let answer = peers.call(&self.peer, *group, rpc, encode(request), option.hard_ttl()).await;
        decode_answer(answer)
    }
}

fn rpc_error(error: &PeerError) -> RPCError<Types> {
    match error {
        PeerError::Unreachable(_) => RPCError::Unreachable(Unreachable::new(error)),
        PeerError::Failed(_) => RPCError::Network(NetworkError::new(error)),
    }
}

fn decode_answer<A: DeserializeOwned>(answer: Result<Bytes, PeerError>) -> RpcResult<A> {
    let answer = answer.map_err(|error| rpc_error(&error))?;
    decode("answer of a peer", &answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<Types>> {
        self.call(Rpc::Append, &rpc, option).await
    }

    /// Without this, openraft would wait for each answer before the next request.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<Types>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let requests = WithCommits::new(input).map(|request| encode(&request)).boxed();
        let Network { group, peers, .. } = &self.network;
        let answers = peers.appends(&self.peer, *group, requests);
        let open = async move {
            let answers = answers.await.map_err(|error| rpc_error(&error))?;
            let answers: BoxStream<'s, _> = answers.map(decode_answer).boxed();
            Ok(answers)
        };
        open.boxed()
    }

    async fn vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> RpcResult<VoteResponse<Types>> {
        self.call(Rpc::Vote, &rpc, option).await
    }

    /// The default grants on behalf of the unreachable; ours asks.
    async fn pre_vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> RpcResult<VoteResponse<Types>> {
        self.call(Rpc::PreVote, &rpc, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<Types, Image>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Network { group, peers, store, owed, snapshots_sent } = &self.network;
        let _sending = owed.owe(self.peer.node.0, snapshot.meta.last_log_id.as_ref().map_or(0, LogId::index));
        let meta = &snapshot.meta;
        let membership = MembershipRow::stored(&meta.last_membership);
        let head = SnapshotHead::new(vote, meta.last_log_id.as_ref().map(log_point), membership);
        let number = snapshots_sent.fetch_add(1, Ordering::Relaxed);
        let place = store.snapshot_file(&format!("sending-{}-{number}", group.0));
        let send = async {
            let file = snapshot.snapshot.into_file(place.path().to_owned()).await;
            let path = file.map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
            let file = store.snapshot_file_at(path);
            let answer = peers.snapshot(&self.peer, *group, encode(&head), file).await;
            decode_answer(answer).map_err(StreamingError::from)
        };
        let result = match future::select(std::pin::pin!(send), std::pin::pin!(cancel)).await {
            future::Either::Left((result, _)) => result,
            future::Either::Right((closed, _)) => Err(closed.into()),
        };
        // Left over after a cancellation, it is removed at the next start.
        let _ = place.remove();
        result
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<Types>> {
        self.call(Rpc::TransferLeader, &req, option).await
    }
}
