//! Our own records on disk: log records, votes, positions, memberships. Every one starts with a version byte.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coda_protocol::codec;
use openraft::{BasicNode, EntryPayload};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::types::{Membership, Proposal, RaftEntry, Types, log_id, log_point};

/// The version that this binary writes, and the only one it reads.
const RECORD_VERSION: u8 = 1;

const KIND_BLANK: u8 = 0;
const KIND_ENTRY: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// A place in the log of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPoint {
    pub term: u64,
    pub index: u64,
}

/// For whom a node voted, and whether that candidate has become the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRow {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

/// Who belongs to a group: independent of how openraft lays out its own types.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipRow {
    /// Where the log says so; absent before the first membership entry.
    pub at: Option<LogPoint>,
    /// One set of voters, or two during a change.
    pub voters: Vec<BTreeSet<u64>>,
    /// Address by node, learners included.
    pub nodes: BTreeMap<u64, String>,
}

impl MembershipRow {
    pub fn of(at: Option<LogPoint>, membership: &openraft::Membership<u64, BasicNode>) -> Self {
        Self {
            at,
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(node, row)| (*node, row.addr.clone())).collect(),
        }
    }

    pub fn stored(membership: &Membership) -> Self {
        Self::of(membership.log_id().as_ref().map(log_point), membership.membership())
    }

    fn membership(&self) -> Result<openraft::Membership<u64, BasicNode>, String> {
        let nodes: BTreeMap<u64, BasicNode> =
            self.nodes.iter().map(|(node, addr)| (*node, BasicNode::new(addr))).collect();
        if self.voters.is_empty() && nodes.is_empty() {
            return Ok(openraft::Membership::default());
        }
        openraft::Membership::new(self.voters.clone(), nodes).map_err(|error| error.to_string())
    }

    pub fn to_stored(&self) -> Result<Membership, StoreError> {
        let membership = self.membership().map_err(|why| unreadable("of a membership", why))?;
        Ok(Membership::new(self.at.map(log_id), membership))
    }
}

fn unreadable(at: impl Into<String>, why: impl Into<String>) -> StoreError {
    StoreError::UnreadableRecord { at: at.into(), why: why.into() }
}

/// A row in a versioned envelope: `u8 version | value`.
pub(crate) fn encode_row<T: Serialize>(row: &T) -> Vec<u8> {
    let mut out = vec![RECORD_VERSION];
    codec::encode_into(row, &mut out);
    out
}

/// Reads what [`encode_row`] wrote.
pub(crate) fn decode_row<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    let body = check_version(what, bytes)?;
    codec::decode(what, body).map_err(|error| unreadable(what, error.to_string()))
}

fn check_version<'a>(what: &str, bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match bytes.split_first() {
        Some((&RECORD_VERSION, body)) => Ok(body),
        Some((found, _)) => {
            Err(unreadable(what, format!("unknown version {found}; this binary understands {RECORD_VERSION}")))
        }
        None => Err(unreadable(what, "it is empty")),
    }
}

/// One log record: `u8 version | u8 kind | u64 LE term | body`. The index is in the key.
pub(crate) fn encode_record(entry: &RaftEntry) -> Bytes {
    let (kind, body): (u8, &[u8]) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, &[]),
        EntryPayload::Normal(proposal) => (KIND_ENTRY, proposal.bytes()),
        EntryPayload::Membership(_) => (KIND_MEMBERSHIP, &[]),
    };
    let mut out = Vec::with_capacity(10 + body.len());
    out.extend_from_slice(&[RECORD_VERSION, kind]);
    out.extend_from_slice(&log_point(&entry.log_id).term.to_le_bytes());
    out.extend_from_slice(body);
    if let EntryPayload::Membership(membership) = &entry.payload {
        codec::encode_into(&MembershipRow::of(None, membership), &mut out);
    }
    out.into()
}

/// The term of a record, without decoding the rest.
pub(crate) fn record_term(at: &str, record: &[u8]) -> Result<u64, StoreError> {
    let body = check_version(at, record)?;
    let term = body.get(1..9).ok_or_else(|| unreadable(at, "it is cut short"))?;
    Ok(u64::from_le_bytes(term.try_into().expect("eight bytes")))
}

/// Reads what [`encode_record`] wrote. An unknown version, kind or command is an error, never skipped.
pub(crate) fn decode_record(group: u32, index: u64, record: &Bytes) -> Result<RaftEntry, StoreError> {
    let at = format!("{index} of group {group}");
    let term = record_term(&at, record)?;
    let body = record.slice(10..);
    let payload: openraft::type_config::alias::PayloadOf<Types> = match record[1] {
        KIND_BLANK => EntryPayload::Blank,
        KIND_ENTRY => EntryPayload::Normal(Proposal::decode(body).map_err(|error| unreadable(&at, error.to_string()))?),
        KIND_MEMBERSHIP => {
            let row: MembershipRow =
                codec::decode("membership", &body).map_err(|error| unreadable(&at, error.to_string()))?;
            EntryPayload::Membership(row.membership().map_err(|why| unreadable(&at, why))?)
        }
        kind => return Err(unreadable(&at, format!("unknown kind {kind}"))),
    };
    Ok(RaftEntry { log_id: log_id(LogPoint { term, index }), payload })
}

#[cfg(test)]
mod tests {
    use coda_engine::command::Command;
    use coda_engine::entry::Entry;

    use super::*;

    fn entry() -> RaftEntry {
        let entry = Entry { commands: vec![Command::Tick], ..Entry::default() };
        RaftEntry {
            log_id: log_id(LogPoint { term: 3, index: 7 }),
            payload: EntryPayload::Normal(Proposal::new(entry)),
        }
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let record = encode_record(&entry());
        assert_eq!(record_term("7", &record).unwrap(), 3);
        let read = decode_record(1, 7, &record).unwrap();
        assert_eq!(read.log_id, entry().log_id);
        let EntryPayload::Normal(proposal) = read.payload else { panic!("a command entry") };
        assert_eq!(proposal.entry().commands, [Command::Tick]);
        assert_eq!(proposal.bytes(), &record.slice(10..));
    }

    #[test]
    fn a_membership_reads_back_as_written() {
        let nodes = BTreeMap::from([(1, BasicNode::new("a:1")), (2, BasicNode::new("b:2"))]);
        let membership = openraft::Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
        let entry = RaftEntry { log_id: entry().log_id, payload: EntryPayload::Membership(membership.clone()) };
        let read = decode_record(1, 7, &encode_record(&entry)).unwrap();
        let EntryPayload::Membership(read) = read.payload else { panic!("a membership entry") };
        assert_eq!(read, membership);
    }

    #[test]
    fn unknown_versions_kinds_and_commands_name_the_record_and_are_never_skipped() {
        let good = encode_record(&entry()).to_vec();
        for (byte, value) in [(0, 9), (1, 9), (12, 200)] {
            let mut bad = good.clone();
            bad[byte] = value;
            let error = decode_record(1, 7, &bad.into()).unwrap_err().to_string();
            assert!(error.starts_with("CODA4104 unreadable record 7 of group 1"), "{error}");
        }
        assert!(decode_record(1, 7, &Bytes::from_static(&[1, 0, 0])).is_err());
    }
}
