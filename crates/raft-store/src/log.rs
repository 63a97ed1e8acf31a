//! The seam under the Raft log: records in, durable records out, in the order given, for all groups of a node.
//!
//! Narrow on purpose and free of openraft's types, so that a segment log or a simulated disk can take its place.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use coda_protocol::ids::GroupId;

use crate::error::StoreError;
pub use crate::rows::{LogPoint, VoteRow};

/// Called once, from any thread, the submitter's own too, when an operation is durable or has failed for good.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One change of one group's log. Operations of a node take effect in the order they are submitted.
#[derive(Debug)]
pub enum LogOp {
    /// Records with consecutive indexes from `first`.
    Append {
        first: u64,
        records: Vec<Bytes>,
    },
    /// Records `from..=last` never happened.
    Truncate {
        from: u64,
        last: u64,
    },
    /// Records up to and with `upto` are not needed any more. `from` is where the last purge ended.
    Purge {
        from: u64,
        upto: LogPoint,
    },
    Vote(VoteRow),
    /// Everything but the vote goes: the group has left this node.
    Forget,
}

impl LogOp {
    /// Bytes of its records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Append { records, .. } => records.iter().map(Bytes::len).sum(),
            Self::Truncate { .. } | Self::Purge { .. } | Self::Vote(_) | Self::Forget => 0,
        }
    }
}

/// What a group finds when its node starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub vote: Option<VoteRow>,
    /// A position known to be committed; may lag.
    pub committed: Option<LogPoint>,
    pub purged: Option<LogPoint>,
    /// The last record, if any is left.
    pub last: Option<LogPoint>,
    /// Bytes of its records, about.
    pub bytes: u64,
}

/// Which thread writes an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The one that brings it, if nobody writes at the moment: it has nothing else to do.
    Here,
    /// Another: the one that brings it sends it to others meanwhile.
    Beside,
}

/// Keeps the logs and votes of all groups of a node.
pub trait LogStore: Send + Sync + 'static {
    /// # Errors
    /// When the disk fails or a record is unreadable.
    fn recover(&self, group: GroupId) -> Result<Recovered, StoreError>;

    /// Queues an operation. After a failure every later operation fails: a failed sync must never be retried.
    fn submit(&self, group: GroupId, op: LogOp, place: Place, done: Done);

    /// Remembers a committed position with the next operation of any group. Losing it costs replay time only.
    fn note_committed(&self, group: GroupId, committed: LogPoint);

    /// Durable records in a range of indexes, in order, until `bytes_max` is reached; at least one if there is one.
    ///
    /// # Errors
    /// When the disk fails.
    fn read(&self, group: GroupId, indexes: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, StoreError>;
}
