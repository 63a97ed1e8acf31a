//! A Coda node: who is involved. Sessions, leadership and the actors that ask the engine what to do.
//!
//! Deliberately absent: any rule about tasks and runs (that is `coda-engine`) and any storage type (that is
//! `coda-raft-store`). Everything here is soft state: a killed node loses nothing that matters.
//!
//! Start reading at [`node`], which builds everything in dependency order, then follow a request:
//! `endpoint` → `session` → `proposer` → the log → `router` → `queue`, `workflow`, `timer` → `outbox`.

pub mod clock;
pub mod config;
pub mod identity;
mod messages;
pub mod network;
pub mod node;

// From the socket to the log.
mod connection;
mod endpoint;
mod handshakes;
mod host;
mod intake;
mod outbox;
mod proposer;
mod session;
mod sessions;

// The other nodes of the cluster: what they are to each other, and how they speak.
mod cluster;
pub mod peers;

// What leading a group means.
mod describe;
mod dispatch;
mod free_slots;
mod held;
mod leader;
mod queue;
mod router;
mod routes;
mod timer;
mod waiters;
mod wants;
mod workflow;

mod supervisor;
mod usage;

// What fuzzers feed.
#[cfg(feature = "testing")]
pub mod fuzz;
