//! Applies committed entries: a chunk of them through one overlay into one batch, then every proposer is answered.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coda_engine::apply::apply;
use coda_engine::entry::Applied;
use coda_engine::kv::Overlay;
use coda_protocol::ids::GroupId;
use coda_protocol::planted::{self, Bug};
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, Snapshot};
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use crate::db::{Db, write_state};
use crate::error::{StoreError, stop_process};
use crate::image::Image;
use crate::install::install;
use crate::owed::Owed;
use crate::rows::{LogPoint, MembershipRow};
use crate::snapshot::Reader;
use crate::stopwatch::Stopwatch;
use crate::storage::Family;
use crate::types::{LogId, Membership, RaftEntry, SnapshotMeta, Types, entry_bytes, log_id, log_point};
use crate::view::{OWN_TABLE, StateView, applied_row, membership_row};

/// Entries, and bytes of them, that become one batch.
const CHUNK_ENTRIES_MAX: usize = 512;
const CHUNK_BYTES_MAX: usize = 16 << 20;

type State = (Option<LogId>, Membership);
type RaftSnapshot = openraft::type_config::alias::SnapshotOf<Types, Image>;

/// What the state machine shares with those who read and tend it.
pub(crate) struct Shared {
    pub db: Arc<Db>,
    pub group: GroupId,
    /// Held for writing while a snapshot replaces the state, when there is nothing consistent to read.
    pub replacing: RwLock<()>,
    /// The end of what is applied and on disk for good: nothing of the log below it is needed.
    pub durable_end: Arc<AtomicU64>,
    /// Bytes of log applied since the last checkpoint.
    pub bytes_since_checkpoint: AtomicU64,
    pub checkpoint_bytes: u64,
    pub checkpoint_due: Notify,
    /// What of the log is not let go of at a checkpoint.
    pub owed: Arc<Owed>,
    /// Since the state was last made durable.
    pub checkpointed: Stopwatch,
    /// Closed when openraft has let go of the state machine.
    pub alive: watch::Sender<()>,
}

impl Shared {
    pub fn new(db: Arc<Db>, group: GroupId, checkpoint_bytes: u64) -> Self {
        Self {
            db,
            group,
            replacing: RwLock::new(()),
            durable_end: Arc::default(),
            bytes_since_checkpoint: AtomicU64::new(0),
            checkpoint_bytes,
            checkpoint_due: Notify::new(),
            owed: Arc::default(),
            checkpointed: Stopwatch::default(),
            alive: watch::Sender::new(()),
        }
    }
}

/// One group's state.
pub(crate) struct StateMachine {
    shared: Arc<Shared>,
    applied: Option<LogPoint>,
    membership: MembershipRow,
    /// Whether there is a state that openraft may offer as a snapshot.
    has_snapshot: bool,
    _alive: watch::Receiver<()>,
}

impl StateMachine {
    pub fn open(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let view = StateView::live(&shared.db);
        let applied = view.applied(shared.group)?;
        let membership = view.membership(shared.group)?;
        drop(view);
        // What is there after opening has been read from disk.
        shared.durable_end.store(applied.map_or(0, |applied| applied.index + 1), Ordering::Release);
        let alive = shared.alive.subscribe();
        Ok(Self { applied, membership, has_snapshot: applied.is_some(), _alive: alive, shared })
    }

    fn state(&self) -> Result<State, StoreError> {
        Ok((self.applied.map(log_id), self.membership.to_stored()?))
    }

    fn meta(&self) -> Result<SnapshotMeta, StoreError> {
        let (last_log_id, last_membership) = self.state()?;
        Ok(SnapshotMeta { last_log_id, last_membership })
    }

    fn apply_chunk(&mut self, chunk: Vec<(RaftEntry, Option<ApplyResponder<Types>>)>) -> Result<(), StoreError> {
        let Some(last) = chunk.last().map(|(entry, _)| log_point(&entry.log_id)) else { return Ok(()) };
        let Shared { db, group, .. } = &*self.shared;
        let view = StateView::live(db);
        let mut overlay = Overlay::new(&view);
        let mut batch = db.batch();
        let mut answers = Vec::with_capacity(chunk.len());
        let mut bytes = 0;
        for (entry, responder) in chunk {
            bytes += entry_bytes(&entry) as u64;
            let applied = apply_one(&mut overlay, *group, &entry);
            #[cfg(feature = "sim")]
            if let Some(life) = db.workshop().life() {
                life.applies(*group, &entry);
            }
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.membership = MembershipRow::of(Some(log_point(&entry.log_id)), membership);
                let (key, row) = membership_row(*group, &self.membership);
                batch.put(Family::State, &key, &row);
            }
            if let Some(responder) = responder {
                answers.push((responder, applied));
            }
        }
        for (key, value) in overlay.into_writes() {
            debug_assert!(key[4] != OWN_TABLE && key[..4] == group.0.to_be_bytes(), "the engine left its tables");
            match value {
                Some(value) => batch.put(Family::State, &key, &value),
                None => batch.delete(Family::State, &key),
            }
        }
        if planted::is(Bug::AppliedApart) {
            write_state(std::mem::replace(&mut batch, db.batch()))?;
        }
        let (key, row) = applied_row(*group, last);
        batch.put(Family::State, &key, &row);
        write_state(batch)?;
        self.applied = Some(last);
        // Only now: an answer is a promise that a read sees it.
        for (responder, applied) in answers {
            responder.send(applied);
        }
        let due = self.shared.bytes_since_checkpoint.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if due >= self.shared.checkpoint_bytes {
            self.shared.checkpoint_due.notify_one();
        }
        Ok(())
    }
}

