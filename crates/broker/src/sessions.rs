//! Which sessions are connected to this node, and how to reach them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coda_protocol::ids::SessionId;
use coda_protocol::push::Push;
use parking_lot::Mutex;

use crate::dispatch::Epoch;
use crate::outbox::{Outbox, Outboxes};

/// A shared directory of connected sessions.
#[derive(Clone, Default)]
pub struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    connected: Mutex<BTreeMap<SessionId, Connected>>,
    outboxes: Outboxes,
    epochs: AtomicU64,
}

#[derive(Clone)]
pub struct Connected {
    pub epoch: Epoch,
    pub outbox: Outbox,
    pub connection: quinn::Connection,
}

impl Sessions {
    /// Registers a connection; returns its epoch and the connection it replaces.
    pub fn connect(
        &self,
        session: SessionId,
        outbox: Outbox,
        connection: quinn::Connection,
    ) -> (Epoch, Option<Connected>) {
        let epoch = Epoch(self.inner.epochs.fetch_add(1, Ordering::Relaxed) + 1);
        let before = self.inner.connected.lock().insert(session, Connected { epoch, outbox, connection });
        (epoch, before)
    }

    /// Removes a connection; whether it was still the session's current one.
    pub fn disconnect(&self, session: SessionId, epoch: Epoch) -> bool {
        let mut connected = self.inner.connected.lock();
        let current = connected.get(&session).is_some_and(|one| one.epoch == epoch);
        if current {
            connected.remove(&session);
        }
        current
    }

    /// What waits for all of them.
    #[must_use]
    pub fn outboxes(&self) -> &Outboxes {
        &self.inner.outboxes
    }

    #[must_use]
    pub fn is_connected(&self, session: SessionId) -> bool {
        self.inner.connected.lock().contains_key(&session)
    }

    /// Sends a push; whether the session is there to get it.
    pub fn push(&self, session: SessionId, push: Push) -> bool {
        self.outbox(session).is_some_and(|outbox| outbox.push(push))
    }

    /// Sends a push to every session.
    pub fn push_all(&self, push: &Push) {
        for one in self.all() {
            one.outbox.push(push.clone());
        }
    }

    /// Of the session's connection.
    #[must_use]
    pub fn outbox(&self, session: SessionId) -> Option<Outbox> {
        self.inner.connected.lock().get(&session).map(|one| one.outbox.clone())
    }

    /// Of this connection, if it is still the session's.
    #[must_use]
    pub fn outbox_of(&self, session: SessionId, epoch: Epoch) -> Option<Outbox> {
        self.inner.connected.lock().get(&session).filter(|one| one.epoch == epoch).map(|one| one.outbox.clone())
    }

    #[must_use]
    pub fn find(&self, session: SessionId) -> Option<Connected> {
        self.inner.connected.lock().get(&session).cloned()
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.connected.lock().len()
    }

    #[must_use]
    pub fn all(&self) -> Vec<Connected> {
        self.inner.connected.lock().values().cloned().collect()
    }
}
