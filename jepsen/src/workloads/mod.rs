//! What clients and workers do while things go wrong. One file each.

pub mod ledger;
