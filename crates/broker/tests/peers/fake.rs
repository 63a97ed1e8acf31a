//! Groups that only pretend: they echo, hang or collect, as a test wants.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coda_broker::peers::Served;
use coda_raft_store::group::ServeError;
use coda_raft_store::peers::Rpc;
use coda_raft_store::store::SnapshotFile;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tempfile::TempDir;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Echoes,
    /// Accepts, and never answers. Of a stream it reads nothing.
    Hangs,
    /// Reads a stream of appends, and never answers.
    Swallows,
    /// Refuses, as a group that was stopped.
    Stopped,
}

/// A group that remembers what it was asked.
#[derive(Clone)]
pub struct Fake(Arc<Inner>);

struct Inner {
    mood: Mood,
    dir: TempDir,
    no_dir: bool,
    calls: AtomicUsize,
    streams_begun: AtomicUsize,
    streams_ended: Arc<AtomicUsize>,
    snapshots: Mutex<Vec<(Bytes, Vec<u8>)>>,
}

impl Fake {
    pub fn new(mood: Mood) -> Self {
        Self::with(mood, false)
    }

    /// Its folder for snapshots is missing.
    pub fn without_folder() -> Self {
        Self::with(Mood::Echoes, true)
    }

    fn with(mood: Mood, no_dir: bool) -> Self {
        Self(Arc::new(Inner {
            mood,
            dir: tempfile::tempdir().unwrap(),
            no_dir,
            calls: AtomicUsize::new(0),
            streams_begun: AtomicUsize::new(0),
            streams_ended: Arc::default(),
            snapshots: Mutex::default(),
        }))
    }

    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// Streams of appends, begun and ended.
    pub fn streams(&self) -> (usize, usize) {
        (self.0.streams_begun.load(Ordering::SeqCst), self.0.streams_ended.load(Ordering::SeqCst))
    }

    /// Head and file of each snapshot.
    pub fn snapshots(&self) -> Vec<(Bytes, Vec<u8>)> {
        self.0.snapshots.lock().unwrap().clone()
    }

    pub fn files(&self) -> usize {
        std::fs::read_dir(self.0.dir.path()).unwrap().count()
    }
}

/// Counts when it goes, with the stream that holds it.
struct Ends(Arc<AtomicUsize>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Served for Fake {
    fn serve(&self, rpc: Rpc, body: Bytes) -> BoxFuture<'static, Result<Bytes, ServeError>> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        match self.0.mood {
            Mood::Echoes => async move { Ok([format!("{rpc:?} ").as_bytes(), &body].concat().into()) }.boxed(),
            Mood::Hangs | Mood::Swallows => std::future::pending().boxed(),
            Mood::Stopped => async { Err(ServeError::Stopped { why: "it sleeps".into() }) }.boxed(),
        }
    }

    fn serve_appends(&self, requests: BoxStream<'static, Bytes>) -> BoxStream<'static, Bytes> {
        self.0.streams_begun.fetch_add(1, Ordering::SeqCst);
        let ends = Ends(self.0.streams_ended.clone());
        let answer = move |request: Bytes| {
            let _ = &ends;
            request.slice(..request.len().min(8))
        };
        match self.0.mood {
            Mood::Echoes => requests.map(answer).boxed(),
            Mood::Hangs => {
                let held = (requests, answer);
                futures::stream::once(async move {
                    let _held = held;
                    std::future::pending().await
                })
                .boxed()
            }
            Mood::Swallows => requests.map(answer).filter(|_| std::future::ready(false)).boxed(),
            Mood::Stopped => futures::stream::empty().boxed(),
        }
    }

    fn serve_snapshot(&self, head: Bytes, file: SnapshotFile) -> BoxFuture<'static, Result<Bytes, ServeError>> {
        let inner = self.0.clone();
        async move {
            if inner.mood == Mood::Hangs {
                tokio::time::sleep(Duration::from_secs(3_600)).await;
            }
            let bytes =
                std::fs::read(file.path()).map_err(|error| ServeError::BadSnapshot { why: error.to_string() })?;
            inner.snapshots.lock().unwrap().push((head, bytes));
            Ok(Bytes::from_static(b"installed"))
        }
        .boxed()
    }

    fn snapshot_file(&self, name: &str) -> SnapshotFile {
        let dir = self.0.dir.path();
        SnapshotFile::at(if self.0.no_dir { dir.join("missing").join(name) } else { dir.join(name) })
    }
}
