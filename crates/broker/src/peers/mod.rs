//! Nodes among themselves: Raft's messages over QUIC with mutual TLS. `docs/protocol.md` has the bytes.
//!
//! A node has one socket for its peers, apart from that for clients, so that a flood of these never delays a vote. Per
//! pair of nodes and direction there is one connection, dialled by the node that has something to ask, and it serves all
//! groups:
//!
//! ```text
//!  PeerTransport (called by Raft)                                     Groups (this node's)
//!     │ call, heartbeat ──▶ live: one control stream, multiplexed ──▶ serve_calls ──▶ Group::serve
//!     │ appends ──────────▶ appends: a stream per group ────────────▶ serve_streams ▶ Group::serve_appends
//!     │ snapshot ─────────▶ send_snapshot: one stream, last in line ▶ receive_snapshot ▶ Group::serve_snapshot
//!     ├─ ask ─────────────▶ asks: a stream per question ──────────▶ Asked
//!     └─ dial: at most one attempt per peer      greet, at both ends: who are you, may you be here
//! ```
//!
//! Deliberately absent: retries (Raft's own are the right ones), knowledge of who leads or votes, a queue between nodes,
//! and any trust in addresses: a node is who its certificate says it is.

// What others use.
mod endpoint;
mod fault;
mod greet;
mod groups;
mod hello;
pub mod limits;
mod tls;

// What is said.
mod frame;
mod stream;

// The end that asks.
mod appends;
mod asks;
mod dial;
mod live;
mod send_snapshot;
mod transport;

// The end that answers.
mod pace;
mod receive_snapshot;
mod serve;
mod serve_calls;
mod serve_streams;

// What is said about it.
mod complaints;

pub use asks::Asker;
pub use endpoint::{PeerEndpoint, PeerEndpointError, PeerLink, PeerOptions, PeerStatus};
pub use fault::{PeerFault, Refused};
#[cfg(feature = "testing")]
pub(crate) use frame::take_message;
pub use frame::{CallHead, CallKind, PeerFrame};
pub use greet::Admission;
pub use groups::{Asked, GroupTable, Groups, Served};
pub use hello::PeerHello;
