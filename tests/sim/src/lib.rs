//! A whole cluster of real nodes, clients and workers on one thread, in virtual time, from one seed.
//!
//! The real engine, store, broker, client, QUIC and TLS; simulated are the network's datagrams, the disks, the clocks and
//! chance. Deliberately absent: any rule of Coda. What may happen is checked against what clients were told, and against
//! `coda_engine::invariants`.

// Read in this order: a seed's meaning, its run, and what is checked.
pub mod book;
pub mod check;
pub mod plan;
pub mod run;

// Many of them, each in a process of its own.
pub mod child;
pub mod planted;
pub mod shrink;
pub mod suite;

// Who is there.
pub mod cluster;
pub mod faults;
pub mod readers;
pub mod stage;
pub mod workload;

// The world they live in.
pub mod host;
pub mod log;
pub mod net;
pub mod shims;
pub mod trace;
pub mod world;
