//! Why a proposal or a read was not answered with a yes.

use coda_protocol::ids::NodeId;
use openraft::errors::Fatal;
use thiserror::Error;

use crate::types::Types;

/// This node could not do it. None of these is a decision of the rules.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Not in the log. Ask the leader, if it is known.
    #[error("CODA4120 not the leader; the leader is {leader:?}")]
    NotLeader { leader: Option<NodeId> },
    /// Not in the log. Try again here, soon.
    #[error("CODA4121 the group is not available: {why}")]
    Unavailable { why: String },
    /// The leader changed on the way: the entry may or may not be in the log. Trying again is safe, because applying
    /// a request twice equals applying it once.
    #[error("CODA4122 leadership changed and the entry's fate is unknown; the leader is {leader:?}")]
    Uncertain { leader: Option<NodeId> },
    /// Not in the log, and never will be.
    #[error("CODA4123 the entry has {bytes} bytes; at most {bytes_max} fit into the log")]
    EntryTooLarge { bytes: usize, bytes_max: usize },
    /// This node is stopping; the entry may be in the log.
    #[error("CODA4124 the group is shutting down")]
    ShuttingDown,
    /// The group has stopped on this node, for good: its disk or its log failed. The entry may be in the log.
    #[error("CODA4125 the group has failed on this node: {why}")]
    Failed { why: String },
}

impl ProposeError {
    pub(crate) fn fatal(fatal: &Fatal<Types>) -> Self {
        match fatal {
            Fatal::Stopped => Self::ShuttingDown,
            Fatal::StorageError(_) | Fatal::Panicked => Self::Failed { why: fatal.to_string() },
        }
    }
}
