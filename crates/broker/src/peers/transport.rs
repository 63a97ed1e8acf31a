//! The seam that Raft's messages leave through, [`PeerTransport`], over the connections to peers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coda_protocol::ids::GroupId;
use coda_raft_store::peers::{Call, Peer, PeerError, PeerTransport, Rpc};
use coda_raft_store::store::SnapshotFile;
use futures::stream::BoxStream;
use tokio::time;

use crate::peers::dial::Links;
use crate::peers::fault::LinkError;
use crate::peers::frame::{CallHead, CallKind};
use crate::peers::{appends, send_snapshot};

/// Calls, appends and snapshots of all groups, over one connection per peer.
pub struct QuicTransport {
    links: Arc<Links>,
}

impl QuicTransport {
    pub fn new(links: Arc<Links>) -> Self {
        Self { links }
    }
}

impl PeerTransport for QuicTransport {
    fn call(&self, to: &Peer, group: GroupId, rpc: Rpc, body: Bytes, timeout: Duration) -> Call<'_, Bytes> {
        let to = to.clone();
        let head = CallHead { group, kind: CallKind::Rpc(rpc), timeout };
        Box::pin(async move {
            let answer = async { self.links.live(&to).await?.call(head, body).await };
            let answer = time::timeout(timeout, answer).await;
            let answer = answer.unwrap_or_else(|_| Err(self.links.why_late(to.node, timeout)));
            answer.map_err(PeerError::from)
        })
    }

    fn appends(
        &self,
        to: &Peer,
        group: GroupId,
        requests: BoxStream<'static, Bytes>,
    ) -> Call<'_, BoxStream<'static, Result<Bytes, PeerError>>> {
        let to = to.clone();
        Box::pin(async move {
            let live = self.links.live(&to).await?;
            Ok(appends::open(live, group, requests).await?)
        })
    }

    fn snapshot(&self, to: &Peer, group: GroupId, head: Bytes, file: SnapshotFile) -> Call<'_, Bytes> {
        let to = to.clone();
        Box::pin(async move {
            let sent: Result<Bytes, LinkError> = async {
                let live = self.links.live(&to).await?;
                send_snapshot::send(&live, group, head, &file).await
            }
            .await;
            sent.map_err(PeerError::from)
        })
    }
}
