//! Whom this node speaks with: the cluster's members, each with the data folder that it is known with.

use coda_protocol::cluster::NodeState;
use coda_protocol::ids::NodeId;

use super::view::ClusterView;
use crate::peers::{Admission, PeerHello, Refused};

/// Asks the view, so that it holds no group.
pub struct Door {
    pub me: NodeId,
    pub view: ClusterView,
}

impl Admission for Door {
    fn admit(&self, peer: &PeerHello) -> Result<(), Refused> {
        let view = self.view.get();
        // In no cluster yet, or reading how it came to be what it is: those who founded it may be gone, and those who are
        // there now tell who else is in it. Their certificates are of its authority.
        if !view.members.contains_key(&self.me) {
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
        // An older copy of the same folder. Its entries and votes of later days are gone: it could undo what a majority has
        // confirmed with it, and a leader would count on what it has no more.
        let (incarnation, known) = (peer.incarnation, member.registration.incarnation);
        if incarnation < known {
            return Err(Refused::OldStorage { node: peer.node, incarnation, known });
        }
        Ok(())
    }
}
