//! The log of a node: one writer at a time for all groups, one batch and one sync.
//!
//! An operation that finds nobody writing, on a disk that was quick last time, is written by the thread that brought
//! it: waking another thread, and being woken by it, would take half as long again as the sync. What comes meanwhile
//! queues up for a thread of its own and becomes its next batch; so does whatever a leader sends to followers at the same
//! time, whose disks would else wait for its own. See `docs/adr/0004-the-log-is-written-where-it-is-brought.md`.
//!
//! The write and the sync are two calls, because a synced write would hold RocksDB's write queue, and with it every
//! `apply`, for as long as the disk takes.

use std::collections::BTreeMap;
use std::io;
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coda_protocol::ids::GroupId;
use coda_protocol::planted::{self, Bug};
use parking_lot::{Mutex, MutexGuard};

use crate::db::Db;
use crate::error::{StoreError, stop_process};
use crate::log::{Done, LogOp, LogPoint, LogStore, Place, Recovered};
use crate::log_writer::Writer;
use crate::rows::{decode_row, encode_row, record_term};
use crate::storage::{self, Durability, Family};
use crate::store::StoreCounters;
use crate::sync_stats::{SyncDelay, SyncStats};

/// A batch is closed once it holds this many bytes; the rest waits for the next sync.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Larger operations go to the thread: they take long to write, whatever the disk.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// A disk whose last sync took longer may take much longer next time, and the runtime's threads have others to serve.
const INLINE_SYNC_MAX: Duration = Duration::from_millis(1);

const VOTE: u8 = 1;
const COMMITTED: u8 = 2;
const PURGED: u8 = 3;

pub(crate) enum Job {
    Op(GroupId, LogOp, Done),
    Stop,
}

/// The log of all groups of a node.
pub(crate) struct NodeLog {
    db: Arc<Db>,
    jobs: Sender<Job>,
    /// Jobs that were sent and are not written yet: nothing may overtake them.
    queued: Arc<AtomicUsize>,
    committer: Arc<Mutex<Committer>>,
    committed: Arc<Mutex<BTreeMap<GroupId, LogPoint>>>,
    writer: Writer,
    stopped: AtomicBool,
}

impl NodeLog {
    #[expect(clippy::disallowed_methods, reason = "appends hold permits of their group, all else is awaited")]
    pub fn start(
        db: Arc<Db>,
        counters: Arc<StoreCounters>,
        syncs: Arc<SyncStats>,
        sync_delay: SyncDelay,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = channel();
        let committed = Arc::new(Mutex::new(BTreeMap::new()));
        let committer = Arc::new(Mutex::new(Committer {
            db: db.clone(),
            counters,
            syncs,
            committed: committed.clone(),
            quick: sync_delay.get() <= INLINE_SYNC_MAX,
            sync_delay,
            failed: None,
        }));
        let queued = Arc::new(AtomicUsize::new(0));
        let desk = Desk { db: db.clone(), committer: committer.clone(), queue, queued: queued.clone() };
        let writer = Writer::start(desk).map_err(StoreError::io("starting the committer"))?;
        Ok(Self { db, jobs, queued, committer, committed, writer, stopped: AtomicBool::new(false) })
    }

    /// Writes what is queued and ends the writer. Later operations fail.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.writer.stop(|| drop(self.jobs.send(Job::Stop)));
        // Whoever writes at this moment ends first.
        drop(self.committer.lock());
    }

    /// The right to write now, if nobody does, nothing waits, and it will not take long.
    fn idle(&self, op: &LogOp) -> Option<MutexGuard<'_, Committer>> {
        if op.bytes() > INLINE_BYTES_MAX {
            return None;
        }
        let committer = self.committer.try_lock()?;
        // Asked under the lock: what was sent before is either counted here or written already, and `stop` waits for it.
        let free = self.queued.load(Ordering::Acquire) == 0 && !self.stopped.load(Ordering::Acquire);
        (free && committer.quick && self.writer.may_be_spared()).then_some(committer)
    }

    fn meta<T: serde::de::DeserializeOwned>(&self, group: GroupId, kind: u8) -> Result<Option<T>, StoreError> {
        self.db.get_meta(&meta_key(group, kind))?.map(|row| decode_row("log bookkeeping", &row)).transpose()
    }
}

impl Drop for NodeLog {
    fn drop(&mut self) {
        self.stop();
    }
}

const READING: &str = "reading the log";

impl LogStore for NodeLog {
    fn recover(&self, group: GroupId) -> Result<Recovered, StoreError> {
        let (from, to) = (log_key(group, 0), log_key(group, u64::MAX));
        let last = self.db.now().last(Family::Log, &from, &to).map_err(StoreError::refused(READING))?;
        let last = match last {
            Some((key, record)) => {
                let index = index_of(&key);
                let term = record_term(&format!("{index} of group {}", group.0), &record)?;
                Some(LogPoint { term, index })
            }
            None => None,
        };
        Ok(Recovered {
            vote: self.meta(group, VOTE)?,
            committed: self.meta(group, COMMITTED)?,
            purged: self.meta(group, PURGED)?,
            last,
            bytes: self.db.storage().log_bytes(&from, &to),
        })
    }

