//! Questions between nodes that are not Raft's: each on a stream of its own, because answers may be large.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coda_protocol::ids::NodeId;
use coda_raft_store::peers::Peer;
use tokio::time::timeout;

use crate::peers::dial::Links;
use crate::peers::fault::{LinkError, RESET_BUSY, ServeFault, reset};
use crate::peers::frame::PeerFrame;
use crate::peers::limits::{APPENDS_PRIORITY, ASK_BYTES_MAX, ASK_TIMEOUT_MAX, ASKS_SERVED_MAX, WHY_BYTES_MAX};
use crate::peers::live::Live;
use crate::peers::serve::Caller;
use crate::peers::stream::{Ended, Outgoing};

/// Asks other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Asker {
    links: Arc<Links>,
}

impl Asker {
    pub(super) fn new(links: Arc<Links>) -> Self {
        Self { links }
    }

    /// Whether there is a connection to a node, or there was when last somebody looked.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.links.standing(node).is_some_and(|standing| standing.is_ok())
    }

    /// Of the connection to a node, if there is one.
    #[must_use]
    pub fn round_trip(&self, node: NodeId) -> Option<Duration> {
        Some(self.links.standing(node)?.ok()?.connection.rtt())
    }

    /// Why there is no connection.
    #[must_use]
    pub fn why_down(&self, node: NodeId) -> String {
        match self.links.standing(node) {
            Some(Err(Some(error))) => error.to_string(),
            Some(Ok(_)) => "it is connected".into(),
            Some(Err(None)) | None => "it was not asked yet".into(),
        }
    }

    /// One question, one answer. Whether a question that failed was heard is not known.
    ///
    /// # Errors
    /// Why there is no answer, with a code.
    pub async fn ask(&self, to: &Peer, body: Bytes, within: Duration) -> Result<Bytes, LinkError> {
        let asking = async { ask(&*self.links.live(to).await?, body).await };
        match timeout(within, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(self.links.why_late(to.node, within)),
        }
    }
}

async fn ask(live: &Live, body: Bytes) -> Result<Bytes, LinkError> {
    let node = live.peer.node;
    if body.len() > ASK_BYTES_MAX {
        let (bytes, max) = (body.len() as u64, ASK_BYTES_MAX as u64);
        return Err(LinkError::TooLarge { node, what: "a question", bytes, max });
    }
    let (mut outgoing, mut incoming) = live.open_stream(APPENDS_PRIORITY).await?;
    // Should this fail, the reader knows why.
    if outgoing.frame(&PeerFrame::Ask { body }).await.is_ok() {
        outgoing.finish();
    }
    match incoming.message(ASK_BYTES_MAX + WHY_BYTES_MAX).await {
        Ok(answer) => Ok(answer),
        Err(Ended::Reset(code)) => Err(reset(node, code)),
        Err(Ended::Fault(fault)) => Err(live.close_for(fault)),
        Err(Ended::Finished | Ended::Cut) => Err(LinkError::Lost { node, why: "no answer to a question".into() }),
        Err(Ended::Lost(_)) => Err(live.why_lost().await),
    }
}

/// Answers one question, unless too many wait already.
pub async fn serve(caller: &Caller, body: Bytes, mut outgoing: Outgoing) {
    let Ok(_place) = caller.asks.try_acquire() else {
        let node = caller.host.greeter.me.node;
        let busy = ServeFault::Busy { node, what: "questions", max: ASKS_SERVED_MAX };
        tracing::debug!(%busy, from = %caller.node, "not answered");
        return outgoing.reset(RESET_BUSY);
    };
    let Some(asked) = caller.host.groups.asked() else { return outgoing.reset(RESET_BUSY) };
    let Ok(answer) = timeout(ASK_TIMEOUT_MAX, asked.ask(caller.node, body)).await else { return };
    if outgoing.messages(vec![answer], || ()).await.is_ok() {
        outgoing.finish();
    }
}
