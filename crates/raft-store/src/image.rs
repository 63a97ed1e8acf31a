//! A group's state at one moment, on its way to a peer or from one.

use std::path::PathBuf;
use std::sync::Arc;

use coda_protocol::ids::GroupId;
use tokio::sync::oneshot;

use crate::db::Db;
use crate::error::StoreError;
use crate::snapshot::{self, Header};
use crate::view::StateView;

/// What openraft hands around as a snapshot. Cheap until somebody asks for the file.
pub(crate) enum Image {
    /// A moment of our own state, kept until the image is dropped.
    Live { start: oneshot::Sender<PathBuf>, written: oneshot::Receiver<Result<(), StoreError>> },
    /// A file that a peer sent.
    File(PathBuf),
    /// Only the fact that the state is durable; openraft looks at its meta and drops it.
    Mark,
}

impl Image {
    /// Holds on to the state as it is now.
    ///
    /// # Errors
    /// `CODA4106` when no thread can be started, or the state cannot be read.
    pub async fn live(db: Arc<Db>, group: GroupId) -> Result<(Header, Self), StoreError> {
        let (start, started) = oneshot::channel::<PathBuf>();
        let (held, when_held) = oneshot::channel();
        let (done, written) = oneshot::channel();
        let workshop = db.workshop().clone();
        // Begun rather than run: the moment borrows the database, and writing the file blocks for long.
        let work = async move {
            let view = StateView::moment(&db);
            let header = view
                .applied(group)
                .and_then(|applied| Ok(Header { group: group.0, applied, membership: view.membership(group)? }));
            if held.send(header).is_err() {
                return;
            }
            if let Ok(file) = started.await {
                let _ = done.send(snapshot::write(&view, group, &**db.files(), &file).map(drop));
            }
        };
        workshop.begin("coda-snapshot", work).map_err(StoreError::io("starting a snapshot thread"))?;
        let header = when_held.await.map_err(|_| StoreError::Closed)??;
        Ok((header, Self::Live { start, written }))
    }

    /// The image as a file, at this place unless it is one already.
    ///
    /// # Errors
    /// `CODA4106` when it cannot be written.
    pub async fn into_file(self, path: PathBuf) -> Result<PathBuf, StoreError> {
        match self {
            Self::File(file) => Ok(file),
            Self::Live { start, written } => {
                start.send(path.clone()).map_err(|_| StoreError::Closed)?;
                written.await.map_err(|_| StoreError::Closed)??;
                Ok(path)
            }
            Self::Mark => Err(StoreError::Io { doing: "writing a snapshot", why: "it holds no state".into() }),
        }
    }
}