    fn submit(&self, group: GroupId, op: LogOp, place: Place, done: Done) {
        if place == Place::Here
            && let Some(mut committer) = self.idle(&op)
        {
            let mut batch = Batch::new(&self.db);
            batch.add(group, op, done);
            return or_stop(|| committer.commit(batch));
        }
        if self.stopped.load(Ordering::Acquire) {
            return done(Err(StoreError::Closed.into()));
        }
        self.queued.fetch_add(1, Ordering::AcqRel);
        if let Err(unsent) = self.jobs.send(Job::Op(group, op, done)) {
            self.queued.fetch_sub(1, Ordering::AcqRel);
            let Job::Op(_, _, done) = unsent.0 else { return };
            return done(Err(StoreError::Closed.into()));
        }
        self.writer.wake();
    }

    fn note_committed(&self, group: GroupId, committed: LogPoint) {
        self.committed.lock().insert(group, committed);
    }

    fn read(&self, group: GroupId, indexes: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let mut out = Vec::new();
        let mut bytes = 0;
        let (from, to) = (log_key(group, indexes.start), log_key(group, indexes.end));
        let mut take = |key: &[u8], record: &[u8]| {
            if bytes > 0 && bytes + record.len() > bytes_max {
                return ControlFlow::Break(());
            }
            bytes += record.len();
            out.push((index_of(key), Bytes::copy_from_slice(record)));
            ControlFlow::Continue(())
        };
        self.db.now().scan(Family::Log, &from, &to, &mut take).map_err(StoreError::refused(READING))?;
        Ok(out)
    }
}

/// Whoever waits for a writer that panicked would wait for ever.
pub(crate) fn or_stop<T>(write: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| stop_process("CODA4110 the log committer panicked"))
}

/// Where the writer finds what waits, and makes one batch of it.
pub(crate) struct Desk {
    pub db: Arc<Db>,
    pub committer: Arc<Mutex<Committer>>,
    pub queue: Receiver<Job>,
    pub queued: Arc<AtomicUsize>,
}

/// What was found.
pub(crate) struct Found<'a> {
    pub batch: Batch<'a>,
    /// It is the last.
    pub stop: bool,
}

impl Desk {
    /// The job and whatever waits behind it.
    pub fn gather(&self, mut job: Job) -> Found<'_> {
        let mut batch = Batch::new(&self.db);
        let mut stop = false;
        loop {
            match job {
                Job::Op(group, op, done) => batch.add(group, op, done),
                Job::Stop => stop = true,
            }
            if stop || batch.bytes >= BATCH_BYTES_MAX {
                break;
            }
            let Ok(next) = self.queue.try_recv() else { break };
            job = next;
        }
        Found { batch, stop }
    }

    /// So many jobs are written.
    pub fn written(&self, jobs: usize) {
        self.queued.fetch_sub(jobs, Ordering::AcqRel);
    }
}

pub(crate) struct Committer {
    db: Arc<Db>,
    counters: Arc<StoreCounters>,
    syncs: Arc<SyncStats>,
    committed: Arc<Mutex<BTreeMap<GroupId, LogPoint>>>,
    sync_delay: SyncDelay,
    /// Why the disk is given up on. A sync that failed once proves nothing when it succeeds later.
    failed: Option<String>,
    /// The last sync was over soon.
    quick: bool,
}

/// A batch that is written and not yet synced, and who waits for it.
pub(crate) struct Unsynced {
    /// Operations in it.
    pub jobs: usize,
    written: Option<(Instant, Result<(), storage::Refused>)>,
    records: u64,
    record_bytes: u64,
    done: Vec<Done>,
}

impl Committer {
    pub fn commit(&mut self, batch: Batch<'_>) {
        let unsynced = self.write(batch);
        self.sync(unsynced);
    }

    pub fn write(&mut self, mut batch: Batch<'_>) -> Unsynced {
        for (group, committed) in std::mem::take(&mut *self.committed.lock()) {
            if batch.forgotten.contains(&group) {
                continue;
            }
            batch.rows.put(Family::Meta, &meta_key(group, COMMITTED), &encode_row(&committed));
        }
        let Batch { rows, records, record_bytes, mut done, .. } = batch;
        let jobs = done.len();
        let written = (self.failed.is_none() && !rows.is_empty()).then(|| {
            // A disk may hang in the write already: the kernel's cache takes only so much.
            self.syncs.begin(Instant::now());
            let write = rows.write(Durability::Logged);
            (Instant::now(), write)
        });
        if planted::is(Bug::AckBeforeSync) {
            done.drain(..).for_each(|done| done(Ok(())));
        }
        Unsynced { jobs, written, records, record_bytes, done }
    }

