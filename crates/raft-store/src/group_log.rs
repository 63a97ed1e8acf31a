//! One group's log as openraft sees it: the tail in memory in front of the shared [`LogStore`].

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use coda_protocol::ids::GroupId;
use coda_protocol::planted::{self, Bug};
use futures::{Stream, stream};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::error::StoreError;
use crate::log::{LogOp, LogStore, Place};
use crate::rows::{decode_record, encode_record};
use crate::tail::Tail;
use crate::types::{LogId, RaftEntry, Types, Vote, log_id, log_point, vote, vote_row};

/// Bytes of entries that may wait for the disk; `append` waits beyond it.
const UNFLUSHED_BYTES_MAX: usize = 64 << 20;
const PERMIT_BYTES: usize = 1 << 10;
/// Bytes of entries in one message to a follower, and in one step of `apply` that reads from disk. Whatever else the thread
/// has to do waits for so long: a few milliseconds would be felt by everybody while a follower catches up.
const READ_BYTES_MAX: usize = 512 << 10;

/// The log of one group. Clones are readers of the same log.
#[derive(Clone)]
pub(crate) struct GroupLog {
    group: GroupId,
    store: Arc<dyn LogStore>,
    tail: Arc<Mutex<Tail>>,
    unflushed: Arc<Semaphore>,
    /// The state machine's promise: it needs nothing below this index any more, whatever happens.
    durable_end: Arc<AtomicU64>,
    /// This node leads, and others are sent what it appends.
    replicates: Arc<AtomicBool>,
}

impl GroupLog {
    pub fn open(
        store: Arc<dyn LogStore>,
        group: GroupId,
        durable_end: Arc<AtomicU64>,
        replicates: Arc<AtomicBool>,
    ) -> Result<Self, StoreError> {
        let tail = Arc::new(Mutex::new(Tail::new(store.recover(group)?)));
        let unflushed = Arc::new(Semaphore::new(UNFLUSHED_BYTES_MAX / PERMIT_BYTES));
        Ok(Self { group, store, tail, unflushed, durable_end, replicates })
    }

    /// Bytes of log that are kept, about.
    pub fn kept_bytes(&self) -> u64 {
        self.tail.lock().kept_bytes()
    }

    async fn submit_and_wait(&self, op: LogOp) -> Result<(), io::Error> {
        let (done, wait) = oneshot::channel();
        self.store.submit(self.group, op, Place::Here, Box::new(move |result| drop(done.send(result))));
        wait.await.map_err(|_| io::Error::from(StoreError::Closed))?
    }

