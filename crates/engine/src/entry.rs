//! One log entry: commands, the proposer's clock, and the workers' free slots.

use std::sync::Arc;

use coda_protocol::ids::{Name, SessionId, Timestamp, WorkKind};
use serde::{Deserialize, Serialize};

use crate::command::{Command, Outcome};
use crate::effect::Effect;

/// Everything nondeterministic enters here, as data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The proposer's clock. Engine time is the largest seen so far.
    pub now: Timestamp,
    pub commands: Vec<Command>,
    /// Free slots of workers, to be filled from what is ready once the commands are applied.
    pub grants: Vec<Grant>,
    /// The sets of names that grants refer to.
    pub name_sets: Vec<Arc<[Name]>>,
    /// Lanes that the leader knows to hold ready work. Lanes that the commands touch need not be named.
    pub lanes: Vec<Lane>,
}

/// Free slots of one session for one kind of work of one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub session: SessionId,
    pub queue: Name,
    pub kind: WorkKind,
    /// Index into [`Entry::name_sets`]: what the session can execute, sorted.
    pub names: u32,
    pub slots: u32,
}

/// The ready work of one name and kind in one queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    pub queue: Name,
    pub kind: WorkKind,
    pub name: Name,
}

/// What applying an entry came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// One per command.
    pub outcomes: Vec<Outcome>,
    pub effects: Vec<Effect>,
    /// One per grant: slots that found no work.
    pub unused: Vec<u32>,
}
