//! The disk itself: what is done to it, and the lives of the nodes that use it one after the other.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coda_engine::entry::Entry;
use coda_protocol::ids::GroupId;
use openraft::EntryPayload;
use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64;

use super::files::FileTable;
use super::simulate;
use super::tables::{Mood, Rot, Tables};
use crate::disk::{DiskProbe, Space};
use crate::error::StoreError;
use crate::rows::{LogPoint, encode_record};
use crate::storage::Family;
use crate::types::{Proposal, RaftEntry, log_point};

/// What it has in all, however little of it is free.
const TOTAL_BYTES: u64 = 100 << 30;
/// RocksDB flushes the state by itself before so many batches of it wait.
const UNFLUSHED_MAX: usize = 1_024;

/// How a disk is, until that is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// How long a sync takes in virtual time, and everything else that is not done where it is asked for: any time between
    /// these.
    pub sync_min: Duration,
    pub sync_max: Duration,
    /// Of syncs that nobody else waits for, how many in a hundred are over at once.
    pub instant_percent: u32,
    /// RocksDB flushes the state by itself about once in so many batches, too.
    pub flushed_every: u32,
    /// It does not answer at all.
    pub hangs: bool,
    /// Syncs, and whatever else must reach it, fail. What was open then is not written to any more.
    pub fails: bool,
    /// Bytes that still fit, if it is ever full. What is deleted makes no room.
    pub room: Option<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            sync_min: Duration::from_micros(200),
            sync_max: Duration::from_millis(2),
            instant_percent: 20,
            flushed_every: 64,
            hangs: false,
            fails: false,
            room: None,
        }
    }
}

/// What has happened to a disk so far: whether faults did any harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// How often its folder was opened.
    pub opened: u64,
    pub syncs: u64,
    /// Syncs and writes that it refused.
    pub refused: u64,
    /// Batches of the log that a crash took.
    pub logged_lost: u64,
    /// Batches of the state that a crash took; the log has them.
    pub unflushed_lost: u64,
    /// Changes of files and their names that a crash took.
    pub files_lost: u64,
    /// States that a snapshot has replaced.
    pub installed: u64,
}

/// An entry of the log that a node on a disk has applied.
#[derive(Clone, Debug)]
pub struct SimApplied {
    pub group: GroupId,
    pub term: u64,
    pub index: u64,
    /// Of all that the log says of it.
    pub hash: u64,
    proposal: Option<Proposal>,
}

impl SimApplied {
    /// What it says to the rules; nothing if it is Raft's own.
    #[must_use]
    pub fn entry(&self) -> Option<&Entry> {
        self.proposal.as_ref().map(Proposal::entry)
    }
}

/// A disk with one node's folder on it. It outlives the nodes that use it, and clones are the same disk.
///
/// What a crash leaves of the database:
/// - of the log and the node's own rows, what was synced, and any number of the batches written after that, the first ones;
/// - of the state, what was flushed, and any number of the batches after that, the first ones;
/// - nothing of one depends on what is left of the other.
///
/// And of the files: what of them was synced, followed by any part of what was written after that; and the names as of the
/// last sync of their folder, with any number of their changes after that, the first ones.
///
/// When only the process is killed, everything is left but the state's memtables.
#[derive(Clone)]
pub struct SimDisk(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Told when it may have begun to answer, or nobody waits for it any more.
    answers: Notify,
}

struct Inner {
    random: StdRng,
    faults: Faults,
    life: u64,
    in_use: bool,
    tables: Arc<Mutex<Tables>>,
    files: FileTable,
    counts: SimCounts,
    /// Since it was last asked, once anybody has.
    applied: Option<Vec<SimApplied>>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated disk in life {}", self.0.inner.lock().life)
    }
}

impl SimDisk {
    /// An empty disk. Everything that happens to it by chance follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            random: StdRng::seed_from_u64(seed),
            faults: Faults::default(),
            life: 0,
            in_use: false,
            tables: Arc::default(),
            files: FileTable::default(),
            counts: SimCounts::default(),
            applied: None,
        };
        Self(Arc::new(Shared { inner: Mutex::new(inner), answers: Notify::new() }))
    }

    /// Changes how the disk is.
    pub fn change(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.0.inner.lock().faults);
        self.0.answers.notify_waiters();
    }

    /// How it is.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.0.inner.lock().faults.clone()
    }

    /// What has happened to it so far.
    #[must_use]
    pub fn counts(&self) -> SimCounts {
        self.0.inner.lock().counts
    }

    /// What was applied since this was last asked, in order; nothing is remembered before it is asked for the first time. After
    /// a restart, entries come again if the state that they led to was not durable.
    pub fn applied(&self) -> Vec<SimApplied> {
        self.0.inner.lock().applied.replace(Vec::new()).unwrap_or_default()
    }

    /// The power fails: what was not synced is lost, or is not. Whoever uses the disk at this moment is no more: what is left
    /// of it may read what it could read, changes nothing, and is never told that anything is durable.
    pub fn crash(&self) {
        self.end_life(true);
    }

    /// The process is killed: what it had handed to the operating system is there.
    pub fn kill(&self) {
        self.end_life(false);
    }

    /// Everything on it is gone, and so is who used it.
    pub fn wipe(&self) {
        self.end_life(true);
        let mut inner = self.0.inner.lock();
        inner.tables = Arc::default();
        inner.files = FileTable::default();
    }

    fn end_life(&self, power_failed: bool) {
        {
            let mut inner = self.0.inner.lock();
            inner.in_use = false;
            inner.next_life(power_failed);
        }
        self.0.answers.notify_waiters();
    }

    /// Flips a bit of something that lies on the disk, if there is any of it: whoever reads it will find a checksum that does
    /// not match.
    pub fn flip_bit(&self, rot: Rot) -> bool {
        let mut inner = self.0.inner.lock();
        let Inner { random, tables, files, .. } = &mut *inner;
        match rot {
            Rot::Log => tables.lock().rot(Family::Log, random),
            Rot::State => tables.lock().rot(Family::State, random),
            Rot::Snapshot => files.rot(random),
        }
    }

    pub(crate) fn open(&self, dir: &Path) -> Result<Life, StoreError> {
        simulate();
        let mut inner = self.0.inner.lock();
        if inner.in_use {
            return Err(StoreError::InUse { dir: dir.to_owned() });
        }
        // Whoever closed it has gone as a process does.
        inner.next_life(false);
        inner.in_use = true;
        inner.counts.opened += 1;
        Ok(Life { disk: self.clone(), number: inner.life, tables: inner.tables.clone() })
    }
}