    /// Entries from the start of a range, in order; fewer than asked for once they take more than `bytes_max`.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<RaftEntry>, StoreError> {
        let (on_disk, entries) = self.tail.lock().read(range.clone(), bytes_max);
        if on_disk.is_empty() {
            return Ok(entries);
        }
        let records = self.store.read(self.group, on_disk.clone(), bytes_max)?;
        if records.is_empty() {
            // Nothing is left there, or never was: a log may begin anywhere.
            return Ok(self.tail.lock().read(on_disk.end..range.end, bytes_max).1);
        }
        records.iter().map(|(index, record)| decode_record(self.group.0, *index, record)).collect()
    }

    /// As `read`, for `apply`: an entry that should be there and is not must never look like the end of the log.
    fn read_without_gap(&self, range: Range<u64>) -> Result<Vec<RaftEntry>, StoreError> {
        let step = self.read(range.clone(), READ_BYTES_MAX)?;
        let indexes = step.iter().map(|entry| entry.log_id.index());
        let end = self.tail.lock().last().map_or(0, |last| last.index + 1).min(range.end);
        if indexes.zip(range.start..).all(|(found, wanted)| found == wanted) && (!step.is_empty() || range.start >= end)
        {
            return Ok(step);
        }
        let at = format!("in {}..{end} of group {}", range.start, self.group.0);
        Err(StoreError::UnreadableRecord { at, why: "it is missing".into() })
    }

    fn read_all(&self, range: Range<u64>) -> Result<Vec<RaftEntry>, StoreError> {
        let mut out = self.read(range.clone(), usize::MAX)?;
        while let Some(next) = out.last().map(|entry| entry.log_id.index() + 1) {
            if next >= range.end {
                break;
            }
            let more = self.read(next..range.end, usize::MAX)?;
            if more.is_empty() {
                break;
            }
            out.extend(more);
        }
        Ok(out)
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<Types> for GroupLog {
    /// A range at a time, in steps of bounded size: `apply` of a long log must not hold all of it.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<RaftEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let log = self.clone();
        let steps = stream::unfold((log, half_open(&range)), |(log, range)| async move {
            if range.is_empty() {
                return None;
            }
            let step = match log.read_without_gap(range.clone()) {
                Ok(step) => step,
                Err(error) => return Some((vec![Err(error.into())], (log, 0..0))),
            };
            let next = step.last()?.log_id.index() + 1;
            Some((step.into_iter().map(Ok).collect(), (log, next..range.end)))
        });
        futures::StreamExt::flat_map(steps, stream::iter)
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<RaftEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.read_all(half_open(&range))?)
    }

    /// For a follower, who gets what is read as what follows the entry before `start`. If that is gone, which openraft may
    /// ask for when a stream to the follower has just failed, there is nothing to send: a snapshot comes next.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        let mut entries = self.read(start..end, READ_BYTES_MAX)?;
        if entries.first().is_some_and(|first| first.log_id.index() != start) {
            entries.clear();
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.tail.lock().vote.map(vote))
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let tail = self.tail.lock();
        Ok(LogState { last_purged_log_id: tail.purged.map(log_id), last_log_id: tail.last().map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let row = vote_row(vote);
        if planted::is(Bug::VoteUnsynced) {
            self.store.submit(self.group, LogOp::Vote(row), Place::Beside, Box::new(drop));
        } else {
            self.submit_and_wait(LogOp::Vote(row)).await?;
        }
        self.tail.lock().vote = Some(row);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed.as_ref().map(log_point) {
            self.tail.lock().committed = Some(committed);
            self.store.note_committed(self.group, committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.tail.lock().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        let Some(first) = entries.first().map(|entry| entry.log_id.index()) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let records: Vec<_> = entries.iter().map(encode_record).collect();
        let bytes: usize = records.iter().map(bytes::Bytes::len).sum();
        let permits = (bytes / PERMIT_BYTES).clamp(1, UNFLUSHED_BYTES_MAX / PERMIT_BYTES);
        let room = self.unflushed.clone().acquire_many_owned(permits as u32).await.map_err(io::Error::other)?;

        let end = first + entries.len() as u64;
        {
            let mut tail = self.tail.lock();
            entries.into_iter().zip(&records).for_each(|(entry, record)| tail.push(entry, record.len()));
        }
        let tail = self.tail.clone();
        let done = move |result: io::Result<()>| {
            if result.is_ok() {
                tail.lock().flushed(end);
            }
            drop(room);
            callback.io_completed(result);
        };
        let place = if self.replicates.load(Ordering::Relaxed) { Place::Beside } else { Place::Here };
        self.store.submit(self.group, LogOp::Append { first, records }, place, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let last = last.as_ref().map(log_point);
        let from = last.map_or(0, |last| last.index + 1);
        let Some(end) = self.tail.lock().last().filter(|end| end.index >= from) else { return Ok(()) };
        // Waits, so that no earlier append reports indexes as durable that are about to be written anew.
        self.submit_and_wait(LogOp::Truncate { from, last: end.index }).await?;
        self.tail.lock().truncate(last);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let upto = log_point(&upto);
        let durable_end = self.durable_end.load(Ordering::Acquire);
        if upto.index >= durable_end {
            let why = format!("purge up to {} with state durable below {durable_end}", upto.index);
            return Err(StoreError::PurgeTooFar { group: self.group.0, why }.into());
        }
        let from = {
            let mut tail = self.tail.lock();
            if tail.purged >= Some(upto) {
                return Ok(());
            }
            let from = tail.purged.map_or(0, |purged| purged.index + 1);
            tail.purge(upto);
            from
        };
        // In order with the appends that follow, and durable with them: nobody needs to wait.
        let group = self.group.0;
        let failed = move |result: io::Result<()>| {
            if let Err(error) = result {
                tracing::error!(%error, group, "log was not purged");
            }
        };
        self.store.submit(self.group, LogOp::Purge { from, upto }, Place::Here, Box::new(failed));
        Ok(())
    }
}
