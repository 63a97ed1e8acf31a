//! The one instantiation of openraft, and conversions between its types and ours.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use coda_engine::entry::{Applied, Entry};
use coda_protocol::codec;
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::{BasicNode, EntryPayload};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rows::{LogPoint, VoteRow};

openraft::declare_raft_types!(
    /// One leader per term (`leader_id_std`), so that a position's (term, index) names exactly one entry.
    pub(crate) Types:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = BasicNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = openraft::impls::TokioRuntime,
);

pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type Vote = VoteOf<Types>;
pub(crate) type RaftEntry = EntryOf<Types>;
pub(crate) type Membership = StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<Types>;

/// An entry on its way through Raft: decoded for `apply`, encoded for the log and for peers, cloned for nothing.
#[derive(Clone)]
pub(crate) struct Proposal(Arc<Inner>);

struct Inner {
    entry: Entry,
    bytes: Bytes,
}

impl Proposal {
    /// Encodes the entry, the only time on this node.
    pub fn new(entry: Entry) -> Self {
        let bytes = codec::encode(&entry).into();
        Self(Arc::new(Inner { entry, bytes }))
    }

    pub fn decode(bytes: Bytes) -> Result<Self, codec::Malformed> {
        let entry = codec::decode("log entry", &bytes)?;
        Ok(Self(Arc::new(Inner { entry, bytes })))
    }

    pub fn entry(&self) -> &Entry {
        &self.0.entry
    }

    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry of {} commands and {} B", self.0.entry.commands.len(), self.0.bytes.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.bytes)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Proposal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an encoded log entry")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Proposal, E> {
                Proposal::decode(Bytes::copy_from_slice(bytes)).map_err(E::custom)
            }
        }
        // Copied once they are known to be there, see `codec::bytes`.
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

pub(crate) fn log_id(point: LogPoint) -> LogId {
    LogId::new_term_index(point.term, point.index)
}

pub(crate) fn log_point(id: &LogId) -> LogPoint {
    LogPoint { term: **id.committed_leader_id(), index: id.index() }
}

pub(crate) fn vote(row: VoteRow) -> Vote {
    if row.committed { Vote::new_committed(row.term, row.node) } else { Vote::new(row.term, row.node) }
}

pub(crate) fn vote_row(vote: &Vote) -> VoteRow {
    VoteRow { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

/// Roughly the memory an entry takes while it is kept.
pub(crate) fn entry_bytes(entry: &RaftEntry) -> usize {
    const OVERHEAD: usize = 128;
    match &entry.payload {
        // Encoded and decoded: about twice the bytes.
        EntryPayload::Normal(proposal) => OVERHEAD + 2 * proposal.bytes().len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => OVERHEAD,
    }
}
