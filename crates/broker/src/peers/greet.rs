//! The first words on a connection between nodes, at both ends: who are you, and may you be here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coda_protocol::ids::{ClusterId, NodeId};
use coda_protocol::version::agree;
use quinn::{Connection, VarInt};

use crate::identity::PeerIdentity;
use crate::peers::fault::{LinkError, PeerFault, Refused};
use crate::peers::frame::PeerFrame;
use crate::peers::hello::PeerHello;
use crate::peers::limits::{CONTROL_PRIORITY, HELLO_BYTES_MAX, PEER_VERSIONS};
use crate::peers::stream::{Ended, Incoming, Outgoing};

/// Decides who takes part. Asked at both ends: a node that lost its data must neither be heard nor be told, or it could
/// vote against what it once promised.
///
/// It must not hold a group: the groups hold the transport, and with it this.
pub trait Admission: Send + Sync + 'static {
    /// Whether to speak with this node. Its cluster and its certificate have been checked. Must not block.
    ///
    /// # Errors
    /// [`Refused`], which the node is told.
    fn admit(&self, peer: &PeerHello) -> Result<(), Refused>;
}

/// A connection whose ends know each other. The first stream goes on as the control stream.
pub struct Greeted {
    /// When the membership let it in.
    pub admitted: Admitted,
    pub connection: Connection,
    pub peer: PeerHello,
    pub version: u16,
    pub outgoing: Outgoing,
    pub incoming: Incoming,
}

/// What the membership was when somebody was let in, as the number of its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted(u64);

/// What a node says of itself, and whom it lets in.
pub struct Greeter {
    pub me: PeerHello,
    admission: Arc<dyn Admission>,
    changes: AtomicU64,
}

impl Greeter {
    pub fn new(me: PeerHello, admission: Arc<dyn Admission>) -> Self {
        Self { me, admission, changes: AtomicU64::new(0) }
    }

    /// Whether this peer may be here now.
    pub fn admit(&self, peer: &PeerHello) -> Result<Admitted, Refused> {
        // In this order: a change that comes between the two is found by `admit_again`.
        let admitted = Admitted(self.changes.load(Ordering::SeqCst));
        self.admission.admit(peer).map(|()| admitted)
    }

    /// To be called once a peer can be found by those who look for whom a change concerns: the change may have come
    /// between its greeting and now.
    pub fn admit_again(&self, admitted: Admitted, peer: &PeerHello) -> Result<(), Refused> {
        if self.changes.load(Ordering::SeqCst) == admitted.0 { Ok(()) } else { self.admission.admit(peer) }
    }

    /// To be called before looking for whom a change concerns.
    pub fn membership_has_changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Greets a node that was dialled.
    pub async fn dialled(&self, connection: Connection, node: NodeId) -> Result<Greeted, LinkError> {
        let lost = |error: &quinn::ConnectionError| LinkError::ended(node, error);
        let (send, recv) = connection.open_bi().await.map_err(|error| lost(&error))?;
        let (mut outgoing, mut incoming) = (Outgoing::new(send), Incoming::new(recv));
        outgoing.set_priority(CONTROL_PRIORITY);
        // Should this fail, the reader knows why.
        let _ = outgoing.frame(&PeerFrame::Hello { versions: PEER_VERSIONS, hello: self.me.clone() }).await;
        let welcome = match incoming.frame(HELLO_BYTES_MAX).await {
            Ok(PeerFrame::Welcome { version, hello }) => {
                self.check(&connection, &hello).map(|admitted| (version, hello, admitted))
            }
            Ok(_) => Err(PeerFault::NotAPeer),
            Err(Ended::Fault(fault)) => Err(fault),
            Err(Ended::Lost(error)) => return Err(lost(&error)),
            Err(Ended::Finished | Ended::Cut | Ended::Reset(_)) => return Err(lost(&connection.closed().await)),
        };
        match welcome {
            Ok((version, peer, admitted)) => Ok(Greeted { admitted, connection, peer, version, outgoing, incoming }),
            Err(fault) => Err(refuse(&connection, node, fault)),
        }
    }

