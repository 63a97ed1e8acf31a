//! Receiving a snapshot into a file of the group's folder, and having it installed.
//!
//! What is written here is not yet a promise: the group checks the file and syncs it before it takes its place, and what
//! a crash leaves behind is removed at the next start. It is synced in steps all the same, see [`SNAPSHOT_SYNC_BYTES`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use coda_protocol::ids::GroupId;
use coda_raft_store::store::{SnapshotFile, SnapshotWriter};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::peers::fault::{PeerFault, ServeFault};
use crate::peers::frame::PeerFrame;
use crate::peers::groups::Served;
use crate::peers::limits::{
    SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_STALL_TIMEOUT, SNAPSHOT_SYNC_BYTES, SNAPSHOT_TURN_TIMEOUT,
    SNAPSHOTS_RECEIVED_MAX,
};
use crate::peers::serve::Caller;
use crate::peers::stream::{Ended, Incoming, Outgoing};

/// What the first frame of the stream says.
pub struct Announced {
    pub group: GroupId,
    pub file_bytes: u64,
    pub head: Bytes,
}

/// Receives and installs, and answers.
pub async fn serve(
    caller: &Arc<Caller>,
    served: Arc<dyn Served>,
    announced: Announced,
    mut outgoing: Outgoing,
    mut incoming: Incoming,
) -> Result<(), PeerFault> {
    let (node, group) = (caller.node, announced.group);
    let answer = match receive(caller, &*served, &announced, &mut incoming).await {
        Ok(part) => tokio::select! {
            answer = install(caller, served, announced.head, part) => answer,
            // It is installed all the same, but nobody waits for it.
            () = outgoing.stopped() => return Ok(()),
        },
        Err(Stopped::Fault(fault)) => return Err(fault),
        // Given up by who sent it: there is nobody to tell.
        Err(Stopped::GivenUp) => return Ok(()),
        Err(Stopped::Failed(fault)) => Err(fault.to_string()),
    };
    let frame = match answer {
        Ok(body) => PeerFrame::Answer { id: 0, body },
        Err(why) => {
            warn!(%node, %group, why, "a snapshot was not taken");
            PeerFrame::Failed { id: 0, why }
        }
    };
    // Should this fail, nobody waits for it any more.
    if outgoing.frame(&frame).await.is_ok() {
        outgoing.finish();
    }
    Ok(())
}

enum Stopped {
    Fault(PeerFault),
    GivenUp,
    Failed(ServeFault),
}

async fn receive(
    caller: &Caller,
    served: &dyn Served,
    announced: &Announced,
    incoming: &mut Incoming,
) -> Result<Part, Stopped> {
    let host = &caller.host;
    let node = host.greeter.me.node;
    if announced.file_bytes > SNAPSHOT_BYTES_MAX {
        let why = format!("{} bytes are more than the {SNAPSHOT_BYTES_MAX} allowed", announced.file_bytes);
        return Err(Stopped::Failed(ServeFault::Store { node, why }));
    }
    let Ok(Ok(_place)) = timeout(SNAPSHOT_TURN_TIMEOUT, host.snapshots.acquire()).await else {
        return Err(Stopped::Failed(ServeFault::Busy { node, what: "snapshots", max: SNAPSHOTS_RECEIVED_MAX }));
    };
    let store = |error: io::Error| Stopped::Failed(ServeFault::Store { node, why: error.to_string() });
    let number = host.snapshots_received.fetch_add(1, Ordering::Relaxed);
    let name = format!("receiving-{}-{}-{number}", announced.group, caller.node);
    let file = served.snapshot_file(&name);
    let writer = file.create().await.map_err(store)?;
    info!(node = %caller.node, group = %announced.group, bytes = announced.file_bytes, "a snapshot begins");
    let part = Part::new(file);
    let mut writer = Writer { writer, unsynced: 0 };
    let mut left = announced.file_bytes;
    while left > 0 {
        let chunk = timeout(SNAPSHOT_STALL_TIMEOUT, incoming.chunk(SNAPSHOT_CHUNK_BYTES)).await;
        let incomplete = |why: &str| Stopped::Failed(ServeFault::Incomplete { node, why: why.into() });
        let chunk = match chunk {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(Ended::Fault(fault))) => return Err(Stopped::Fault(fault)),
            Ok(Err(Ended::Finished | Ended::Cut)) => return Err(incomplete("it is shorter than announced")),
            Ok(Err(Ended::Reset(_) | Ended::Lost(_))) => return Err(Stopped::GivenUp),
            Err(_) => return Err(incomplete("nothing came for too long")),
        };
        left = left.checked_sub(chunk.len() as u64).ok_or(Stopped::Fault(LONGER))?;
        let bytes = chunk.len();
        writer.write(chunk).await.map_err(store)?;
        host.snapshot_pace.pass(bytes).await;
    }
    match timeout(SNAPSHOT_STALL_TIMEOUT, incoming.chunk(1)).await {
        Ok(Err(Ended::Finished)) => {}
        Ok(Ok(_)) => return Err(Stopped::Fault(LONGER)),
        Ok(Err(_)) | Err(_) => return Err(Stopped::GivenUp),
    }
    Ok(part)
}

const LONGER: PeerFault = PeerFault::Unexpected { what: "more of a snapshot than was announced" };

/// A file that is removed when it is done with, unless its group has taken it away.
struct Part {
    /// Absent once it is kept.
    file: Option<SnapshotFile>,
}

impl Part {
    fn new(file: SnapshotFile) -> Self {
        Self { file: Some(file) }
    }

    /// Leaves the file where it is.
    fn keep(mut self) -> SnapshotFile {
        self.file.take().expect("only the end of it takes it away")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        // To remove gigabytes takes a while, and this thread serves others too.
        match Handle::try_current() {
            Ok(runtime) => {
                let workshop = file.workshop().clone();
                runtime.spawn(async move { workshop.run(move || remove(&file)).await });
            }
            Err(_) => remove(&file),
        }
    }
}

/// What is not removed now is, at the next start.
fn remove(file: &SnapshotFile) {
    match file.remove() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %file.path().display(), %error, "a received snapshot cannot be removed");
        }
        Ok(()) | Err(_) => {}
    }
}

struct Writer {
    writer: SnapshotWriter,
    unsynced: usize,
}

impl Writer {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.unsynced += bytes.len();
        self.writer.write(bytes).await?;
        if self.unsynced >= SNAPSHOT_SYNC_BYTES {
            self.writer.sync().await?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// Goes on when the connection ends: Raft may be in the middle of it, and the file must be removed afterwards.
async fn install(caller: &Caller, served: Arc<dyn Served>, head: Bytes, part: Part) -> Result<Bytes, String> {
    let (tell, answer) = oneshot::channel();
    // Should the node stop meanwhile, Raft may still need it.
    let file = part.keep();
    caller.host.spawn(async move {
        let installed = served.serve_snapshot(head, file.clone()).await;
        drop(Part::new(file));
        drop(tell.send(installed));
    });
    let stopping = |_| String::from("CODA4142 the node is stopping");
    answer.await.map_err(stopping)?.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_an_error_of_the_file_and_nothing_worse() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("receiving");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let writer = SnapshotFile::at(path).create().await.unwrap();
        let mut writer = Writer { writer, unsynced: 0 };
        let result = writer.write(Bytes::from_static(&[0; 1024])).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
