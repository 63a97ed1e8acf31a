//! The state in RocksDB as the engine reads it.

use std::ops::ControlFlow;

use bytes::Bytes;
use coda_engine::kv::{Read, Visit};
use coda_protocol::ids::GroupId;
use rocksdb::{ColumnFamily, ReadOptions, SnapshotWithThreadMode};

use crate::db::Db;
use crate::error::StoreError;
use crate::rows::{LogPoint, MembershipRow, decode_row, encode_row};

/// Rows of this table are ours, not the engine's: they say how far the state has come.
pub(crate) const OWN_TABLE: u8 = 0;
const APPLIED: u8 = 0;
const MEMBERSHIP: u8 = 1;

/// The state as it is now, or as it was when a snapshot was taken.
pub(crate) struct StateView<'a> {
    db: &'a Db,
    family: &'a ColumnFamily,
    snapshot: Option<&'a SnapshotWithThreadMode<'a, rocksdb::DB>>,
    get: ReadOptions,
}

impl<'a> StateView<'a> {
    pub fn live(db: &'a Db) -> Self {
        Self { db, family: db.state(), snapshot: None, get: ReadOptions::default() }
    }

    pub fn at(db: &'a Db, snapshot: &'a SnapshotWithThreadMode<'a, rocksdb::DB>) -> Self {
        let mut get = ReadOptions::default();
        get.set_snapshot(snapshot);
        Self { db, family: db.state(), snapshot: Some(snapshot), get }
    }

    /// How far the state has come.
    pub fn applied(&self, group: GroupId) -> Result<Option<LogPoint>, StoreError> {
        self.own_row(group, APPLIED)
    }

    pub fn membership(&self, group: GroupId) -> Result<MembershipRow, StoreError> {
        Ok(self.own_row(group, MEMBERSHIP)?.unwrap_or_default())
    }

    fn own_row<T: serde::de::DeserializeOwned>(&self, group: GroupId, kind: u8) -> Result<Option<T>, StoreError> {
        self.get(&own_key(group, kind)).map(|row| decode_row("state bookkeeping", &row)).transpose()
    }
}

/// The rows that go into every batch of a group's state.
pub(crate) fn applied_row(group: GroupId, applied: LogPoint) -> (Vec<u8>, Vec<u8>) {
    (own_key(group, APPLIED), encode_row(&applied))
}

pub(crate) fn membership_row(group: GroupId, membership: &MembershipRow) -> (Vec<u8>, Vec<u8>) {
    (own_key(group, MEMBERSHIP), encode_row(membership))
}

fn own_key(group: GroupId, kind: u8) -> Vec<u8> {
    let [a, b, c, d] = group.0.to_be_bytes();
    vec![a, b, c, d, OWN_TABLE, kind]
}

/// Everything the engine wrote for a group.
pub(crate) fn engine_range(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    let mut from = group.0.to_be_bytes().to_vec();
    from.push(OWN_TABLE + 1);
    (from, group_end(group))
}

/// Everything of a group, our own rows included.
pub(crate) fn group_range(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (group.0.to_be_bytes().to_vec(), group_end(group))
}

fn group_end(group: GroupId) -> Vec<u8> {
    // No table has this number, so the end of the last group needs no special case.
    let mut end = group.0.to_be_bytes().to_vec();
    end.extend_from_slice(&[u8::MAX; 2]);
    end
}

impl Read for StateView<'_> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        let row = self.db.raw().get_pinned_cf_opt(self.family, key, &self.get);
        let row = row.unwrap_or_else(|error| panic!("CODA4106 storage failure while reading state: {error}"));
        row.map(|row| Bytes::copy_from_slice(&row))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) {
        if from >= to {
            return;
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        if let Some(snapshot) = self.snapshot {
            options.set_snapshot(snapshot);
        }
        let mut rows = self.db.raw().raw_iterator_cf_opt(self.family, options);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if visit(key, value) == ControlFlow::Break(()) {
                return;
            }
            rows.next();
        }
        rows.status().unwrap_or_else(|error| panic!("CODA4106 storage failure while scanning state: {error}"));
    }
}
