//! The meta group: stories, every command in every state of a node, random histories, and plans for random clusters.

mod model;
mod placement;
mod robust;
mod stories;
mod transitions;
mod world;
