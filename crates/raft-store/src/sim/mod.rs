//! A disk that is only remembered, for clusters that live on one thread, in virtual time, from one seed.
//!
//! It promises what RocksDB and the file system promise when a process is killed or the power fails, and no more: see
//! [`SimDisk`]. What a node does on it takes virtual time, is done by tasks in an order that the seed decides, and starts no
//! thread. Production binaries are built without this.

#[cfg(test)]
mod cluster_tests;
mod disk;
mod files;
mod log_task;
#[cfg(test)]
mod rule_tests;
mod storage;
mod tables;

use std::cell::{Cell, RefCell};

use coda_engine::kv::Read;
use coda_protocol::ids::GroupId;

pub(crate) use disk::Life;
pub use disk::{Faults, SimApplied, SimCounts, SimDisk};
pub(crate) use log_task::LogTask;
pub use tables::Rot;

thread_local! {
    static SIMULATES: Cell<bool> = const { Cell::new(false) };
    static STOPS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on this thread is a cluster: what would end a process ends one of its tasks.
fn simulate() {
    SIMULATES.set(true);
}

/// What nodes of this thread's cluster have stopped for since this was last asked, where a process would have ended.
#[must_use]
pub fn stops() -> Vec<String> {
    STOPS.take()
}

/// What [`Group::digest`](crate::group::Group::digest) says of a group with these rows.
#[must_use]
pub fn digest(rows: &dyn Read, group: GroupId) -> u64 {
    crate::snapshot::digest(rows, group)
}

/// Ends the task instead of the process, if it is a simulated node's.
pub(crate) fn stop_node(message: &str) {
    if SIMULATES.get() {
        STOPS.with_borrow_mut(|stops| stops.push(message.to_owned()));
        std::panic::panic_any(message.to_owned());
    }
}
