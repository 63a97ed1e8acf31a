//! The nouns: every id, name and quantity that crosses a boundary has its own type.

use std::fmt;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use uuid::Uuid;

use crate::limits::{NAME_BYTES_MAX, SLOTS};
use crate::reject::Reject;

/// A validated name of a queue, task or workflow: 1 to [`NAME_BYTES_MAX`] bytes, no control characters.
pub type Name = SmolStr;

/// Checks a name that came from outside.
///
/// # Errors
/// [`Reject::BadName`] when it is empty, too long or holds a control character.
pub fn check_name(name: &str) -> Result<(), Reject> {
    let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
    if good { Ok(()) } else { Err(Reject::BadName { name: name.chars().take(64).collect() }) }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A fresh id, ordered by time. Only senders make ids; the engine never does.
            #[must_use]
            pub fn random() -> Self {
                Self(*Uuid::now_v7().as_bytes())
            }

            /// Checks an id that a sender chose for something new.
            ///
            /// # Errors
            /// [`Reject::BadId`] for the form that the log's own ids have.
            pub fn check_chosen(&self) -> Result<(), Reject> {
                if is_derived(&self.0) { Err(Reject::BadId { id: self.to_string() }) } else { Ok(()) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Uuid::from_bytes(self.0).hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Reject;
            fn from_str(text: &str) -> Result<Self, Reject> {
                let uuid = Uuid::parse_str(text).map_err(|_| Reject::BadId { id: text.chars().take(64).collect() })?;
                Ok(Self(*uuid.as_bytes()))
            }
        }
    };
}

uuid_id!(
    /// One execution of a workflow. Chosen by whoever starts it; starting it twice is starting it once.
    RunId
);
uuid_id!(
    /// A unit of work in a queue. Chosen by the submitter, or derived from the log for a task spawned by a run.
    TaskId
);
uuid_id!(
    /// A worker's or client's identity across reconnects; leases belong to it. Chosen by the process itself.
    SessionId
);
uuid_id!(
    /// A join token, without its secret.
    TokenId
);

uuid_id!(
    /// A cluster of nodes. Made with it, and the same for as long as it lives.
    ClusterId
);
uuid_id!(
    /// A node's data folder. Made with the folder: a node that comes back with another one has lost what it knew.
    StorageId
);

/// Ids that decide where their row lives.
pub trait Slotted {
    /// The hash slot, in `0..SLOTS`.
    fn slot(&self) -> Slot;
}

/// An id derived from the log carries its parent's slot so that it lives beside its parent:
/// a version-8 UUID of `slot 16 | group 16 | ordinal 28 | index 62` bits around the fixed bits.
fn derived(slot: Slot, group: GroupId, index: u64, ordinal: u32) -> [u8; 16] {
    debug_assert!(ordinal < 1 << 28 && index < 1 << 62 && group.0 < 1 << 16);
    let mut bytes = [0; 16];
    bytes[0..2].copy_from_slice(&slot.0.to_be_bytes());
    bytes[2..4].copy_from_slice(&(group.0 as u16).to_be_bytes());
    bytes[4..8].copy_from_slice(&((((ordinal >> 12) & 0xffff) << 16) | 0x8000 | (ordinal & 0xfff)).to_be_bytes());
    bytes[8..16].copy_from_slice(&((1 << 63) | index).to_be_bytes());
    bytes
}

/// Whether an id has the form that [`derived`] makes: senders may not choose such ids, they could meet one to come.
fn is_derived(bytes: &[u8; 16]) -> bool {
    bytes[6] >> 4 == 8 && bytes[8] >> 6 == 2
}

fn slot_of(bytes: &[u8; 16]) -> Slot {
    if is_derived(bytes) {
        return Slot(u16::from_be_bytes([bytes[0], bytes[1]]) % SLOTS);
    }
    Slot((xxhash_rust::xxh3::xxh3_64(bytes) % u64::from(SLOTS)) as u16)
}

impl Slotted for RunId {
    fn slot(&self) -> Slot {
        slot_of(&self.0)
    }
}

impl Slotted for TaskId {
    fn slot(&self) -> Slot {
        slot_of(&self.0)
    }
}

impl RunId {
    /// The id of a child run: unique because log positions are.
    #[must_use]
    pub fn derived(slot: Slot, group: GroupId, index: u64, ordinal: u32) -> Self {
        Self(derived(slot, group, index, ordinal))
    }
}

impl TaskId {
    /// The id of a spawned task: unique because log positions are.
    #[must_use]
    pub fn derived(slot: Slot, group: GroupId, index: u64, ordinal: u32) -> Self {
        Self(derived(slot, group, index, ordinal))
    }
}

