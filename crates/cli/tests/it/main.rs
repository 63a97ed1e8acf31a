//! The real programs, as a user or a script sees them.

mod support;

#[path = "../../../client/tests/it/node.rs"]
#[allow(dead_code, reason = "these tests need less of it than those of the client")]
mod paper;

mod cluster;
mod dev;
mod exit_statuses;
mod run;
