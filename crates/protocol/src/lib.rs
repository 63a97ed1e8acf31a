//! What may be said between Coda's programs: ids, requests, replies, pushes, refusals, limits and their bytes.
//!
//! Deliberately absent: any I/O, any clock, any rule about what a request *does* (that is `coda-engine`).
//! Read in this order; each module is one page.

pub mod cache_key;
pub mod cluster;
pub mod codec;
pub mod frame;
pub mod ids;
pub mod join;
pub mod limits;
pub mod operate;
pub mod payload;
pub mod planted;
pub mod policy;
pub mod push;
pub mod rebalance;
pub mod reject;
pub mod reply;
pub mod request;
pub mod slots;
pub mod version;