    /// Syncs, and tells who waits.
    pub fn sync(&mut self, unsynced: Unsynced) {
        if let Some((started, write)) = unsynced.written {
            let sync = write.and_then(|()| self.db.storage().sync());
            self.sync_delay.wait();
            let ended = Instant::now();
            let took = ended.duration_since(started);
            self.syncs.end(ended, took);
            self.quick = took <= INLINE_SYNC_MAX;
            self.counters.log_syncs.fetch_add(1, Ordering::Relaxed);
            if let Err(storage::Refused(why)) = sync
                && !planted::is(Bug::AckFailedSync)
            {
                tracing::error!(why, "CODA4106 the log cannot be written; this node accepts nothing any more");
                self.failed = Some(why);
            }
        }
        if self.failed.is_none() {
            self.counters.log_bytes.fetch_add(unsynced.record_bytes, Ordering::Relaxed);
            self.counters.log_entries.fetch_add(unsynced.records, Ordering::Relaxed);
        }
        for done in unsynced.done {
            done(match &self.failed {
                None => Ok(()),
                Some(why) => Err(io::Error::other(StoreError::Io { doing: "writing the log", why: why.clone() })),
            });
        }
    }
}

/// What one sync will make durable.
pub(crate) struct Batch<'a> {
    rows: Box<dyn storage::Batch + 'a>,
    bytes: usize,
    records: u64,
    record_bytes: u64,
    /// Groups that are deleted: what was noted of them before means nothing any more.
    forgotten: Vec<GroupId>,
    done: Vec<Done>,
}

impl<'a> Batch<'a> {
    fn new(db: &'a Db) -> Self {
        Self { rows: db.batch(), bytes: 0, records: 0, record_bytes: 0, forgotten: Vec::new(), done: Vec::new() }
    }

    fn add(&mut self, group: GroupId, op: LogOp, done: Done) {
        self.done.push(done);
        match op {
            LogOp::Append { first, records } => {
                for (index, record) in (first..).zip(&records) {
                    self.rows.put(Family::Log, &log_key(group, index), record);
                    self.bytes += record.len();
                    self.record_bytes += record.len() as u64;
                }
                self.records += records.len() as u64;
            }
            LogOp::Truncate { from, last } => {
                self.rows.delete_range(Family::Log, &log_key(group, from), &log_key(group, last + 1));
            }
            LogOp::Purge { from, upto } => {
                self.rows.delete_range(Family::Log, &log_key(group, from), &log_key(group, upto.index + 1));
                self.rows.put(Family::Meta, &meta_key(group, PURGED), &encode_row(&upto));
            }
            LogOp::Vote(vote) => self.rows.put(Family::Meta, &meta_key(group, VOTE), &encode_row(&vote)),
            LogOp::Forget => {
                forget_log(group, &mut *self.rows);
                self.forgotten.push(group);
            }
        }
    }
}

/// Deletes records and positions of a group, and not what it has voted.
pub(crate) fn forget_log(group: GroupId, rows: &mut dyn storage::Batch) {
    rows.delete_range(Family::Log, &log_key(group, 0), &log_key(group, u64::MAX));
    rows.delete(Family::Meta, &meta_key(group, COMMITTED));
    rows.delete(Family::Meta, &meta_key(group, PURGED));
}

pub(crate) fn log_key(group: GroupId, index: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4..].copy_from_slice(&index.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[4..12].try_into().expect("log keys have twelve bytes"))
}

fn meta_key(group: GroupId, kind: u8) -> [u8; 5] {
    let [a, b, c, d] = group.0.to_be_bytes();
    [a, b, c, d, kind]
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::thread::{self, ThreadId};

    use super::*;
    use crate::store::{NodeStore, StoreOptions};

    #[test]
    fn what_is_sent_to_others_meanwhile_is_written_by_another_thread() {
        let dir = tempfile::tempdir().unwrap();
        let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
        let writer = |index, place| -> ThreadId {
            let (tell, told) = sync_channel(1);
            let op = LogOp::Append { first: index, records: vec![Bytes::from_static(b"record")] };
            let done = move |result: io::Result<()>| {
                result.unwrap();
                tell.send(thread::current().id()).unwrap();
            };
            store.log().submit(GroupId(1), op, place, Box::new(done));
            told.recv().unwrap()
        };
        let me = thread::current().id();
        assert_ne!(writer(1, Place::Beside), me);
        // The disk of a test may be slow, and then nothing is written here.
        let quick = store.log().committer.lock().quick;
        assert_eq!(writer(2, Place::Here) == me, quick);
        store.close().unwrap();
    }
}