/// Applies one entry. A panic in the rules would repeat on every node and every restart: the process stops, and says
/// at which entry.
fn apply_one(overlay: &mut Overlay<'_, StateView<'_>>, group: GroupId, entry: &RaftEntry) -> Applied {
    let EntryPayload::Normal(proposal) = &entry.payload else { return Applied::default() };
    let index = entry.log_id.index();
    catch_unwind(AssertUnwindSafe(|| apply(overlay, group, index, proposal.entry()))).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<&str>().map(ToString::to_string);
        let why = why.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        stop_process(&format!("CODA4110 applying entry {index} of group {} panicked: {why}", group.0))
    })
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Image;
    type SnapshotBuilder = Checkpoint;

    async fn applied_state(&mut self) -> Result<State, io::Error> {
        Ok(self.state()?)
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        // A chunk that ends with the stream is followed by another look at it.
        let mut entries = entries.fuse();
        loop {
            let mut chunk = Vec::new();
            let mut bytes = 0;
            while chunk.len() < CHUNK_ENTRIES_MAX && bytes < CHUNK_BYTES_MAX {
                let Some(next) = entries.next().await else { break };
                let (entry, responder) = next?;
                bytes += entry_bytes(&entry);
                chunk.push((entry, responder));
            }
            if chunk.is_empty() {
                return Ok(());
            }
            self.apply_chunk(chunk)?;
        }
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Checkpoint> {
        self.shared.bytes_since_checkpoint.store(0, Ordering::Relaxed);
        self.has_snapshot = true;
        Some(Checkpoint { shared: self.shared.clone(), meta: self.meta() })
    }

    async fn get_snapshot_builder(&mut self) -> Checkpoint {
        Checkpoint { shared: self.shared.clone(), meta: self.meta() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> Result<(), io::Error> {
        let Shared { db, group, .. } = &*self.shared;
        let file = image.into_file(db.snapshot_dir().join(format!("received-{}", group.0))).await?;
        let announced = (meta.last_log_id, MembershipRow::stored(&meta.last_membership));
        let shared = self.shared.clone();
        let work = move || {
            let header = Reader::open(&**shared.db.files(), &file)?.header;
            if (header.applied.map(log_id), header.membership) != announced {
                let why = "it is not what the leader announced".into();
                return Err(StoreError::CorruptSnapshot { file, at: "header".into(), why });
            }
            let _replacing = shared.replacing.write();
            install(&shared.db, shared.group, &file)
        };
        let header = db.workshop().run(work).await??;
        self.applied = header.applied;
        self.membership = header.membership;
        self.has_snapshot = true;
        self.shared.checkpointed.restart();
        self.shared.durable_end.store(self.applied.map_or(0, |applied| applied.index + 1), Ordering::Release);
        Ok(())
    }

    /// The state as it is now: no older than the last checkpoint, and everything in it is committed.
    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        if !self.has_snapshot {
            return Ok(None);
        }
        let (header, image) = Image::live(self.shared.db.clone(), self.shared.group).await?;
        let meta =
            SnapshotMeta { last_log_id: header.applied.map(log_id), last_membership: header.membership.to_stored()? };
        Ok(Some(Snapshot { meta, snapshot: image }))
    }
}

/// Makes the state durable, so that the log before it can go. The state itself is the snapshot: no file is written
/// until a follower needs one.
pub(crate) struct Checkpoint {
    shared: Arc<Shared>,
    /// Taken when the checkpoint was asked for: what the flush covers at least.
    meta: Result<SnapshotMeta, StoreError>,
}

impl RaftSnapshotBuilder<Types> for Checkpoint {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let meta = std::mem::replace(&mut self.meta, Err(StoreError::Closed))?;
        let db = self.shared.db.clone();
        if !planted::is(Bug::PurgeUnflushed) {
            self.shared.db.workshop().run(move || db.flush_state()).await??;
        }
        let end = meta.last_log_id.map_or(0, |last| last.index() + 1);
        self.shared.durable_end.fetch_max(end, Ordering::Release);
        self.shared.checkpointed.restart();
        Ok(Snapshot { meta, snapshot: Image::Mark })
    }
}
