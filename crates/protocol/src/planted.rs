//! Bugs that are there on purpose, so that the simulation can show that it would find them. All of them, by name; each is
//! where it would be if it had been made by mistake: behind `planted::is(Bug::...)`.
//!
//! Deliberately absent from every program. Without the feature `planted`, which the simulation and tests alone enable, each
//! question is `false` when it is compiled, and nothing of the bug is left. With it, nothing compiles that is built for
//! release: whoever builds the whole workspace at once, and so all features of it, is told.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("bugs that are planted on purpose are never released: build for release by package, without `planted`");

macro_rules! bugs {
    ($($(#[$about:meta])* $bug:ident = $name:literal,)+) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[$about])* $bug,)+
        }

        #[cfg(feature = "planted")]
        impl Bug {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$bug,)+];

            /// As command lines name it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)+
                }
            }
        }
    };
}

bugs! {
    /// A new leader does not look when the next thing is due.
    RecoverForgetsDue = "recover-forgets-due",
    /// A new leader does not look for leases of those who are gone.
    RecoverForgetsSessions = "recover-forgets-sessions",
    /// Work ends under any lease, whatever its fencing token.
    StaleLeaseEndsWork = "stale-lease-ends-work",
    /// Two leases have one id.
    LeaseIdReused = "lease-id-reused",
    /// Slots that work was leased for stay free.
    SlotsGrantedTwice = "slots-granted-twice",
    /// One retry less than was allowed.
    RetryDropped = "retry-dropped",
    /// Two calls with one key of an inline step execute it twice, and the second result replaces the first: the client
    /// and the engine each see to it that there is one.
    RecordOverwrites = "record-overwrites",
    /// A step's end does not wake the run that waits for it.
    ParkedRunNotWoken = "parked-run-not-woken",
    /// What ended while a worker was away is not told when it is back.
    ResumedRunIsToldNothing = "resumed-run-is-told-nothing",
    /// A start that is sent again begins the run anew.
    RunStartsTwice = "run-starts-twice",
    /// What is due is done before.
    DueTooEarly = "due-too-early",
    /// A question about one piece of work is answered without asking whether this is still the leader.
    StaleRead = "stale-read",
    /// A client does not send again what a lost node has not answered.
    UnansweredIsForgotten = "unanswered-is-forgotten",
    /// An operation of the log counts as durable once it is written.
    AckBeforeSync = "ack-before-sync",
    /// A vote is cast before it is durable.
    VoteUnsynced = "vote-unsynced",
    /// A sync that fails counts as one that did not.
    AckFailedSync = "ack-failed-sync",
    /// The log is let go before the state that it led to is durable.
    PurgeUnflushed = "purge-unflushed",
    /// How far the state has come is written after the state.
    AppliedApart = "applied-apart",
    /// A snapshot is installed over the state that is there.
    InstallOver = "install-over",
    /// No read at all asks whether the leader still is one.
    ReadUnconfirmed = "read-unconfirmed",
}

#[cfg(feature = "planted")]
mod selected {
    use std::cell::Cell;
    use std::fmt;
    use std::str::FromStr;

    use super::Bug;

    thread_local! {
        static SELECTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// What runs on this thread has this bug from now on, and no other.
    pub fn plant(bug: Option<Bug>) {
        SELECTED.set(bug);
    }

    /// Whether what runs on this thread has the bug.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        SELECTED.get() == Some(bug)
    }

    impl fmt::Display for Bug {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.pad(self.name())
        }
    }

    impl FromStr for Bug {
        type Err = String;

        fn from_str(name: &str) -> Result<Self, String> {
            let named = Self::ALL.iter().find(|bug| bug.name() == name);
            named.copied().ok_or_else(|| format!("no bug is called {name}"))
        }
    }
}

#[cfg(feature = "planted")]
pub use selected::{is, plant};

/// Whether what runs on this thread has the bug: never.
#[cfg(not(feature = "planted"))]
#[inline]
#[must_use]
pub const fn is(_bug: Bug) -> bool {
    false
}
