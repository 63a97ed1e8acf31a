//! Serving the control stream of a peer: each call is answered when its group is ready, in any order.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coda_protocol::ids::GroupId;
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::peers::fault::{PeerFault, ServeFault};
use crate::peers::frame::{CallHead, CallKind, PeerFrame};
use crate::peers::groups::Served;
use crate::peers::limits::{
    BATCH_BYTES_MAX, BATCH_MAX, CALL_BYTES_MAX, CALL_TIMEOUT_MAX, CALLS_SERVED_MAX, CALLS_SERVED_PER_GROUP_MAX,
    CLOSE_REASON_TIMEOUT, FRAME_BYTES_MAX,
};
use crate::peers::serve::Caller;
use crate::peers::stream::{Ended, Incoming, Outgoing};

/// Serves until the stream ends; says what was wrong with it, if something was.
pub async fn serve(caller: Arc<Caller>, outgoing: Outgoing, incoming: Incoming) -> Option<PeerFault> {
    let (answers, queued) = mpsc::channel(CALLS_SERVED_MAX);
    tokio::select! {
        fault = read(caller.clone(), incoming, answers) => fault,
        // The connection's end is seen by the reader, and says why.
        () = write(outgoing, queued) => {
            drop(timeout(CLOSE_REASON_TIMEOUT, caller.connection.closed()).await);
            None
        }
    }
}

async fn read(caller: Arc<Caller>, mut incoming: Incoming, answers: mpsc::Sender<PeerFrame>) -> Option<PeerFault> {
    // Dropped with the connection, and so are its calls: nobody waits for them any more.
    let mut calls = JoinSet::new();
    let busy = Arc::new(Busy::default());
    loop {
        let frame = match incoming.frame(FRAME_BYTES_MAX).await {
            Ok(frame) => frame,
            Err(Ended::Fault(fault)) => return Some(fault),
            Err(Ended::Lost(_)) => return None,
            Err(Ended::Finished | Ended::Cut | Ended::Reset(_)) => {
                // The end of the connection may be right behind that of its stream, and say why.
                let closed = timeout(CLOSE_REASON_TIMEOUT, caller.connection.closed()).await;
                return closed.is_err().then_some(PeerFault::Unexpected { what: "the end of the control stream" });
            }
        };
        let PeerFrame::Call { id, head, body } = frame else {
            return Some(PeerFault::Unexpected { what: "no call, but something else" });
        };
        while calls.try_join_next().is_some() {}
        match admit(&caller, &busy, head.group, calls.len()) {
            Ok((group, place)) => {
                let answers = answers.clone();
                calls.spawn(async move {
                    let answer = timeout(head.timeout.min(CALL_TIMEOUT_MAX), answer(group, head, body)).await;
                    // Nobody waits for what is late.
                    let Ok(answer) = answer else { return };
                    drop(place);
                    drop(answers.send(frame_of(id, answer)).await);
                });
            }
            // A peer that calls more than it reads answers waits here, alone.
            Err(fault) => drop(answers.send(frame_of(id, Err(fault.to_string()))).await),
        }
    }
}

/// Calls that are being served, per group.
#[derive(Default)]
struct Busy(Mutex<BTreeMap<GroupId, usize>>);

struct Place {
    busy: Arc<Busy>,
    group: GroupId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut busy = self.busy.0.lock();
        if let Some(count) = busy.get_mut(&self.group) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.group);
            }
        }
    }
}

fn admit(
    caller: &Caller,
    busy: &Arc<Busy>,
    group: GroupId,
    served: usize,
) -> Result<(Arc<dyn Served>, Place), ServeFault> {
    let node = caller.host.greeter.me.node;
    let found = caller.host.groups.find(group).ok_or(ServeFault::NoGroup { node, group })?;
    if served >= CALLS_SERVED_MAX {
        return Err(ServeFault::Busy { node, what: "calls", max: CALLS_SERVED_MAX });
    }
    let mut counts = busy.0.lock();
    let count = counts.entry(group).or_default();
    if *count >= CALLS_SERVED_PER_GROUP_MAX {
        return Err(ServeFault::Busy { node, what: "calls to a group", max: CALLS_SERVED_PER_GROUP_MAX });
    }
    *count += 1;
    Ok((found, Place { busy: busy.clone(), group }))
}

async fn answer(group: Arc<dyn Served>, head: CallHead, body: Bytes) -> Result<Bytes, String> {
    match head.kind {
        CallKind::Rpc(rpc) => group.serve(rpc, body).await.map_err(|error| error.to_string()),
        CallKind::SingleAppend => {
            let request = stream::once(std::future::ready(body)).boxed();
            let answer = group.serve_appends(request).next().await;
            answer.ok_or_else(|| format!("CODA4131 group {} has no answer", head.group))
        }
    }
}

fn frame_of(id: u64, answer: Result<Bytes, String>) -> PeerFrame {
    match answer {
        Ok(body) if body.len() <= CALL_BYTES_MAX => PeerFrame::Answer { id, body },
        Ok(body) => PeerFrame::Failed { id, why: format!("CODA4140 an answer of {} bytes is too large", body.len()) },
        Err(why) => PeerFrame::Failed { id, why },
    }
}

async fn write(mut outgoing: Outgoing, mut queued: mpsc::Receiver<PeerFrame>) {
    let mut frames = Vec::with_capacity(BATCH_MAX);
    while queued.recv_many(&mut frames, BATCH_MAX).await > 0 {
        let mut out = Vec::new();
        for frame in frames.drain(..) {
            frame.encode(&mut out);
            if out.len() > BATCH_BYTES_MAX && outgoing.bytes(std::mem::take(&mut out).into()).await.is_err() {
                return;
            }
        }
        if !out.is_empty() && outgoing.bytes(out.into()).await.is_err() {
            return;
        }
    }
}
