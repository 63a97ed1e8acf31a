//! What people type: `coda` for users, `coda-admin` for operators.
//!
//! Presentation only: what a request does is decided behind the wire, and this crate links the broker for one reason,
//! to start a node in `coda dev`. Standard output carries data and nothing else; everything said to a person goes to
//! standard error. Read in this order.

pub mod admin;
pub mod user;

mod args;
mod entry;
mod errors;

mod admin_node;
mod cluster;
mod input;
mod queue;
mod work;

mod dev;
mod node;
mod run;
mod signals;

mod output;
mod show;
mod topics;
mod waits;

#[cfg(test)]
mod expect;
#[cfg(test)]
mod help_tests;
