//! The client against a node of paper, over real QUIC on loopback.

mod admin;
mod certificate;
mod client;
mod link;
mod node;
mod wants;
mod worker;
mod worker_link;
