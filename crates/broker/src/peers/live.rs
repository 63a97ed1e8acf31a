//! A connection to a peer that is up. Calls of all groups share its control stream: one writer drains what waits and
//! writes once, so that heartbeats of many groups leave in few packets; answers come back by number.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coda_protocol::ids::NodeId;
use parking_lot::Mutex;
use quinn::Connection;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::messages::AbortOnDrop;
use crate::peers::complaints::{Complaints, Who};
use crate::peers::fault::{LinkError, PeerFault};
use crate::peers::frame::{CallHead, PeerFrame};
use crate::peers::greet::{Admitted, Greeted};
use crate::peers::hello::PeerHello;
use crate::peers::limits::{
    BATCH_BYTES_MAX, BATCH_MAX, CALL_BYTES_MAX, CALLS_WAITING_MAX, CLOSE_REASON_TIMEOUT, FRAME_BYTES_MAX,
    OPEN_STREAM_TIMEOUT,
};
use crate::peers::stream::{Ended, Incoming, Outgoing};

/// A connection that this node dialled.
pub struct Live {
    pub connection: Connection,
    pub peer: PeerHello,
    pub version: u16,
    pub since: Instant,
    pub admitted: Admitted,
    calls: mpsc::Sender<PeerFrame>,
    waiting: Arc<Waiting>,
    complaints: Arc<Complaints>,
    _tasks: [AbortOnDrop; 2],
}

/// Calls that wait for their answers.
#[derive(Default)]
struct Waiting(Mutex<Table>);

#[derive(Default)]
struct Table {
    last_id: u64,
    calls: BTreeMap<u64, oneshot::Sender<Result<Bytes, LinkError>>>,
    /// Why there are no answers any more.
    ended: Option<LinkError>,
}

/// A call's place among those that wait; it is given up when the call is.
struct Place<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.0.lock().calls.remove(&self.id);
    }
}

impl Waiting {
    fn enter(&self, node: NodeId) -> Result<(Place<'_>, oneshot::Receiver<Result<Bytes, LinkError>>), LinkError> {
        let mut table = self.0.lock();
        if let Some(ended) = &table.ended {
            return Err(ended.clone());
        }
        if table.calls.len() >= CALLS_WAITING_MAX {
            return Err(LinkError::TooMany { node, what: "calls", max: CALLS_WAITING_MAX });
        }
        table.last_id += 1;
        let id = table.last_id;
        let (tell, answer) = oneshot::channel();
        table.calls.insert(id, tell);
        Ok((Place { waiting: self, id }, answer))
    }

    fn is_waited_for(&self, frame: &PeerFrame) -> bool {
        matches!(frame, PeerFrame::Call { id, .. } if self.0.lock().calls.contains_key(id))
    }

    /// An answer to a call that was given up goes nowhere.
    fn answer(&self, id: u64, answer: Result<Bytes, LinkError>) {
        let waits = self.0.lock().calls.remove(&id);
        if let Some(waits) = waits {
            drop(waits.send(answer));
        }
    }

    fn end(&self, why: &LinkError) {
        let calls = {
            let mut table = self.0.lock();
            table.ended = Some(why.clone());
            std::mem::take(&mut table.calls)
        };
        for waits in calls.into_values() {
            drop(waits.send(Err(why.clone())));
        }
    }
}

impl Live {
    pub fn start(greeted: Greeted, since: Instant, complaints: Arc<Complaints>) -> Self {
        let Greeted { admitted, connection, peer, version, outgoing, incoming } = greeted;
        let (calls, queued) = mpsc::channel(CALLS_WAITING_MAX);
        let waiting = Arc::new(Waiting::default());
        let tasks = [
            tokio::spawn(write(outgoing, queued, waiting.clone())),
            tokio::spawn(read(connection.clone(), peer.node, incoming, waiting.clone(), complaints.clone())),
        ];
        let tasks = tasks.map(AbortOnDrop);
        Self { connection, peer, version, since, admitted, calls, waiting, complaints, _tasks: tasks }
    }

    /// Whether it can still be used, as far as this end knows.
    pub fn is_open(&self) -> bool {
        self.connection.close_reason().is_none() && self.waiting.0.lock().ended.is_none()
    }

    /// One call, one answer. Dropped, it waits no longer; what was not yet sent is not sent.
    pub async fn call(&self, head: CallHead, body: Bytes) -> Result<Bytes, LinkError> {
        let node = self.peer.node;
        if body.len() > CALL_BYTES_MAX {
            let (bytes, max) = (body.len() as u64, CALL_BYTES_MAX as u64);
            return Err(LinkError::TooLarge { node, what: "a call", bytes, max });
        }
        let (place, answer) = self.waiting.enter(node)?;
        let frame = PeerFrame::Call { id: place.id, head, body };
        match self.calls.try_send(frame) {
            Ok(()) => {}
            // The peer reads nothing: its calls time out, and the writer skips them once it goes on.
            Err(TrySendError::Full(_)) => {
                return Err(LinkError::TooMany { node, what: "unread calls", max: CALLS_WAITING_MAX });
            }
            Err(TrySendError::Closed(_)) => return Err(self.why_lost().await),
        }
        let stopped = |_| LinkError::Lost { node, why: "the node is stopping".into() };
        answer.await.map_err(stopped)?
    }

