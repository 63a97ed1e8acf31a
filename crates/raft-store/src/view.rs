//! The state as the engine reads it.

use bytes::Bytes;
use coda_engine::kv::{Read, Visit};
use coda_protocol::ids::GroupId;

use crate::db::Db;
use crate::error::StoreError;
use crate::rows::{LogPoint, MembershipRow, decode_row, encode_row};
use crate::storage::{Family, Rows};

/// Rows of this table are ours, not the engine's: they say how far the state has come.
pub(crate) const OWN_TABLE: u8 = 0;
const APPLIED: u8 = 0;
const MEMBERSHIP: u8 = 1;

/// The state as it is now, or as it was at one moment.
pub(crate) struct StateView<'a>(Box<dyn Rows + 'a>);

impl<'a> StateView<'a> {
    pub fn live(db: &'a Db) -> Self {
        Self(db.now())
    }

    pub fn moment(db: &'a Db) -> Self {
        Self(db.storage().moment())
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
        let row = self.0.get(Family::State, key);
        row.unwrap_or_else(|error| panic!("{}", StoreError::refused("reading state")(error)))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) {
        if from >= to {
            return;
        }
        let scanned = self.0.scan(Family::State, from, to, visit);
        scanned.unwrap_or_else(|error| panic!("{}", StoreError::refused("scanning state")(error)));
    }
}
