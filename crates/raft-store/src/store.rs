//! The folder of a node: one RocksDB for the log, the state and a little bookkeeping.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coda_protocol::ids::{GroupId, NodeId, StorageId};
use coda_protocol::operate::DiskReport;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::committer::NodeLog;
pub use crate::db::Db;
use crate::disk::Disk;
pub use crate::disk::{DiskOptions, DiskProbe, DiskState, Space};
pub use crate::disk_watch::DiskWatch;
pub use crate::error::StoreError;
pub use crate::files::{SnapshotFile, SnapshotReader, SnapshotWriter};
use crate::forget;
use crate::install;
pub use crate::medium::Medium;
use crate::rows::{decode_row, encode_row};
pub use crate::sync_stats::{SyncDelay, SyncSummary};
pub use crate::workshop::Workshop;

/// The layout of column families, keys and files. A new one gets a new number and a migration.
pub const FORMAT_VERSION: u32 = 1;

/// How a node keeps its data.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// An extra delay per sync, to see what a disk with real sync cost would do. Zero in production.
    pub sync_delay: SyncDelay,
    /// What is expected of the disk.
    pub disk: DiskOptions,
    /// What the folder lies on.
    pub medium: Medium,
}

/// Totals since the store was opened.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Syncs of the log.
    pub log_syncs: AtomicU64,
    /// Bytes of log records.
    pub log_bytes: AtomicU64,
    /// Log records; divided by `log_syncs` it tells how well they are batched.
    pub log_entries: AtomicU64,
}

impl StoreCounters {
    /// Log records per sync so far.
    #[must_use]
    pub fn entries_per_sync(&self) -> f64 {
        let syncs = self.log_syncs.load(Ordering::Relaxed).max(1);
        self.log_entries.load(Ordering::Relaxed) as f64 / syncs as f64
    }
}

/// An open folder of a node. Clones share it; the folder is free again once [`NodeStore::close`] has returned.
#[derive(Clone)]
pub struct NodeStore(Arc<Inner>);

struct Inner {
    // Dropped first: joins the committer thread, which must not outlive the process's main thread.
    log: Arc<NodeLog>,
    db: Arc<Db>,
    counters: Arc<StoreCounters>,
    disk: Arc<Disk>,
    node: Mutex<Option<NodeId>>,
    storage: StorageId,
    incarnation: u64,
}

impl NodeStore {
    /// Opens or creates the folder, recovers what a crash left, and starts the committer. On a simulated medium, within a
    /// tokio runtime.
    ///
    /// # Errors
    /// `CODA4101` when another process uses the folder, `CODA4102` for a format this binary does not know, `CODA4103`
    /// for corruption, `CODA4106` when the disk refuses.
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        let dir = dir.as_ref();
        let StoreOptions { sync_delay, disk, medium } = options;
        let db = Arc::new(Db::open(dir, &medium)?);
        check_format(&db)?;
        install::finish_interrupted(&db)?;
        forget::finish_interrupted(&db)?;
        let counters = Arc::new(StoreCounters::default());
        let probe = medium.probe().unwrap_or_else(|| disk.probe.clone());
        let disk = Arc::new(Disk::new(dir, DiskOptions { probe, ..disk }));
        let log = Arc::new(NodeLog::start(db.clone(), counters.clone(), disk.syncs().clone(), sync_delay)?);
        let node = db.get_meta(&node_key(b"node"))?.map(|row| decode_row("node", &row)).transpose()?;
        let node = Mutex::new(node.map(NodeId));
        let (storage, incarnation) = count_start(&db)?;
        Ok(Self(Arc::new(Inner { log, db, counters, disk, node, storage, incarnation })))
    }

    /// Made with the folder, and gone with it: a node that comes back with another one has lost what it promised.
    #[must_use]
    pub fn storage(&self) -> StorageId {
        self.0.storage
    }

    /// How often the folder was opened, this time included: of two processes that say they are one node, the one that
    /// started later is.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.0.incarnation
    }

    /// Binds the folder to a node for good, or checks that it is that node's.
    ///
    /// # Errors
    /// `CODA4105` when it belongs to another node.
    pub fn bind(&self, node: NodeId) -> Result<(), StoreError> {
        let mut bound = self.0.node.lock();
        match *bound {
            Some(found) if found == node => Ok(()),
            Some(found) => Err(StoreError::WrongNode { dir: self.dir().to_owned(), found: found.0, expected: node.0 }),
            None => {
                self.0.db.put_meta_synced(&node_key(b"node"), &encode_row(&node.0))?;
                *bound = Some(node);
                Ok(())
            }
        }
    }

    /// The node this folder is bound to.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        *self.0.node.lock()
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.0.db.dir()
    }

    /// Totals since the store was opened.
    #[must_use]
    pub fn counters(&self) -> &StoreCounters {
        &self.0.counters
    }

    /// Groups of which something is kept here.
    ///
    /// # Errors
    /// `CODA4106` when the disk refuses.
    pub fn groups(&self) -> Result<Vec<GroupId>, StoreError> {
        forget::kept(&self.0.db, &*self.0.log)
    }

    /// Deletes a group's log and state. What it has voted stays, so that it never votes twice in a term, should the group
    /// come back. The group must have been shut down.
    ///
    /// # Errors
    /// `CODA4106` when the disk refuses; some of it may be gone.
    pub async fn delete_group(&self, group: GroupId) -> Result<(), StoreError> {
        forget::forget(&self.0.db, &*self.0.log, group).await
    }

    /// How the disk is, now and whenever it changes: good, until [`NodeStore::watch_disk`] has something to say.
    #[must_use]
    pub fn disk(&self) -> watch::Receiver<DiskState> {
        self.0.disk.state()
    }

    /// Begins to watch the disk, for as long as the watch is kept. Once per store, within a tokio runtime. Without it, no
    /// group gives its leadership up when the disk hangs.
    #[must_use = "the watch ends when it is dropped"]
    pub fn watch_disk(&self) -> DiskWatch {
        DiskWatch::start(self.0.disk.clone(), self.workshop().clone())
    }

    /// What an operator is told of the disk. What is free was read by the watch, a moment ago.
    #[must_use]
    pub fn disk_report(&self) -> DiskReport {
        self.0.disk.report()
    }

    /// Who does what takes long.
    #[must_use]
    pub fn workshop(&self) -> &Workshop {
        self.0.db.workshop()
    }

    pub(crate) fn db(&self) -> &Arc<Db> {
        &self.0.db
    }

    pub(crate) fn log(&self) -> &Arc<NodeLog> {
        &self.0.log
    }

    pub(crate) fn snapshot_file(&self, name: &str) -> SnapshotFile {
        self.snapshot_file_at(self.0.db.snapshot_dir().join(name))
    }

    pub(crate) fn snapshot_file_at(&self, path: PathBuf) -> SnapshotFile {
        SnapshotFile::new(self.0.db.files().clone(), self.workshop().clone(), path)
    }

    /// Stops the committer, flushes the state and closes the database. Shut the groups down first. Blocks.
    ///
    /// # Errors
    /// `CODA4106` when the last flush fails; what was acknowledged is safe even then.
    pub fn close(self) -> Result<(), StoreError> {
        self.0.log.stop();
        let db = self.0.db.clone();
        let flushed = db.flush_state();
        db.storage().quiesce();
        drop(self);
        wait_until_unused(db);
        flushed
    }
}

