//! The other end of a peer's calls: bytes that [`crate::peers::PeerTransport`] delivered, answered by this group.

use bytes::Bytes;
use coda_protocol::codec::Malformed;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use openraft::Snapshot;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use thiserror::Error;

use crate::files::SnapshotFile;
use crate::group::Group;
use crate::image::Image;
use crate::network::{SnapshotHead, decode, encode};
use crate::peers::Rpc;
use crate::snapshot::Reader;
use crate::types::Types;

/// A peer's call could not be answered; the peer tries again by itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ServeError {
    /// A peer of another version, or not a peer at all.
    #[error("CODA4130 {0}")]
    Malformed(#[from] Malformed),
    /// A snapshot that did not arrive as it was sent. Nothing has changed.
    #[error("{why}")]
    BadSnapshot { why: String },
    /// There is nothing of the group here yet, or nothing any more. Only who has a copy may vote: a copy that is lost and
    /// made anew has forgotten what it promised, and who asks may not have heard that it is none any more.
    #[error("CODA4157 the group is empty on this node, which has no vote yet")]
    Empty,
    /// The group has stopped on this node.
    #[error("CODA4131 the group cannot answer: {why}")]
    Stopped { why: String },
}

fn stopped(error: &dyn std::fmt::Display) -> ServeError {
    ServeError::Stopped { why: error.to_string() }
}

impl Group {
    /// Answers one call.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(&self, rpc: Rpc, body: &[u8]) -> Result<Bytes, ServeError> {
        let raft = &self.inner().raft;
        match rpc {
            Rpc::Append => {
                let answer = raft.append_entries(decode("append", body)?).await;
                answer.map(|answer| encode(&answer)).map_err(|error| stopped(&error))
            }
            Rpc::Vote | Rpc::PreVote if self.is_empty() => Err(ServeError::Empty),
            Rpc::Vote => {
                let answer = raft.vote(decode("vote", body)?).await;
                answer.map(|answer| encode(&answer)).map_err(|error| stopped(&error))
            }
            Rpc::PreVote => {
                let answer = raft.pre_vote(decode("pre-vote", body)?).await;
                answer.map(|answer| encode(&answer)).map_err(|error| stopped(&error))
            }
            Rpc::TransferLeader if self.inner().standing.is_aside() => {
                Err(ServeError::Stopped { why: "its disk does not answer, it cannot lead".into() })
            }
            Rpc::TransferLeader => {
                let answer = raft.handle_transfer_leader(decode("transfer", body)?).await;
                answer.map(|answer| encode(&answer)).map_err(|error| stopped(&error))
            }
        }
    }

    /// Whether nothing was ever written here. What it says may be old: what is called empty may just have become more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner().raft.metrics().borrow_watched().last_log_index.is_none()
    }

    /// Answers a stream of appends, in order and pipelined. Ends when the requests end, at the first that is
    /// malformed, and after an answer that makes the leader start over.
    pub fn serve_appends(&self, requests: BoxStream<'static, Bytes>) -> BoxStream<'static, Bytes> {
        let disk = self.inner().store.disk();
        let requests = requests
            .map(|body| decode::<AppendEntriesRequest<Types>>("append", &body))
            .take_while(move |request| {
                // What is left belongs to what the node must write for itself. The leader tries again; a sign of life is
                // no entry.
                let fits =
                    |request: &AppendEntriesRequest<Types>| request.entries.is_empty() || !disk.borrow().is_dire();
                std::future::ready(request.as_ref().is_ok_and(fits))
            })
            .filter_map(|request| std::future::ready(request.ok()));
        let answers = self.inner().raft.stream_append(requests);
        answers
            .map(|answer| answer.map(|answer| encode(&answer)))
            .take_while(|answer| std::future::ready(answer.is_ok()))
            .flat_map(stream::iter)
            .boxed()
    }

    /// Checks a received snapshot and installs it. The file is one that [`Group::snapshot_file`] gave, and is taken away.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve_snapshot(&self, head: &[u8], file: SnapshotFile) -> Result<Bytes, ServeError> {
        let head: SnapshotHead = decode("snapshot head", head)?;
        let (vote, meta) = head.into_parts().map_err(|error| stopped(&error))?;
        // Here rather than in openraft, which would take a bad file for a broken disk and stop the group.
        let path = file.path().to_owned();
        let workshop = file.workshop().clone();
        let check = workshop.run(move || Reader::open(file.files(), file.path())?.for_each(|_, _| Ok(())));
        let check = check.await.map_err(|error| stopped(&error))?;
        check.map_err(|error| ServeError::BadSnapshot { why: error.to_string() })?;
        let snapshot = Snapshot { meta, snapshot: Image::File(path) };
        let answer = self.inner().raft.install_full_snapshot(vote, snapshot).await;
        answer.map(|answer| encode(&answer)).map_err(|error| stopped(&error))
    }

    /// A place where a received snapshot may be put; emptied at every start.
    #[must_use]
    pub fn snapshot_file(&self, name: &str) -> SnapshotFile {
        self.inner().store.snapshot_file(name)
    }
}
