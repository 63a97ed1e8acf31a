//! Replication to a peer, at this end: a stream of its own per group, pipelined.
//!
//! A task pumps requests into the stream while whoever holds the answers reads them; dropping the answers ends the task
//! and resets the stream. Openraft waits for answers without a limit: here a peer that is there but makes no progress is
//! given up, and openraft starts over.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use coda_protocol::ids::GroupId;
use coda_raft_store::peers::PeerError;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::time::{Sleep, sleep};

use crate::messages::AbortOnDrop;
use crate::peers::fault::{LinkError, reset};
use crate::peers::frame::{CallHead, CallKind, PeerFrame};
use crate::peers::limits::{
    APPEND_ANSWER_BYTES_MAX, APPEND_BYTES_MAX, APPENDS_PRIORITY, APPENDS_STALL_TIMEOUT, CALL_BYTES_MAX, REOPEN_PAUSE,
    SINGLE_APPEND_TIMEOUT,
};
use crate::peers::live::Live;
use crate::peers::stream::{Ended, Incoming, Outgoing, next_batch};

type Answer = Result<Bytes, PeerError>;

/// Sends appends; the answers come in the same order.
pub async fn open(
    live: Arc<Live>,
    group: GroupId,
    mut requests: BoxStream<'static, Bytes>,
) -> Result<BoxStream<'static, Answer>, LinkError> {
    // Heartbeats are streams of one. They go where the votes go, and cost no stream of their own.
    if requests.size_hint() == (1, Some(1)) {
        let Some(request) = requests.next().await else { return Ok(stream::empty().boxed()) };
        if request.len() <= CALL_BYTES_MAX {
            return Ok(stream::once(single(live, group, request)).boxed());
        }
        requests = stream::once(std::future::ready(request)).boxed();
    }
    let (mut outgoing, incoming) = live.open_stream(APPENDS_PRIORITY).await?;
    if outgoing.frame(&PeerFrame::Appends { group }).await.is_err() {
        return Err(live.why_lost().await);
    }
    let progress = Arc::new(Progress::default());
    let pump = AbortOnDrop(tokio::spawn(pump(requests, outgoing, progress.clone())));
    let answers = Answers {
        live,
        incoming,
        progress,
        answered: 0,
        before: Mark::default(),
        alarm: Box::pin(sleep(APPENDS_STALL_TIMEOUT)),
        over: false,
        _pump: pump,
    };
    Ok(stream::unfold(answers, Answers::next).boxed())
}

async fn single(live: Arc<Live>, group: GroupId, request: Bytes) -> Answer {
    let head = CallHead { group, kind: CallKind::SingleAppend, timeout: SINGLE_APPEND_TIMEOUT };
    let node = live.peer.node;
    let late = |_| LinkError::Late { node, after: SINGLE_APPEND_TIMEOUT };
    let answer = tokio::time::timeout(SINGLE_APPEND_TIMEOUT, live.call(head, request)).await;
    Ok(answer.map_err(late)??)
}

/// What the pump has done, for the alarm of who reads the answers.
#[derive(Default)]
struct Progress {
    /// Requests that the pump has begun with, and those that QUIC has taken.
    taken: AtomicU64,
    sent: AtomicU64,
    /// Writes, each of which sent a part of a request or some of them.
    writes: AtomicU64,
}

async fn pump(requests: BoxStream<'static, Bytes>, mut outgoing: Outgoing, progress: Arc<Progress>) {
    let mut requests = requests.fuse();
    while let Some(batch) = next_batch(&mut requests).await {
        if batch.iter().any(|request| request.len() > APPEND_BYTES_MAX) {
            tracing::error!(max = APPEND_BYTES_MAX, "an append is larger than peers accept");
            return;
        }
        let count = batch.len() as u64;
        progress.taken.fetch_add(count, Ordering::Relaxed);
        let written = || _ = progress.writes.fetch_add(1, Ordering::Relaxed);
        // Should this fail, the reader of the answers knows why.
        if outgoing.messages(batch, written).await.is_err() {
            return;
        }
        progress.sent.fetch_add(count, Ordering::Relaxed);
    }
    outgoing.finish();
}

/// How far a stream was at one moment.
#[derive(Clone, Copy, Default)]
struct Mark {
    answered: u64,
    sent: u64,
    writes: u64,
}

struct Answers {
    live: Arc<Live>,
    incoming: Incoming,
    progress: Arc<Progress>,
    answered: u64,
    /// When the alarm last went off.
    before: Mark,
    alarm: Pin<Box<Sleep>>,
    over: bool,
    _pump: AbortOnDrop,
}

impl Answers {
    async fn next(mut self) -> Option<(Answer, Self)> {
        while !self.over {
            tokio::select! {
                biased;
                message = self.incoming.message(APPEND_ANSWER_BYTES_MAX) => match message {
                    Ok(answer) => {
                        self.answered += 1;
                        return Some((Ok(answer), self));
                    }
                    Err(ended) => {
                        self.pace().await;
                        if ended == Ended::Finished {
                            return None;
                        }
                        let error = self.why(ended).await;
                        return Some(self.fail(error));
                    }
                },
                () = &mut self.alarm => {
                    if self.is_stalled() {
                        let error = LinkError::Stalled {
                            node: self.live.peer.node,
                            what: "appends",
                            after: APPENDS_STALL_TIMEOUT,
                        };
                        return Some(self.fail(error));
                    }
                }
            }
        }
        None
    }

    /// A stream that ends before its first answer leads to a group that is not there yet, or takes nothing for now. Raft opens
    /// the next one at once.
    async fn pace(&self) {
        if self.answered == 0 {
            sleep(REOPEN_PAUSE).await;
        }
    }

    fn fail(mut self, error: LinkError) -> (Answer, Self) {
        self.over = true;
        (Err(error.into()), self)
    }

    /// Called once per [`APPENDS_STALL_TIMEOUT`]. Without an answer since the last time, a request that was sent by then
    /// should have one; and one that is still being sent should at least have moved.
    fn is_stalled(&mut self) -> bool {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Progress { taken, sent, writes } = &*self.progress;
        let now = Mark { answered: self.answered, sent: load(sent), writes: load(writes) };
        let before = std::mem::replace(&mut self.before, now);
        self.alarm = Box::pin(sleep(APPENDS_STALL_TIMEOUT));
        let unanswered = before.sent > now.answered;
        let stuck = load(taken) > now.sent && now.writes == before.writes;
        now.answered == before.answered && (unanswered || stuck)
    }

    async fn why(&self, ended: Ended) -> LinkError {
        let node = self.live.peer.node;
        match ended {
            Ended::Reset(code) => reset(node, code),
            Ended::Finished | Ended::Cut => LinkError::Lost { node, why: "an answer was cut off".into() },
            Ended::Lost(_) => self.live.why_lost().await,
            Ended::Fault(fault) => self.live.close_for(fault),
        }
    }
}