/// A fencing token: larger than every lease granted before it in its group. Made of the log index of the entry that granted
/// it and of its number within that entry, so it says where in the log its attempt begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

impl LeaseId {
    const ORDINAL_BITS: u32 = u16::BITS;

    /// The lease that an entry grants after so many others.
    #[must_use]
    pub fn granted(index: u64, ordinal: u16) -> Self {
        Self(index << Self::ORDINAL_BITS | u64::from(ordinal))
    }

    /// The log index of the entry that granted it: [`Position::index`] of the attempt's begin.
    #[must_use]
    pub fn index(self) -> u64 {
        self.0 >> Self::ORDINAL_BITS
    }
}

/// A broker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// One Raft group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl GroupId {
    /// The group that holds the cluster's own state; data groups count from 1.
    pub const META: Self = Self(0);
}

/// A hash slot of ids; slots map to groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u16);

/// A duration in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub u64);

/// A moment in milliseconds since the Unix epoch, in engine time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl std::ops::Add<Millis> for Timestamp {
    type Output = Self;
    fn add(self, ms: Millis) -> Self {
        Self(self.0.saturating_add(ms.0))
    }
}

/// Where a reply stands in the log of a group: at the entry that carried the command out, or, for an answer to a question,
/// at the last entry that the answer knows. Replies of one group are ordered by it; commands of one entry share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub group: u32,
    pub term: u64,
    pub index: u64,
}

impl Position {
    /// Of what is in no log, which begins with index 1: what a node says of itself or of a connection, and what it refuses on its own.
    pub const NOWHERE: Self = Self { group: 0, term: 0, index: 0 };

    /// The position, unless it is [`Position::NOWHERE`].
    #[must_use]
    pub fn known(self) -> Option<Self> {
        (self.index > 0).then_some(self)
    }
}

/// What a lease covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Work {
    Task(TaskId),
    Run(RunId),
}

impl Slotted for Work {
    fn slot(&self) -> Slot {
        match self {
            Self::Task(task) => task.slot(),
            Self::Run(run) => run.slot(),
        }
    }
}

impl Work {
    /// Which kind of worker slot it takes.
    #[must_use]
    pub fn kind(&self) -> WorkKind {
        match self {
            Self::Task(_) => WorkKind::Task,
            Self::Run(_) => WorkKind::Run,
        }
    }
}

/// The two kinds of worker slots, and of lanes in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WorkKind {
    Task,
    Run,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_id_keeps_the_slot_of_its_parent() {
        for slot in [0, 1, 4095] {
            let task = TaskId::derived(Slot(slot), GroupId(65_535), (1 << 62) - 1, (1 << 28) - 1);
            assert_eq!(task.slot(), Slot(slot));
            assert_eq!(Uuid::from_bytes(task.0).get_version_num(), 8);
        }
    }

    #[test]
    fn a_lease_says_where_in_the_log_it_was_granted_and_later_ones_are_larger() {
        let leases =
            [(1, 0), (1, u16::MAX), (2, 0), ((1 << 48) - 1, 7)].map(|(at, nth)| (at, LeaseId::granted(at, nth)));
        assert!(leases.is_sorted_by_key(|(_, lease)| *lease));
        assert!(leases.iter().all(|(index, lease)| lease.index() == *index));
    }

    #[test]
    fn derived_ids_differ_whenever_their_positions_do() {
        let at = |index, ordinal| TaskId::derived(Slot(7), GroupId(1), index, ordinal);
        let ids = [at(1, 0), at(1, 1), at(2, 0), at(1, 4096), at(1, 0xfff), at(1, 1 << 27)];
        for (i, a) in ids.iter().enumerate() {
            assert!(ids[i + 1..].iter().all(|b| a != b), "{a}");
        }
    }

    #[test]
    fn nobody_may_choose_an_id_of_the_form_that_the_log_makes() {
        assert!(TaskId::derived(Slot(7), GroupId(1), 9, 0).check_chosen().is_err());
        assert!(RunId::derived(Slot(0), GroupId(0), 0, 0).check_chosen().is_err());
        assert_eq!(RunId::random().check_chosen(), Ok(()));
        assert_eq!(TaskId([7; 16]).check_chosen(), Ok(()));
    }

    #[test]
    fn names_are_bounded_and_printable() {
        assert_eq!(check_name("emails"), Ok(()));
        assert_eq!(check_name("sentry.tasks:store_event"), Ok(()));
        assert!(check_name("").is_err());
        assert!(check_name("a\0b").is_err());
        assert!(check_name(&"x".repeat(NAME_BYTES_MAX + 1)).is_err());
    }
}