    /// Greets whoever dialled this node.
    pub async fn dialling(&self, connection: Connection) -> Result<Greeted, Ended> {
        // Before its first word: who has no name has nothing to say.
        node_of(&connection)?;
        let (send, recv) = connection.accept_bi().await.map_err(Ended::Lost)?;
        let (mut outgoing, mut incoming) = (Outgoing::new(send), Incoming::new(recv));
        outgoing.set_priority(CONTROL_PRIORITY);
        let hello = match incoming.message(HELLO_BYTES_MAX).await {
            // Something else speaks, and its first bytes were taken for a length.
            Err(Ended::Fault(PeerFault::TooLarge { .. })) => return Err(PeerFault::NotAPeer.into()),
            message => PeerFrame::decode(message?)?,
        };
        let PeerFrame::Hello { versions, hello: peer } = hello else { return Err(PeerFault::NotAPeer.into()) };
        let mismatch = PeerFault::VersionMismatch { ours: PEER_VERSIONS, theirs: versions };
        let version = agree(PEER_VERSIONS, versions).ok_or(mismatch)?;
        let admitted = self.check(&connection, &peer)?;
        // Should this fail, the reader of what follows knows why.
        let _ = outgoing.frame(&PeerFrame::Welcome { version, hello: self.me.clone() }).await;
        Ok(Greeted { admitted, connection, peer, version, outgoing, incoming })
    }

    /// Whether a dialled connection leads where it should, before a word is said to it.
    pub fn check_name(&self, connection: &Connection, node: NodeId) -> Result<(), LinkError> {
        let checked = node_of(connection).and_then(|found| self.is_in_cluster(found, node));
        checked.map_err(|fault| refuse(connection, node, fault))
    }

    fn is_in_cluster(&self, (theirs, found): (ClusterId, NodeId), expected: NodeId) -> Result<(), PeerFault> {
        if theirs != self.me.cluster {
            return Err(PeerFault::WrongCluster { ours: self.me.cluster, theirs });
        }
        if found != expected {
            return Err(PeerFault::WrongNode { expected, found });
        }
        Ok(())
    }

    /// What a node says of itself, its certificate, and what the cluster knows of it must fit together.
    fn check(&self, connection: &Connection, peer: &PeerHello) -> Result<Admitted, PeerFault> {
        if peer.cluster != self.me.cluster {
            return Err(PeerFault::WrongCluster { ours: self.me.cluster, theirs: peer.cluster });
        }
        self.is_in_cluster(node_of(connection)?, peer.node)?;
        if peer.node == self.me.node {
            return Err(PeerFault::Unexpected {
                what: "this node's own id; two nodes run with one identity, stop one",
            });
        }
        Ok(self.admit(peer)?)
    }
}

/// Which node of which cluster is at the other end: by its certificate, and TLS has checked who signed that.
pub fn node_of(connection: &Connection) -> Result<(ClusterId, NodeId), PeerFault> {
    let unnamed = |why: String| PeerFault::Unnamed { why };
    match PeerIdentity::shown(connection) {
        Ok(Some(PeerIdentity::Node { cluster, node })) => Ok((cluster, node)),
        Ok(Some(client @ PeerIdentity::Client { .. })) => Err(unnamed(format!("it is that of {client}"))),
        Ok(None) => Err(unnamed("there is none".into())),
        Err(error) => Err(unnamed(error.to_string())),
    }
}

/// Ends a connection that this node dialled.
fn refuse(connection: &Connection, node: NodeId, fault: PeerFault) -> LinkError {
    connection.close(VarInt::from_u32(fault.close_code()), fault.to_string().as_bytes());
    LinkError::Fault { node, fault }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use coda_protocol::ids::StorageId;

    use super::*;

    #[derive(Default)]
    struct Members {
        is_removed: AtomicBool,
        asked: AtomicU64,
    }

    impl Admission for Members {
        fn admit(&self, peer: &PeerHello) -> Result<(), Refused> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.is_removed.load(Ordering::SeqCst) { Err(Refused::Removed { node: peer.node }) } else { Ok(()) }
        }
    }

    fn hello(node: u64) -> PeerHello {
        PeerHello {
            cluster: ClusterId([1; 16]),
            node: NodeId(node),
            incarnation: 1,
            storage: StorageId([2; 16]),
            address: "".into(),
            program: "".into(),
        }
    }

    #[test]
    fn who_is_removed_in_the_middle_of_its_greeting_does_not_stay() {
        let members = Arc::new(Members::default());
        let greeter = Greeter::new(hello(1), members.clone());
        let (peer, asked) = (hello(2), || members.asked.load(Ordering::SeqCst));
        let admitted = greeter.admit(&peer).unwrap();
        assert_eq!((greeter.admit_again(admitted, &peer), asked()), (Ok(()), 1), "nothing has changed");
        members.is_removed.store(true, Ordering::SeqCst);
        greeter.membership_has_changed();
        assert_eq!(greeter.admit_again(admitted, &peer), Err(Refused::Removed { node: NodeId(2) }));
        members.is_removed.store(false, Ordering::SeqCst);
        let admitted = greeter.admit(&peer).unwrap();
        assert_eq!((greeter.admit_again(admitted, &peer), asked()), (Ok(()), 3));
    }
}
