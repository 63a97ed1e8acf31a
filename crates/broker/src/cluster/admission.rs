//! Whom this node speaks with: the cluster's members, each with the data folder that it is known with.

use coda_protocol::cluster::NodeState;

use super::view::ClusterView;
use crate::peers::{Admission, PeerHello, Refused};

/// Asks the view, so that it holds no group.
pub struct Door(pub ClusterView);

impl Admission for Door {
    fn admit(&self, peer: &PeerHello) -> Result<(), Refused> {
        let view = self.0.get();
        // In no cluster yet: its first peers tell who else is in it, and their certificates are of its authority.
        if view.map.is_none() {
            return Ok(());
        }
        let Some(member) = view.members.get(&peer.node) else { return Err(Refused::Unknown { node: peer.node }) };
        if member.state == NodeState::Removed {
            return Err(Refused::Removed { node: peer.node });
        }
        let expected = member.registration.storage;
        if expected != peer.storage {
            return Err(Refused::OtherStorage { node: peer.node, expected, found: peer.storage });
        }
        Ok(())
    }
}