    /// A stream of its own.
    pub async fn open_stream(&self, priority: i32) -> Result<(Outgoing, Incoming), LinkError> {
        let node = self.peer.node;
        match timeout(OPEN_STREAM_TIMEOUT, self.connection.open_bi()).await {
            Ok(Ok((send, recv))) => {
                let outgoing = Outgoing::new(send);
                outgoing.set_priority(priority);
                Ok((outgoing, Incoming::new(recv)))
            }
            Ok(Err(error)) => Err(lost(node, &error)),
            Err(_) => Err(LinkError::Late { node, after: OPEN_STREAM_TIMEOUT }),
        }
    }

    /// The peer may not be here any more, or what came from it is not to be trusted: closes the connection.
    pub fn close_for(&self, fault: PeerFault) -> LinkError {
        let node = self.peer.node;
        self.complaints.close(&self.connection, Who::Node(node), &fault);
        LinkError::Fault { node, fault }
    }

    /// Why this connection, which was up, is not any more.
    pub async fn why_lost(&self) -> LinkError {
        why_lost(&self.connection, self.peer.node).await
    }
}

/// It was reached, so that whatever ended it is a loss: the next attempt will tell if it is more.
fn lost(node: NodeId, error: &quinn::ConnectionError) -> LinkError {
    match LinkError::ended(node, error) {
        lost @ LinkError::Lost { .. } => lost,
        other => LinkError::Lost { node, why: other.to_string() },
    }
}

async fn why_lost(connection: &Connection, node: NodeId) -> LinkError {
    match timeout(CLOSE_REASON_TIMEOUT, connection.closed()).await {
        Ok(error) => lost(node, &error),
        Err(_) => LinkError::Lost { node, why: "its control stream ended".into() },
    }
}

async fn write(mut outgoing: Outgoing, mut queued: mpsc::Receiver<PeerFrame>, waiting: Arc<Waiting>) {
    let mut frames = Vec::with_capacity(BATCH_MAX);
    while queued.recv_many(&mut frames, BATCH_MAX).await > 0 {
        let mut out = Vec::new();
        for frame in frames.drain(..).filter(|frame| waiting.is_waited_for(frame)) {
            frame.encode(&mut out);
            if out.len() > BATCH_BYTES_MAX && outgoing.bytes(std::mem::take(&mut out).into()).await.is_err() {
                return;
            }
        }
        if !out.is_empty() && outgoing.bytes(out.into()).await.is_err() {
            // The connection's end is seen by its reader.
            return;
        }
    }
}

async fn read(
    connection: Connection,
    node: NodeId,
    mut incoming: Incoming,
    waiting: Arc<Waiting>,
    complaints: Arc<Complaints>,
) {
    let fault = loop {
        match incoming.frame(FRAME_BYTES_MAX).await {
            Ok(PeerFrame::Answer { id, body }) => waiting.answer(id, Ok(body)),
            Ok(PeerFrame::Failed { id, why }) => waiting.answer(id, Err(LinkError::Failed { why })),
            Ok(_) => break Some(PeerFault::Unexpected { what: "no answer, but something else" }),
            Err(Ended::Fault(fault)) => break Some(fault),
            Err(Ended::Lost(_)) => break None,
            Err(Ended::Finished | Ended::Cut | Ended::Reset(_)) => {
                // The end of the connection may be right behind that of its stream, and say why.
                let closed = timeout(CLOSE_REASON_TIMEOUT, connection.closed()).await;
                break closed.is_err().then_some(PeerFault::Unexpected { what: "the end of the control stream" });
            }
        }
    };
    if let Some(fault) = fault {
        complaints.close(&connection, Who::Node(node), &fault);
    }
    let why = why_lost(&connection, node).await;
    info!(%node, %why, "a peer is gone");
    waiting.end(&why);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);

    #[tokio::test]
    async fn answers_find_their_calls_and_late_ones_nobody() {
        let waiting = Waiting::default();
        let (first, first_answer) = waiting.enter(NODE).unwrap();
        let (second, second_answer) = waiting.enter(NODE).unwrap();
        let first_id = first.id;
        drop(first);
        waiting.answer(first_id, Ok(Bytes::from_static(b"late")));
        waiting.answer(second.id, Ok(Bytes::from_static(b"yes")));
        waiting.answer(second.id, Ok(Bytes::from_static(b"again")));
        assert_eq!(second_answer.await.unwrap(), Ok(Bytes::from_static(b"yes")));
        assert!(first_answer.await.is_err());
    }

    #[tokio::test]
    async fn the_end_answers_those_that_wait_and_those_that_come_later() {
        let waiting = Waiting::default();
        let (_place, answer) = waiting.enter(NODE).unwrap();
        waiting.end(&LinkError::Closed);
        assert_eq!(answer.await.unwrap(), Err(LinkError::Closed));
        assert!(matches!(waiting.enter(NODE), Err(LinkError::Closed)));
    }

    #[test]
    fn the_number_of_calls_that_wait_is_bounded() {
        let waiting = Waiting::default();
        let places: Vec<_> = (0..CALLS_WAITING_MAX).map(|_| waiting.enter(NODE).unwrap()).collect();
        assert!(matches!(waiting.enter(NODE), Err(LinkError::TooMany { .. })));
        drop(places);
        assert!(waiting.enter(NODE).is_ok());
    }
}