impl Inner {
    fn next_life(&mut self, power_failed: bool) {
        self.life += 1;
        let (tables, lost) = self.tables.lock().after(power_failed, &mut self.random);
        self.tables = Arc::new(Mutex::new(tables));
        self.counts.logged_lost += lost.logged as u64;
        self.counts.unflushed_lost += lost.unflushed as u64;
        if power_failed {
            self.counts.files_lost += self.files.crash(&mut self.random);
        }
    }
}

impl DiskProbe for SimDisk {
    fn space(&self, _: &Path) -> io::Result<Space> {
        let room = self.0.inner.lock().faults.room;
        Ok(Space { total_bytes: TOTAL_BYTES, free_bytes: room.unwrap_or(TOTAL_BYTES) })
    }

    fn data_bytes(&self, _: &Path) -> u64 {
        let inner = self.0.inner.lock();
        let rows = inner.tables.lock().bytes();
        rows + inner.files.bytes()
    }
}

/// The disk as one node uses it, from the opening of its folder to its end. Clones are the same life.
#[derive(Clone)]
pub(crate) struct Life {
    disk: SimDisk,
    number: u64,
    tables: Arc<Mutex<Tables>>,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "life {} of a simulated disk", self.number)
    }
}

impl Life {
    pub fn tables(&self) -> &Mutex<Tables> {
        &self.tables
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.disk.0.inner.lock()
    }

    fn is_over(&self, inner: &Inner) -> bool {
        inner.life != self.number || !inner.in_use
    }

    /// Closes the folder.
    pub fn end(&self) {
        self.tables.lock().dead = true;
        let mut inner = self.inner();
        if inner.life == self.number {
            inner.in_use = false;
        }
        drop(inner);
        self.disk.0.answers.notify_waiters();
    }

    /// Waits for as long as the disk takes.
    pub async fn answer(&self) {
        let takes = {
            let mut inner = self.inner();
            let Faults { sync_min, sync_max, .. } = inner.faults;
            inner.random.random_range(sync_min..=sync_max.max(sync_min))
        };
        tokio::time::sleep(takes).await;
        loop {
            let mut answers = std::pin::pin!(self.disk.0.answers.notified());
            answers.as_mut().enable();
            let waits = {
                let inner = self.inner();
                inner.faults.hangs && !self.is_over(&inner)
            };
            if !waits {
                return;
            }
            answers.await;
        }
    }

    /// Whether a sync that begins now is over at once, so that its caller may as well wait for it.
    pub fn is_instant(&self) -> bool {
        let mut inner = self.inner();
        let percent = inner.faults.instant_percent;
        !inner.faults.hangs && inner.random.random_range(0..100) < percent
    }

    /// What becomes of this many bytes.
    pub fn mood(&self, bytes: u64) -> Mood {
        let mut inner = self.inner();
        let mut full = false;
        if let Some(room) = &mut inner.faults.room {
            full = *room < bytes;
            *room = room.saturating_sub(bytes);
        }
        let mood = Mood { fails: inner.faults.fails, full };
        inner.counts.refused += u64::from(mood.fails || mood.full);
        mood
    }

    pub fn count_sync(&self) -> Mood {
        self.inner().counts.syncs += 1;
        self.mood(0)
    }

    /// RocksDB flushes the state now and then.
    pub fn flush_some(&self) {
        let mut inner = self.inner();
        let mut tables = self.tables.lock();
        let every = inner.faults.flushed_every.max(1);
        if tables.unflushed() > UNFLUSHED_MAX || inner.random.random_ratio(1, every) {
            tables.flush_some(&mut inner.random);
        }
    }

    /// A snapshot replaces a group's state.
    pub fn installs(&self) {
        self.inner().counts.installed += 1;
    }

    /// The node applies an entry.
    pub fn applies(&self, group: GroupId, entry: &RaftEntry) {
        let mut inner = self.inner();
        if self.is_over(&inner) {
            return;
        }
        if let Some(applied) = &mut inner.applied {
            let LogPoint { term, index } = log_point(&entry.log_id);
            let proposal = match &entry.payload {
                EntryPayload::Normal(proposal) => Some(proposal.clone()),
                _ => None,
            };
            applied.push(SimApplied { group, term, index, hash: xxh3_64(&encode_record(entry)), proposal });
        }
    }

    /// The files, unless this life is over.
    pub fn files<T>(&self, change: impl FnOnce(&mut FileTable) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.inner();
        if self.is_over(&inner) {
            return Err(io::Error::other("the power is off"));
        }
        change(&mut inner.files)
    }
}
