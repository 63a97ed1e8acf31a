//! What a node reads from its own disk, and from Raft's other nodes.

use std::path::PathBuf;
use std::sync::LazyLock;

use coda_raft_store::fuzz::{self, Damage, GROUP};
use tempfile::TempDir;

/// A message of Raft: the first byte says which.
pub fn raft(data: &[u8]) -> bool {
    fuzz::message(data)
}

/// The first byte says whether it is a record of the log or a row of the bookkeeping.
pub fn records(data: &[u8]) -> bool {
    let Some((kind, body)) = data.split_first() else { return false };
    if kind.is_multiple_of(2) { fuzz::record(body) } else { fuzz::row(body) }
}

/// The first byte says whether the rest is a file as it is, or what is written into one: damage, then rows behind a byte
/// of their length.
pub fn snapshot(data: &[u8]) -> bool {
    let Some((kind, body)) = data.split_first() else { return false };
    let scratch = scratch();
    if kind.is_multiple_of(4) {
        return fuzz::snapshot(body, &scratch);
    }
    let Some(([high, low, flip, cut], mut rest)) = body.split_first_chunk().map(|(head, rest)| (*head, rest)) else {
        return false;
    };
    let mut rows = Vec::new();
    while let Some((length, bytes)) = rest.split_first() {
        let (key, value) = bytes.split_at(usize::from(*length).min(bytes.len()));
        let (value, next) = value.split_at(value.len().min(usize::from(length / 4)));
        // Mostly a key of the group; else whatever it is.
        let mut full = if *length < 250 { GROUP.0.to_be_bytes().to_vec() } else { Vec::new() };
        full.extend_from_slice(key);
        rows.push((full, value.to_vec()));
        rest = next;
    }
    if kind % 4 == 1 {
        rows.sort();
        rows.dedup_by(|a, b| a.0 == b.0);
    }
    let damage = Damage { at: u16::from_be_bytes([high, low]), flip, cut: cut.is_multiple_of(4) };
    fuzz::snapshot_of(&rows, damage, &scratch)
}

/// One file a thread.
fn scratch() -> PathBuf {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));
    FOLDER.path().join(format!("{:?}", std::thread::current().id()))
}
