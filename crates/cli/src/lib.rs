//! What people type: `coda` for users, `coda-admin` for operators.
//!
//! Presentation only: what a request does is decided behind the wire, and this crate links the broker for two reasons:
//! to start a node in `coda dev` and `coda serve`, and for the certificates that nodes and clients show. Standard output carries data and nothing else; everything said to a person goes to
//! standard error. Read in this order.

pub mod admin;
pub mod user;

mod args;
mod entry;
mod errors;

mod cert;
mod cluster;
mod config;
mod input;
mod operate;
mod queue;
mod work;

mod dev;
mod node;
mod run;
mod serve;
mod service;
mod settings;
mod signals;

mod output;
mod show;
mod topics;
mod waits;

#[cfg(test)]
mod expect;
#[cfg(test)]
mod help_tests;
