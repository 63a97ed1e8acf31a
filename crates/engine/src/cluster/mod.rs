//! The cluster's own state, held by the meta group: nodes, who may join, where groups are, settings.
//!
//! Whoever changes something proposes a [`ClusterCommand`](command::ClusterCommand) to the meta group. Each change but of
//! tokens is a new version of the cluster's map, and an `Effect::MapChanged` where it was proposed: from there the map goes
//! to everybody. A group's leader that finds another placement in the map than Raft's membership brings that there, and
//! says so (`SettleGroup`). Nobody waits for anybody: every one of them compares what is with what should be.
//!
//! One file per command, as for the data groups' commands. Deliberately absent: whether a node can be reached, who leads
//! and what Raft's own membership of a group is. That is known to those who are there; what was decided is known here.

pub mod command;
pub mod rows;
pub mod settings;

mod change_state;
mod create_token;
mod init;
mod join;
mod members;
mod place_group;
mod register;
mod remove_node;
mod revoke_token;
mod set_replication_factor;
mod set_setting;
mod settle_group;

use crate::apply::Cx;
use crate::command::Outcome;
use command::ClusterCommand as C;
use rows::NodeEvent;

pub(crate) fn apply(cx: &mut Cx<'_>, command: &C) -> Outcome {
    match command {
        C::Init(init) => init::apply(cx, init),
        C::CreateToken { token, digest, ttl } => create_token::apply(cx, *token, *digest, *ttl),
        C::RevokeToken { token } => revoke_token::apply(cx, *token),
        C::Join { token, digest, node, registration } => join::apply(cx, (*token, *digest), *node, registration),
        C::Register { node, registration } => register::apply(cx, *node, registration),
        C::Activate { node } => change_state::apply(cx, *node, NodeEvent::Activated),
        C::Drain { node } => change_state::apply(cx, *node, NodeEvent::Drained),
        C::Undrain { node } => change_state::apply(cx, *node, NodeEvent::Undrained),
        C::Remove { node } => remove_node::apply(cx, *node),
        C::PlaceGroup(place) => place_group::apply(cx, place),
        C::SettleGroup { group, version } => settle_group::apply(cx, *group, *version),
        C::SetReplicationFactor { replication_factor } => set_replication_factor::apply(cx, *replication_factor),
        C::SetSetting { key, value } => set_setting::apply(cx, key, *value),
    }
}
