//! The recent end of a group's log in memory: decoded once, readable before it is durable.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::kept_bytes::KeptBytes;
use crate::log::{LogPoint, Recovered, VoteRow};
use crate::types::{RaftEntry, entry_bytes, log_point};

/// Memory for entries that are durable already; those that are not stay whatever they take.
const TAIL_BYTES_MAX: usize = 32 << 20;

/// What a group knows of its log without asking the disk.
#[derive(Default)]
pub(crate) struct Tail {
    pub vote: Option<VoteRow>,
    pub committed: Option<LogPoint>,
    pub purged: Option<LogPoint>,
    last: Option<LogPoint>,
    /// The index after the last durable record.
    flushed_end: u64,
    entries: BTreeMap<u64, (RaftEntry, usize)>,
    bytes: usize,
    /// Of all records, those that only the disk has too.
    kept: KeptBytes,
}

impl Tail {
    pub fn new(recovered: Recovered) -> Self {
        let Recovered { vote, committed, purged, last, bytes } = recovered;
        let last = last.max(purged);
        let after = |point: Option<LogPoint>| point.map_or(0, |point| point.index + 1);
        let kept = KeptBytes::new(after(purged), after(last), bytes);
        // A quorum elsewhere may have committed what this node had not written yet when it crashed.
        let committed = committed.filter(|committed| Some(*committed) <= last);
        Self { vote, committed, purged, last, flushed_end: after(last), kept, ..Self::default() }
    }

    /// Bytes of the log's records, about.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.get()
    }

    /// The last entry, or where the log was purged up to if none is left.
    pub fn last(&self) -> Option<LogPoint> {
        self.last
    }

    /// Adds an entry, and the size of its record.
    pub fn push(&mut self, entry: RaftEntry, record_bytes: usize) {
        let point = log_point(&entry.log_id);
        self.kept.push(point.index, record_bytes as u64);
        let bytes = entry_bytes(&entry);
        self.bytes += bytes;
        if let Some((_, replaced)) = self.entries.insert(point.index, (entry, bytes)) {
            self.bytes -= replaced;
        }
        self.last = Some(point);
    }

    /// Records before `end` are durable.
    pub fn flushed(&mut self, end: u64) {
        self.flushed_end = self.flushed_end.max(end);
        while self.bytes > TAIL_BYTES_MAX {
            let Some(oldest) = self.entries.first_entry() else { break };
            if *oldest.key() >= self.flushed_end {
                break;
            }
            self.bytes -= oldest.remove().1;
        }
    }

    /// Entries after `last` never happened. Every earlier operation must be durable by now.
    pub fn truncate(&mut self, last: Option<LogPoint>) {
        let end = last.map_or(0, |last| last.index + 1);
        for (_, bytes) in self.entries.split_off(&end).into_values() {
            self.bytes -= bytes;
        }
        self.kept.truncate(end);
        self.last = last.max(self.purged);
        self.flushed_end = self.flushed_end.min(end);
    }

    pub fn purge(&mut self, upto: LogPoint) {
        let kept = self.entries.split_off(&(upto.index + 1));
        for (_, bytes) in std::mem::replace(&mut self.entries, kept).into_values() {
            self.bytes -= bytes;
        }
        self.kept.purge(upto.index + 1);
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(self.purged);
    }

    /// The part of a range that exists, split into what the disk must be asked for and what is here.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> (Range<u64>, Vec<RaftEntry>) {
        let start = range.start.max(self.purged.map_or(0, |purged| purged.index + 1));
        let end = range.end.min(self.last.map_or(0, |last| last.index + 1));
        if start >= end {
            return (0..0, Vec::new());
        }
        let here = self.entries.first_key_value().map_or(end, |(first, _)| (*first).clamp(start, end));
        if start < here {
            return (start..here, Vec::new());
        }
        let mut bytes = 0;
        let entries = self.entries.range(start..end).map_while(|(_, (entry, size))| {
            let fits = bytes == 0 || bytes + size <= bytes_max;
            bytes += size;
            fits.then(|| entry.clone())
        });
        (0..0, entries.collect())
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::types::log_id;

    fn entry(term: u64, index: u64) -> RaftEntry {
        RaftEntry { log_id: log_id(LogPoint { term, index }), payload: EntryPayload::Blank }
    }

    fn indexes(entries: &[RaftEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.log_id.index()).collect()
    }

    #[test]
    fn what_is_not_durable_is_never_evicted() {
        let mut tail = Tail::default();
        let count = (2 * TAIL_BYTES_MAX / entry_bytes(&entry(1, 0))) as u64;
        (0..count).for_each(|index| tail.push(entry(1, index), 10));
        tail.flushed(10);
        assert_eq!(tail.read(0..20, usize::MAX).0, 0..10, "durable ones are gone");
        assert_eq!(indexes(&tail.read(10..20, usize::MAX).1), (10..20).collect::<Vec<_>>());
        tail.flushed(count);
        assert!(tail.bytes <= TAIL_BYTES_MAX);
    }

    #[test]
    fn a_committed_position_that_the_log_does_not_hold_is_forgotten() {
        let point = |term, index| Some(LogPoint { term, index });
        let tail = |committed, last| Tail::new(Recovered { committed, last, ..Recovered::default() });
        assert_eq!(tail(point(3, 10), point(2, 12)).committed, None);
        assert_eq!(tail(point(2, 10), point(2, 12)).committed, point(2, 10));
    }

    #[test]
    fn reads_stay_between_the_purged_and_the_last() {
        let mut tail = Tail::default();
        (0..10).for_each(|index| tail.push(entry(1, index), 10));
        tail.flushed(10);
        tail.purge(LogPoint { term: 1, index: 3 });
        tail.truncate(Some(LogPoint { term: 1, index: 7 }));
        assert_eq!(indexes(&tail.read(0..100, usize::MAX).1), [4, 5, 6, 7]);
        assert_eq!(indexes(&tail.read(0..100, 1).1), [4], "at least one");
        tail.purge(LogPoint { term: 2, index: 50 });
        assert_eq!(tail.last(), Some(LogPoint { term: 2, index: 50 }));
        assert!(tail.read(0..100, usize::MAX).1.is_empty());
        assert_eq!(tail.bytes, 0);
    }
}
