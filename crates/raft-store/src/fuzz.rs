//! What fuzzers feed with bytes from anywhere: what reads a disk that may be damaged, and what reads peers. Only with
//! feature `testing`. Each function panics if what it tries breaks a promise, and only then, and says whether it made
//! sense of the bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bytes::Bytes;
use coda_engine::command::Command;
use coda_engine::entry::Entry;
use coda_protocol::ids::GroupId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, EntryPayload};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::disk::FileSystem;
use crate::error::StoreError;
use crate::network::{self, SnapshotHead};
use crate::rows::{
    LogPoint, MembershipRow, VoteRow, decode_record, decode_row, encode_record, encode_row, record_term,
};
use crate::snapshot::{Header, Reader, write_rows};
use crate::types::{Proposal, RaftEntry, Types, Vote, log_id};
use crate::view::engine_range;

/// A record of the log: what is read is read again from its own bytes, and all that is read of it agrees.
pub fn record(bytes: &[u8]) -> bool {
    let record = Bytes::copy_from_slice(bytes);
    let Ok(entry) = decode_record(1, 7, &record) else { return false };
    let term = record_term("7", &record).expect("a record that can be decoded has a term");
    let written = encode_record(&entry);
    let again = decode_record(1, 7, &written).expect("our own bytes");
    assert_eq!(again.log_id, entry.log_id);
    assert_eq!((record_term("7", &written).expect("our own bytes"), encode_record(&again)), (term, written));
    true
}

/// A row of the bookkeeping; the first byte says which.
pub fn row(bytes: &[u8]) -> bool {
    fn round<T: Serialize + DeserializeOwned>(body: &[u8]) -> Option<T> {
        let row: T = decode_row("row", body).ok()?;
        let written = encode_row(&row);
        let again: T = decode_row("row", &written).expect("our own bytes");
        assert_eq!(encode_row(&again), written);
        Some(row)
    }
    let Some((kind, body)) = bytes.split_first() else { return false };
    match kind % 5 {
        0 => round::<VoteRow>(body).is_some(),
        1 => round::<LogPoint>(body).is_some(),
        2 => round::<MembershipRow>(body).is_some_and(|row| row.to_stored().is_ok()),
        3 => round::<u64>(body).is_some(),
        _ => round::<([u8; 16], u64)>(body).is_some(),
    }
}

/// A message of Raft, from a peer; the first byte says which.
pub fn message(bytes: &[u8]) -> bool {
    fn round<T: Serialize + DeserializeOwned>(body: &[u8]) -> Option<T> {
        let message: T = network::decode("message", body).ok()?;
        let written = network::encode(&message);
        let again: T = network::decode("message", &written).expect("our own bytes");
        assert_eq!(network::encode(&again), written);
        Some(message)
    }
    let Some((kind, body)) = bytes.split_first() else { return false };
    match kind % 8 {
        0 => round::<AppendEntriesRequest<Types>>(body).is_some(),
        1 => round::<VoteRequest<Types>>(body).is_some(),
        2 => round::<TransferLeaderRequest<Types>>(body).is_some(),
        3 => round::<SnapshotHead>(body).is_some_and(|head| head.into_parts().is_ok()),
        4 => round::<AppendEntriesResponse<Types>>(body).is_some(),
        5 => round::<VoteResponse<Types>>(body).is_some(),
        6 => round::<SnapshotResponse<Types>>(body).is_some(),
        _ => round::<TransferLeaderResponse<Types>>(body).is_some(),
    }
}

/// Good messages for [`message`]: one of each kind.
#[must_use]
pub fn messages() -> Vec<Vec<u8>> {
    fn of(kind: u8, message: &impl Serialize) -> Vec<u8> {
        [&[kind], &network::encode(message)[..]].concat()
    }
    let (vote, last) = (Vote::new_committed(3, 1), log_id(LogPoint { term: 3, index: 7 }));
    let entry = |index, payload| RaftEntry { log_id: log_id(LogPoint { term: 3, index }), payload };
    let command = Entry { commands: vec![Command::Tick], ..Entry::default() };
    let nodes = BTreeMap::from([(1, BasicNode::new("a:1")), (2, BasicNode::new("b:2"))]);
    let membership = openraft::Membership::new(vec![BTreeSet::from([1])], nodes).expect("a voter that is there");
    let entries = vec![
        entry(8, EntryPayload::Blank),
        entry(9, EntryPayload::Normal(Proposal::new(command))),
        entry(10, EntryPayload::Membership(membership.clone())),
    ];
    let membership = MembershipRow::of(Some(LogPoint { term: 3, index: 10 }), &membership);
    let head = SnapshotHead::new(vote, Some(LogPoint { term: 3, index: 10 }), membership);
    let appended = [AppendEntriesResponse::Success, AppendEntriesResponse::Conflict];
    let mut all = vec![
        of(0, &AppendEntriesRequest::<Types> { vote, prev_log_id: Some(last), entries, leader_commit: Some(last) }),
        of(1, &VoteRequest::<Types> { vote, last_log_id: Some(last), leadership_transfer: true }),
        of(2, &TransferLeaderRequest::<Types>::new(vote, 2, Some(last))),
        of(3, &head),
        of(4, &AppendEntriesResponse::<Types>::HigherVote(vote)),
        of(5, &VoteResponse::<Types> { vote, vote_granted: true, last_log_id: None }),
        of(6, &SnapshotResponse::<Types>::new(vote)),
    ];
    all.extend(appended.iter().map(|answer: &AppendEntriesResponse<Types>| of(4, answer)));
    all
}

/// Bytes as a snapshot file. `scratch` is overwritten.
pub fn snapshot(bytes: &[u8], scratch: &Path) -> bool {
    fs::write(scratch, bytes).expect("a scratch file");
    read(scratch).is_ok()
}

/// A snapshot that was written as it should be, of rows that may not be: what is read is what was written, in order and
/// of its group, and nothing is read to its end that was damaged.
pub fn snapshot_of(rows: &[(Vec<u8>, Vec<u8>)], damage: Damage, scratch: &Path) -> bool {
    let header = Header { group: GROUP.0, applied: Some(LogPoint::default()), membership: MembershipRow::default() };
    write_rows(&header, rows, 1 + usize::from(damage.at) % 7, scratch);
    let (from, to) = engine_range(GROUP);
    let in_order = rows.is_sorted_by(|a, b| a.0 < b.0);
    let ours = rows.iter().all(|(key, _)| *from <= **key && **key < *to);
    match read(scratch) {
        Ok(seen) => assert!(in_order && ours && seen == rows),
        Err(error) => assert!(!(in_order && ours), "{error}"),
    }
    let mut bytes = fs::read(scratch).expect("the scratch file");
    let at = usize::from(damage.at) % bytes.len();
    if damage.cut {
        bytes.truncate(at);
    } else {
        bytes[at] ^= damage.flip.max(1);
    }
    fs::write(scratch, bytes).expect("a scratch file");
    assert!(read(scratch).is_err(), "damage at byte {at} was not seen: {damage:?}");
    in_order && ours
}

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
pub struct Damage {
    pub at: u16,
    pub flip: u8,
    /// Instead: the file ends there.
    pub cut: bool,
}

/// The group that [`snapshot_of`] is of.
pub const GROUP: GroupId = GroupId(5);

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn read(file: &Path) -> Result<Rows, StoreError> {
    let mut rows = Vec::new();
    Reader::open(&FileSystem, file)?.for_each(|key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        Ok(())
    })?;
    Ok(rows)
}
