//! The Rust SDK of Coda: connect to a cluster, start runs, submit tasks, and execute both.
//!
//! Deliberately absent: the rules of what a request does (`coda-engine`), Raft, and everything behind the wire.
//! Three layers, each usable alone; read them in this order.
//!
//! 1. A [`Link`] is one session's way to the cluster: a connection to each node, every request with the node where it
//!    belongs. It reconnects for ever, follows leaders, sends every unanswered request again, and shows none of it.
//! 2. A [`WorkerLink`] adds what a worker must keep: leases held, slots free, memo pages, steps awaited.
//!    The Python SDK is written on these two.
//! 3. [`Client`] and [`Worker`] are what Rust programs use, and [`Admin`] what operators do.

mod certificate;
mod discover;
mod error;
mod options;

mod courier;
mod events;
mod flight;
mod link;
#[doc(hidden)]
pub mod network;
mod routes;
mod wire;

mod leases;
mod worker_link;

mod admin;
mod client;
mod payloads;
mod start;

mod functions;
mod keys;
mod resident;
mod worker;
mod workflow;

pub use coda_protocol as protocol;

pub use admin::Admin;
pub use certificate::ClientCertificate;
pub use client::{Client, RunError, RunHandle, TaskHandle};
pub use error::ClientError;
pub use events::Events;
pub use keys::{IntoKey, IntoKeyPart};
pub use leases::Served;
pub use link::{Answered, Event, Link, Parcel};
pub use options::ConnectOptions;
pub use payloads::{BoxError, Failed, from_json, to_json};
pub use start::{StartOptions, SubmitOptions};
pub use worker::{Worker, WorkerBuilder};
pub use worker_link::{WorkerEvent, WorkerLink, WorkerParcel};
pub use workflow::{SpawnStepBuilder, StepFailed, StepHandle, WorkflowContext};
