//! A Coda node: who is involved. Sessions, leadership and the actors that ask the engine what to do.
//!
//! Deliberately absent: any rule about tasks and runs (that is `coda-engine`) and any storage type (that is
//! `coda-raft-store`). Everything here is soft state: a killed node loses nothing that matters.
//!
//! Start reading at [`node`], which builds everything in dependency order, then follow a request:
//! `endpoint` → `session` → `proposer` → the log → `router` → `queue`, `workflow`, `timer` → `outbox`.

pub mod node;
pub mod config;
pub mod clock;
mod messages;

// From the socket to the log.
mod endpoint;
mod connection;
mod tls;
mod session;
mod outbox;
mod sessions;
mod proposer;

// What leading a group means.
mod leader;
mod router;
mod queue;
mod dispatch;
mod workflow;
mod timer;
mod waiters;
mod describe;

mod supervisor;
