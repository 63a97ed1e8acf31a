//! Marks of what a restart has to finish, per group. They lie behind the rows of all groups, beside the node's own.

use std::ops::ControlFlow;

use coda_protocol::ids::GroupId;

use crate::db::Db;
use crate::error::StoreError;
use crate::storage::{END, Family};

/// One kind of unfinished work.
pub(crate) struct Markers {
    name: &'static str,
}

impl Markers {
    pub const fn new(name: &'static str) -> Self {
        Self { name }
    }

    fn prefix(&self) -> Vec<u8> {
        [&u32::MAX.to_be_bytes()[..], self.name.as_bytes()].concat()
    }

    pub fn key(&self, group: GroupId) -> Vec<u8> {
        [&self.prefix()[..], &group.0.to_be_bytes()].concat()
    }

    /// The groups that are marked, each with what its mark says.
    pub fn all(&self, db: &Db) -> Result<Vec<(GroupId, Vec<u8>)>, StoreError> {
        let prefix = self.prefix();
        let mut marks = Vec::new();
        let mut note = |key: &[u8], row: &[u8]| {
            marks.push((key[prefix.len()..].to_vec(), row.to_vec()));
            ControlFlow::Continue(())
        };
        let end = [&prefix[..], END].concat();
        let scanned = db.now().scan(Family::Meta, &prefix, &end, &mut note);
        scanned.map_err(StoreError::refused("reading what is unfinished"))?;
        let mark = |(group, row): (Vec<u8>, Vec<u8>)| match <[u8; 4]>::try_from(group.as_slice()) {
            Ok(group) => Ok((GroupId(u32::from_be_bytes(group)), row)),
            Err(_) => {
                let (at, why) = (format!("{} marker", self.name), format!("key {group:?}"));
                Err(StoreError::UnreadableRecord { at, why })
            }
        };
        marks.into_iter().map(mark).collect()
    }
}
