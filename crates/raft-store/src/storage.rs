//! The seam under a node's rows: three ordered families, written in batches that take effect as a whole.
//!
//! [`crate::rocks`] keeps them in production. A simulated disk, of a crate built with feature `sim`, promises no more than
//! that does when the power fails.

use bytes::Bytes;
use coda_engine::kv::Visit;
use thiserror::Error;

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Records of the Raft log.
    Log,
    /// What applying them has led to.
    State,
    /// Votes, positions, and what the node says of itself.
    Meta,
}

/// Above every key of every family.
pub(crate) const END: &[u8] = &[u8::MAX; 16];

/// What a batch is worth once it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It survives this process, and what happens to the machine after the next [`Storage::sync`]. After a crash before
    /// that, any number of the batches written since the last one are there, and none that was written later than one that
    /// is not.
    Logged,
    /// It survives, and so does everything logged before it.
    Synced,
    /// For the state: it survives what happens after the next [`Storage::flush`]. After a crash before that, as many
    /// of the batches written since the last one are there as the storage had flushed by itself.
    Unlogged,
}

/// The disk or the database refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct Refused(pub String);

/// Rows as they are, or as they were at one moment.
pub(crate) trait Rows: Send + Sync {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Refused>;

    /// Visits all rows with `from <= key < to`, in order, until told to stop.
    fn scan(&self, family: Family, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), Refused>;

    /// The last row with `from <= key < to`.
    fn last(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Bytes)>, Refused>;
}

/// Writes that take effect together, of the state's family or of the others.
pub(crate) trait Batch: Send {
    fn put(&mut self, family: Family, key: &[u8], value: &[u8]);
    fn delete(&mut self, family: Family, key: &[u8]);
    /// Deletes all rows with `from <= key < to`.
    fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]);
    fn is_empty(&self) -> bool;
    /// Bytes of what it holds, about.
    fn bytes(&self) -> usize;
    fn write(self: Box<Self>, durability: Durability) -> Result<(), Refused>;
}

/// An open database.
pub(crate) trait Storage: Send + Sync {
    /// The rows as they are whenever they are read.
    fn now(&self) -> Box<dyn Rows + '_>;
    /// The rows as they are at this moment.
    fn moment(&self) -> Box<dyn Rows + '_>;
    fn batch(&self) -> Box<dyn Batch + '_>;
    /// Makes durable what was logged. Blocks.
    fn sync(&self) -> Result<(), Refused>;
    /// Makes the state durable. Blocks.
    fn flush(&self) -> Result<(), Refused>;
    /// What the log's rows in a range take, about.
    fn log_bytes(&self, from: &[u8], to: &[u8]) -> u64;
    /// Nothing runs in it any more that could be torn apart, should somebody hold on to it until the process ends.
    fn quiesce(&self);

    /// For tests that look at RocksDB's own files.
    #[cfg(test)]
    fn rocks(&self) -> Option<&rocksdb::DB> {
        None
    }
}
