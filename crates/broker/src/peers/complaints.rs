//! What is logged about peers: each complaint once in a while, however often it is found true.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use coda_protocol::ids::NodeId;
use parking_lot::Mutex;
use quinn::{Connection, VarInt};
use smol_str::SmolStr;
use tokio::time::Instant;
use tracing::warn;

use crate::clock::Clock;
use crate::peers::fault::{LinkError, PeerFault};
use crate::peers::limits::{COMPLAIN_EVERY, COMPLAINTS_MAX};

/// Whom a complaint is about: a node, or the address of somebody who never showed that it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Node(NodeId),
    Stranger(IpAddr),
}

/// Remembers what was logged.
pub struct Complaints {
    clock: Arc<dyn Clock>,
    logged: Mutex<BTreeMap<(Who, SmolStr), Logged>>,
}

struct Logged {
    at: Instant,
    /// How often it was true since then.
    again: u64,
}

impl Complaints {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, logged: Mutex::default() }
    }

    /// Whether to log it now, and how often it was held back before.
    fn due(&self, who: Who, kind: &str) -> Option<u64> {
        let now = self.clock.instant();
        let mut logged = self.logged.lock();
        let key = (who, kind.into());
        if let Some(last) = logged.get_mut(&key) {
            if now < last.at + COMPLAIN_EVERY {
                last.again += 1;
                return None;
            }
            let again = last.again;
            *last = Logged { at: now, again: 0 };
            return Some(again);
        }
        if logged.len() >= COMPLAINTS_MAX {
            logged.retain(|_, last| now < last.at + COMPLAIN_EVERY);
        }
        // Whoever can make up that many has to share one line.
        if logged.len() >= COMPLAINTS_MAX {
            return None;
        }
        logged.insert(key, Logged { at: now, again: 0 });
        Some(0)
    }

    /// A peer is not reached. Forgotten once it is.
    pub fn unreached(&self, node: NodeId, error: &LinkError) {
        if let Some(held_back) = self.due(Who::Node(node), &error.kind()) {
            warn!(%node, held_back, %error, "a peer is not reached");
        }
    }

    /// What was wrong with a peer is over: should it come again, it is news.
    pub fn reached(&self, node: NodeId) {
        self.logged.lock().retain(|(who, _), _| *who != Who::Node(node));
    }

    /// A handshake failed before anybody said who it is.
    pub fn stranger(&self, address: IpAddr, why: &str) {
        if let Some(held_back) = self.due(Who::Stranger(address), "handshake") {
            warn!(%address, held_back, why, "a handshake on the peers' port failed");
        }
    }

    /// More connections than there may be.
    pub fn crowd(&self, address: IpAddr, max: usize) {
        if let Some(held_back) = self.due(Who::Stranger(address), "crowd") {
            warn!(%address, held_back, max, "too many connections between nodes, refusing one");
        }
    }

    /// Closes a connection for a fault of the other end, and logs it with the code that the other end sees too.
    pub fn close(&self, connection: &Connection, who: Who, fault: &PeerFault) {
        // Each of a connection's streams may find something at the same moment, and looking and closing are two steps.
        static CLOSING: Mutex<()> = Mutex::new(());
        let _closing = CLOSING.lock();
        if connection.close_reason().is_some() {
            return;
        }
        connection.close(VarInt::from_u32(fault.close_code()), fault.to_string().as_bytes());
        if let Some(held_back) = self.due(who, fault.code()) {
            let peer = connection.remote_address();
            warn!(?who, %peer, code = fault.code(), held_back, %fault, "closing a connection between nodes");
        }
    }
}

#[cfg(test)]
mod tests {
    use coda_protocol::ids::Timestamp;

    use super::*;

    struct Hands(Mutex<Instant>);

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }
        fn instant(&self) -> Instant {
            *self.0.lock()
        }
    }

    #[tokio::test]
    async fn a_complaint_is_logged_once_in_a_while_and_says_how_often_it_was_not() {
        let clock = Arc::new(Hands(Mutex::new(Instant::now())));
        let complaints = Complaints::new(clock.clone());
        let due = |node, code| complaints.due(Who::Node(NodeId(node)), code);
        assert_eq!(due(1, "CODA1110"), Some(0));
        assert_eq!((due(1, "CODA1110"), due(1, "CODA1110")), (None, None));
        assert_eq!((due(2, "CODA1110"), due(1, "CODA1111")), (Some(0), Some(0)), "others are others");
        *clock.0.lock() += COMPLAIN_EVERY;
        assert_eq!(due(1, "CODA1110"), Some(2));
        complaints.reached(NodeId(1));
        assert_eq!((due(1, "CODA1110"), due(2, "CODA1110")), (Some(0), Some(0)));
    }

    #[tokio::test]
    async fn nobody_makes_us_remember_without_a_bound() {
        let complaints = Complaints::new(Arc::new(Hands(Mutex::new(Instant::now()))));
        let said =
            (0..2 * COMPLAINTS_MAX as u64).filter(|node| complaints.due(Who::Node(NodeId(*node)), "x").is_some());
        assert_eq!(said.count(), COMPLAINTS_MAX);
    }
}
