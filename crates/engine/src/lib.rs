//! What the log means: all rules of Coda. Pure and deterministic.
//!
//! Deliberately absent: clock, randomness, async, threads, I/O and its errors, `HashMap` iteration. Time and chance
//! arrive as data in [`entry::Entry`]; storage is one small trait, [`kv::Kv`], with an in-memory twin.
//!
//! One entry goes through [`apply::apply`]: every command changes tables and yields an outcome, then the entry's
//! grants lease whatever is ready, and effects tell the leader's actors what to do about it. State is truth, an effect
//! is a hint: [`recover::recover`] derives from state what a lost effect would have said.

#![warn(clippy::wildcard_enum_match_arm)]

// The pages that describe the system.
pub mod command;
pub mod effect;
pub mod entry;
pub mod kv;
pub mod rows;
pub mod tables;

// The road of an entry.
pub mod apply;
pub mod cluster;
mod commands;
mod due;
mod lanes;
mod leases;
mod steps;

// Reading and checking state.
pub mod invariants;
pub mod placement;
pub mod query;
pub mod recover;
