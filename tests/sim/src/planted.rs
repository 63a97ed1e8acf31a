//! Bugs that are there on purpose, and how soon the simulation finds them. One that it does not find is a hole in it.

use coda_raft_store::planted::{Planted, select};

use crate::child::Order;

/// A bug that can be planted: `coda_protocol::planted::is(name)` asks for it where it would be, or one
/// of `coda_raft_store::planted`.
pub struct Bug {
    pub name: &'static str,
    pub about: &'static str,
}

const fn bug(name: &'static str, about: &'static str) -> Bug {
    Bug { name, about }
}

/// All there are.
pub const BUGS: &[Bug] = &[
    bug("recover-forgets-due", "a new leader does not look when the next thing is due"),
    bug("recover-forgets-sessions", "a new leader does not look for leases of those who are gone"),
    bug("stale-lease-ends-work", "work ends under any lease, whatever its fencing token"),
    bug("lease-id-reused", "two leases have one id"),
    bug("slots-granted-twice", "slots that work was leased for stay free"),
    bug("retry-dropped", "one retry less than was allowed"),
    bug("record-overwrites", "the second result of an inline step replaces the first"),
    bug("parked-run-not-woken", "a step's end does not wake the run that waits for it"),
    bug("resumed-run-is-told-nothing", "what ended while a worker was away is not told when it is back"),
    bug("run-starts-twice", "a start that is sent again begins the run anew"),
    bug("due-too-early", "what is due is done before"),
    bug("stale-read", "a leader answers without asking whether it still is one"),
    bug("unanswered-is-forgotten", "a client does not send again what a lost node has not answered"),
    bug("ack-before-sync", "what is written to the log counts as durable"),
    bug("vote-unsynced", "a vote is cast before it is durable"),
    bug("ack-failed-sync", "a sync that fails counts as one that did not"),
    bug("purge-unflushed", "the log is let go before the state that it led to is durable"),
    bug("applied-apart", "how far the state has come is written after the state"),
    bug("install-over", "a snapshot is installed over the state that is there"),
    bug("read-unconfirmed", "no read asks whether the leader still is one"),
];

/// From now on this process has this bug.
///
/// # Panics
/// If there is none of that name.
pub fn plant(name: &str) {
    assert!(BUGS.iter().any(|bug| bug.name == name), "no bug is called {name}");
    match Planted::ALL.into_iter().find(|planted| planted.name() == name) {
        Some(planted) => select(Some(planted)),
        None => coda_protocol::planted::plant(name),
    }
}

/// How a bug was found.
pub struct Found {
    pub seeds: u64,
    pub problem: String,
}

/// Runs seed after seed until something is found.
#[must_use]
pub fn hunt(name: &str, first: u64, seeds_max: u64) -> Option<Found> {
    (0..seeds_max).find_map(|n| {
        let order = Order { planted: Some(name.to_owned()), ..Order::of(first + n) };
        let problem = order.problems().into_iter().next()?;
        // What a seed finds without the bug is not the bug.
        let without = Order { planted: None, ..order };
        without
            .problems()
            .is_empty()
            .then(|| Found { seeds: n + 1, problem: problem.lines().next().unwrap_or_default().into() })
    })
}