/// Snapshot threads and reads that are under way hold the database for a moment longer.
#[expect(clippy::disallowed_methods, reason = "closing blocks, and says so")]
fn wait_until_unused(mut db: Arc<Db>) {
    // Where there is one thread, nobody lets go of anything while it waits.
    let waits_max = if db.workshop().has_threads() { CLOSE_WAITS_MAX } else { 0 };
    for _ in 0..waits_max {
        match Arc::try_unwrap(db) {
            Ok(_closed) => return,
            Err(held) => db = held,
        }
        std::thread::sleep(CLOSE_WAIT);
    }
    tracing::warn!(dir = %db.dir().display(), "storage is still in use, it is left to the end of the process");
}

const CLOSE_WAITS_MAX: u32 = 1_000;
const CLOSE_WAIT: Duration = Duration::from_millis(1);

/// The folder's id, made on the first start, and the number of this start, on disk before anybody hears it.
fn count_start(db: &Db) -> Result<(StorageId, u64), StoreError> {
    let key = node_key(b"starts");
    let before = db.get_meta(&key)?.map(|row| decode_row::<([u8; 16], u64)>("starts", &row)).transpose()?;
    let (storage, starts) = before.unwrap_or_else(|| (StorageId::random().0, 0));
    db.put_meta_synced(&key, &encode_row(&(storage, starts + 1)))?;
    Ok((StorageId(storage), starts + 1))
}

fn check_format(db: &Db) -> Result<(), StoreError> {
    let key = node_key(b"format");
    match db.get_meta(&key)? {
        Some(found) if *found == FORMAT_VERSION.to_be_bytes() => Ok(()),
        Some(found) => Err(StoreError::UnknownFormat {
            dir: db.dir().to_owned(),
            found: match <[u8; 4]>::try_from(&*found) {
                Ok(version) => u32::from_be_bytes(version).to_string(),
                Err(_) => format!("{found:?}"),
            },
            expected: FORMAT_VERSION,
        }),
        None if db.is_empty()? => db.put_meta_synced(&key, &FORMAT_VERSION.to_be_bytes()),
        None => Err(StoreError::Corrupt { dir: db.dir().to_owned(), why: "the format version is missing".into() }),
    }
}

/// Rows of the node sort behind those of all groups.
fn node_key(name: &[u8]) -> Vec<u8> {
    [&u32::MAX.to_be_bytes()[..], name].concat()
}
