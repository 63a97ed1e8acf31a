//! Sending a snapshot, on a stream that everything else may overtake.
//!
//! The stream's window bounds what of it is under way; with the lowest priority it takes only what the other streams of
//! the connection leave.

use std::io;

use bytes::Bytes;
use coda_protocol::ids::{GroupId, NodeId};
use coda_raft_store::store::{SnapshotFile, SnapshotReader};
use tokio::time::timeout;

use crate::peers::fault::{LinkError, PeerFault, reset};
use crate::peers::frame::PeerFrame;
use crate::peers::limits::{
    CALL_BYTES_MAX, FRAME_BYTES_MAX, SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_INSTALL_TIMEOUT,
    SNAPSHOT_PRIORITY, SNAPSHOT_STALL_TIMEOUT,
};
use crate::peers::live::Live;
use crate::peers::stream::{Ended, Incoming, Outgoing};

/// Sends the file and waits until the peer has installed it.
pub async fn send(live: &Live, group: GroupId, head: Bytes, file: &SnapshotFile) -> Result<Bytes, LinkError> {
    let node = live.peer.node;
    let too_large = |what, bytes, max| LinkError::TooLarge { node, what, bytes, max };
    let mut file = file.open().await.map_err(|error| unreadable(node, &error))?;
    let file_bytes = file.bytes();
    if file_bytes > SNAPSHOT_BYTES_MAX {
        return Err(too_large("a snapshot", file_bytes, SNAPSHOT_BYTES_MAX));
    }
    if head.len() > CALL_BYTES_MAX {
        return Err(too_large("the head of a snapshot", head.len() as u64, CALL_BYTES_MAX as u64));
    }
    let (mut outgoing, mut incoming) = live.open_stream(SNAPSHOT_PRIORITY).await?;
    let sent = match outgoing.frame(&PeerFrame::Snapshot { group, file_bytes, head }).await {
        Ok(()) => send_file(node, &mut outgoing, &mut file, file_bytes).await?,
        Err(_) => false,
    };
    // A peer that wants no more of it has said why, and until it says so nothing is lost by waiting.
    if sent {
        outgoing.finish();
    }
    match timeout(SNAPSHOT_INSTALL_TIMEOUT, answer(live, &mut incoming)).await {
        Ok(answer) => answer,
        Err(_) => Err(LinkError::Late { node, after: SNAPSHOT_INSTALL_TIMEOUT }),
    }
}

/// Whether the peer took all of it.
async fn send_file(
    node: NodeId,
    outgoing: &mut Outgoing,
    file: &mut SnapshotReader,
    file_bytes: u64,
) -> Result<bool, LinkError> {
    let mut left = file_bytes;
    while left > 0 {
        let bytes_max = left.min(SNAPSHOT_CHUNK_BYTES as u64) as usize;
        let part = file.read(bytes_max).await.map_err(|error| unreadable(node, &error))?;
        if part.is_empty() {
            let short = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(unreadable(node, &short));
        }
        left -= part.len() as u64;
        match timeout(SNAPSHOT_STALL_TIMEOUT, outgoing.bytes(part)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(false),
            Err(_) => return Err(LinkError::Stalled { node, what: "a snapshot", after: SNAPSHOT_STALL_TIMEOUT }),
        }
    }
    Ok(true)
}

async fn answer(live: &Live, incoming: &mut Incoming) -> Result<Bytes, LinkError> {
    let node = live.peer.node;
    match incoming.frame(FRAME_BYTES_MAX).await {
        Ok(PeerFrame::Answer { body, .. }) => Ok(body),
        Ok(PeerFrame::Failed { why, .. }) => Err(LinkError::Failed { why }),
        Ok(_) => Err(live.close_for(PeerFault::Unexpected { what: "no answer to a snapshot, but something else" })),
        Err(Ended::Reset(code)) => Err(reset(node, code)),
        Err(Ended::Fault(fault)) => Err(live.close_for(fault)),
        Err(Ended::Finished | Ended::Cut) => Err(LinkError::Lost { node, why: "no answer to a snapshot".into() }),
        Err(Ended::Lost(_)) => Err(live.why_lost().await),
    }
}

fn unreadable(node: NodeId, error: &io::Error) -> LinkError {
    LinkError::Unreadable { node, why: error.to_string() }
}
