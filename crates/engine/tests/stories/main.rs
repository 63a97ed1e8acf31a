//! Short stories: each name is a sentence that a user could rely on.

#[path = "../support/mod.rs"]
mod support;

mod batches;
mod children;
mod failures;
mod identity;
mod leases;
mod memo;
mod parking;
mod queues;
mod retention;
