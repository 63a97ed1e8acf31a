//! How everything is kept: the Raft log, the state machine and snapshots, in one RocksDB per node.
//!
//! The only crate that knows openraft's types and RocksDB. Others see [`store::NodeStore`], [`group::Group`] and the
//! seam [`peers::PeerTransport`], none of them generic, so that the Raft machinery is compiled once, here.
//!
//! Deliberately absent: the rules (`coda-engine`), sessions and actors, any network, clocks other than the one that
//! openraft takes from tokio, retries, and reading around the state machine.

// What others use.
pub mod error;
pub mod group;
mod group_config;
mod group_error;
mod group_members;
mod group_report;
mod group_serve;
mod group_tasks;
pub mod peers;
pub mod store;

// How the disk is, and what groups do when it does not answer.
pub mod disk;
mod disk_watch;
mod hung;
mod stopwatch;
mod sync_stats;

// The road of an entry: log, then state.
mod committer;
mod group_log;
mod kept_bytes;
pub mod log;
mod log_writer;
mod owed;
mod rows;
mod state_machine;
mod tail;
mod types;
mod view;

// What all of it lies on: rows, files, and threads that wait for them.
mod db;
mod files;
mod medium;
mod rocks;
mod storage;
mod wal;
mod witness;
mod workshop;

// The same in memory, for simulations.
#[cfg(feature = "sim")]
pub mod sim;

// Replacing state as a whole, and deleting it.
mod forget;
mod image;
mod install;
mod markers;
mod snapshot;

// Openraft's calls to peers, over the seam.
mod commits;
mod network;

// What fuzzers feed.
#[cfg(any(test, feature = "testing"))]
pub mod fuzz;

// The tests that need to look inside share their helpers with those that do not.
#[cfg(test)]
extern crate self as coda_raft_store;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
#[cfg(test)]
mod corruption_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod suite;
