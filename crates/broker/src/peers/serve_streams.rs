//! Serving the other streams of a peer: appends, and snapshots.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::peers::asks;
use crate::peers::fault::{PeerFault, RESET_NO_GROUP};
use crate::peers::frame::PeerFrame;
use crate::peers::groups::Served;
use crate::peers::limits::{APPEND_BYTES_MAX, APPENDS_PRIORITY, ASK_BYTES_MAX, BATCHES_READY_MAX, OPENING_TIMEOUT};
use crate::peers::receive_snapshot::{self, Announced};
use crate::peers::serve::Caller;
use crate::peers::stream::{Ended, Incoming, Outgoing, next_batch};

/// Serves until the connection ends.
pub async fn serve(caller: Arc<Caller>) -> Option<PeerFault> {
    // Dropped with the connection, and so are its streams.
    let mut streams = JoinSet::new();
    // As many as QUIC lets through.
    while let Ok((send, recv)) = caller.connection.accept_bi().await {
        while streams.try_join_next().is_some() {}
        let caller = caller.clone();
        streams.spawn(async move {
            if let Err(fault) = serve_stream(&caller, Outgoing::new(send), Incoming::new(recv)).await {
                caller.close_for(&fault);
            }
        });
    }
    None
}

async fn serve_stream(caller: &Arc<Caller>, outgoing: Outgoing, mut incoming: Incoming) -> Result<(), PeerFault> {
    let Ok(opening) = timeout(OPENING_TIMEOUT, incoming.frame(ASK_BYTES_MAX)).await else {
        // Dropped here, it is reset: whoever wants it tries again.
        return Ok(());
    };
    let (group, announced) = match opening {
        Ok(PeerFrame::Ask { body }) => {
            asks::serve(caller, body, outgoing).await;
            return Ok(());
        }
        Ok(PeerFrame::Appends { group }) => (group, None),
        Ok(PeerFrame::Snapshot { group, file_bytes, head }) => (group, Some(Announced { group, file_bytes, head })),
        Ok(_) => return Err(PeerFault::Unexpected { what: "no opening of a stream, but something else" }),
        Err(Ended::Fault(fault)) => return Err(fault),
        // Given up at once.
        Err(_) => return Ok(()),
    };
    let Some(served) = caller.host.groups.find(group) else {
        outgoing.reset(RESET_NO_GROUP);
        return Ok(());
    };
    match announced {
        None => serve_appends(caller.clone(), served, outgoing, incoming).await,
        Some(announced) => return receive_snapshot::serve(caller, served, announced, outgoing, incoming).await,
    }
    Ok(())
}

async fn serve_appends(caller: Arc<Caller>, served: Arc<dyn Served>, mut outgoing: Outgoing, incoming: Incoming) {
    outgoing.set_priority(APPENDS_PRIORITY);
    // Through a channel, so that the stream is ours to end: a group that hangs may hold its end of it for ever.
    let (send, receive) = mpsc::channel::<Vec<Bytes>>(BATCHES_READY_MAX);
    let batches = stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) });
    let requests = batches.flat_map(stream::iter).boxed();
    let given_up = outgoing.stopped();
    let mut answers = served.serve_appends(requests).fuse();
    let reading = async {
        read_requests(&caller, incoming, send).await;
        // The answers to what was read are still to come.
        std::future::pending::<()>().await;
    };
    let answering = async {
        while let Some(batch) = next_batch(&mut answers).await {
            if outgoing.messages(batch, || ()).await.is_err() {
                return;
            }
        }
        outgoing.finish();
    };
    tokio::select! {
        () = reading => {}
        () = answering => {}
        () = given_up => {}
    }
}

async fn read_requests(caller: &Caller, mut incoming: Incoming, requests: mpsc::Sender<Vec<Bytes>>) {
    loop {
        match incoming.messages(APPEND_BYTES_MAX).await {
            Ok(batch) => {
                if requests.send(batch).await.is_err() {
                    return;
                }
            }
            Err(Ended::Fault(fault)) => return caller.close_for(&fault),
            // Ended or given up; what was not sent whole was not sent.
            Err(_) => return,
        }
    }
}
