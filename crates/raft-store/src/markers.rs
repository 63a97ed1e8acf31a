//! Marks of what a restart has to finish, per group. They lie behind the rows of all groups, beside the node's own.

use coda_protocol::ids::GroupId;

use crate::db::Db;
use crate::error::StoreError;

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
        let mut options = rocksdb::ReadOptions::default();
        options.set_iterate_range(rocksdb::PrefixRange(prefix.clone()));
        let mut rows = db.raw().raw_iterator_cf_opt(db.meta(), options);
        rows.seek_to_first();
        let mut out = Vec::new();
        while let Some((key, row)) = rows.item() {
            let unreadable =
                |_| StoreError::UnreadableRecord { at: format!("{} marker", self.name), why: format!("key {key:?}") };
            let group = key[prefix.len()..].try_into().map_err(unreadable)?;
            out.push((GroupId(u32::from_be_bytes(group)), row.to_vec()));
            rows.next();
        }
        rows.status().map_err(StoreError::rocks("reading what is unfinished"))?;
        Ok(out)
    }
}
