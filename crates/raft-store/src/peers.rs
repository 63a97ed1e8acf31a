//! The seam to other nodes: who carries Raft's messages. Bytes in, bytes out; no network is implemented here.
//!
//! The sender calls [`PeerTransport`]; at the other end the same bytes go to [`crate::group::Group::serve`],
//! [`crate::group::Group::serve_appends`] or [`crate::group::Group::serve_snapshot`], whose answer travels back.

use std::time::Duration;

use bytes::Bytes;
use coda_protocol::ids::{GroupId, NodeId};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use thiserror::Error;

use crate::files::SnapshotFile;

/// A node as a group's membership knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    /// What was given when it joined; empty for a node that never has peers.
    pub addr: String,
}

/// The kinds of calls, each with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rpc {
    Append,
    Vote,
    PreVote,
    TransferLeader,
}

/// A peer did not answer. Raft tries again by itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// Nothing listens there; trying again at once is useless.
    #[error("peer unreachable: {0}")]
    Unreachable(String),
    /// The call was lost or cut off.
    #[error("call to peer failed: {0}")]
    Failed(String),
}

/// A call under way.
pub type Call<'a, T> = BoxFuture<'a, Result<T, PeerError>>;

/// Carries messages between nodes.
pub trait PeerTransport: Send + Sync + 'static {
    /// One call, one answer, within `timeout`.
    fn call(&self, to: &Peer, group: GroupId, rpc: Rpc, body: Bytes, timeout: Duration) -> Call<'_, Bytes>;

    /// A stream of appends and the stream of their answers, in order. Pipelined: the next request does not wait for
    /// the last answer. Ends when the requests end, or with its first error.
    fn appends(
        &self,
        to: &Peer,
        group: GroupId,
        requests: BoxStream<'static, Bytes>,
    ) -> Call<'_, BoxStream<'static, Result<Bytes, PeerError>>>;

    /// Sends a snapshot file with `head` before it. The file is removed by the caller once this returns.
    fn snapshot(&self, to: &Peer, group: GroupId, head: Bytes, file: SnapshotFile) -> Call<'_, Bytes>;
}

/// A node without peers: nobody is ever reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl NoPeers {
    fn refuse<T: Send + 'static>(to: &Peer) -> Call<'static, T> {
        let error = PeerError::Unreachable(format!("this node has no peers, node {} was asked for", to.node.0));
        Box::pin(std::future::ready(Err(error)))
    }
}

impl PeerTransport for NoPeers {
    fn call(&self, to: &Peer, _: GroupId, _: Rpc, _: Bytes, _: Duration) -> Call<'_, Bytes> {
        Self::refuse(to)
    }

    fn appends(
        &self,
        to: &Peer,
        _: GroupId,
        _: BoxStream<'static, Bytes>,
    ) -> Call<'_, BoxStream<'static, Result<Bytes, PeerError>>> {
        Self::refuse(to)
    }

    fn snapshot(&self, to: &Peer, _: GroupId, _: Bytes, _: SnapshotFile) -> Call<'_, Bytes> {
        Self::refuse(to)
    }
}
