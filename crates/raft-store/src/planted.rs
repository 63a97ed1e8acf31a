//! Mistakes that could have been made here, to see that the simulation and the tests would notice.
//!
//! A crate built without feature `planted`, as every program is, has none of them: [`is`] is then the constant `false`.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// An operation of the log counts as durable once it is written.
    AckBeforeSync,
    /// A vote is cast before it is durable.
    VoteUnsynced,
    /// A sync that fails counts as one that did not.
    AckFailedSync,
    /// The log is let go before the state that it led to is durable.
    PurgeUnflushed,
    /// How far the state has come is written after the state.
    AppliedApart,
    /// A snapshot is installed over the state that is there.
    InstallOver,
    /// A leader reads without asking whether it still is one.
    ReadUnconfirmed,
}

impl Planted {
    pub const ALL: [Self; 7] = [
        Self::AckBeforeSync,
        Self::VoteUnsynced,
        Self::AckFailedSync,
        Self::PurgeUnflushed,
        Self::AppliedApart,
        Self::InstallOver,
        Self::ReadUnconfirmed,
    ];

    /// As command lines name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::VoteUnsynced => "vote-unsynced",
            Self::AckFailedSync => "ack-failed-sync",
            Self::PurgeUnflushed => "purge-unflushed",
            Self::AppliedApart => "applied-apart",
            Self::InstallOver => "install-over",
            Self::ReadUnconfirmed => "read-unconfirmed",
        }
    }
}

#[cfg(feature = "planted")]
mod selected {
    use std::cell::Cell;

    use super::Planted;

    thread_local! {
        static SELECTED: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Makes this mistake, and no other, in what runs on this thread.
    pub fn select(planted: Option<Planted>) {
        SELECTED.set(planted);
    }

    pub(crate) fn is(planted: Planted) -> bool {
        SELECTED.get() == Some(planted)
    }
}

#[cfg(feature = "planted")]
pub(crate) use selected::is;
#[cfg(feature = "planted")]
pub use selected::select;

/// Whether this mistake is made.
#[cfg(not(feature = "planted"))]
pub(crate) const fn is(_: Planted) -> bool {
    false
}
