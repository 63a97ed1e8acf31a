//! How many bytes of log a group keeps, about, without asking the disk.

use std::collections::VecDeque;

/// Between two of the places whose bytes are remembered; what lies between is taken to be even.
const MARK_BYTES: u64 = 256 << 10;

/// A place in the log: the index behind it, and the bytes before that.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    end: u64,
    bytes: u64,
}

/// Counts records as they come and go. One place is remembered for every [`MARK_BYTES`] of log that is kept.
#[derive(Default)]
pub(crate) struct KeptBytes {
    /// Where the log begins.
    start: Mark,
    /// In order, behind the start.
    marks: VecDeque<Mark>,
    /// Where it ends.
    end: Mark,
}

impl KeptBytes {
    /// What a start finds: records from `first` to before `end`, of about this many bytes.
    pub fn new(first: u64, end: u64, bytes: u64) -> Self {
        let end = Mark { end: end.max(first), bytes };
        Self { start: Mark { end: first, bytes: 0 }, marks: VecDeque::from([end]), end }
    }

    pub fn get(&self) -> u64 {
        self.end.bytes.saturating_sub(self.start.bytes)
    }

    /// A record at the end.
    pub fn push(&mut self, index: u64, bytes: u64) {
        if self.get() == 0 {
            self.start.end = index;
        }
        self.end = Mark { end: index + 1, bytes: self.end.bytes + bytes };
        let last = self.marks.back().unwrap_or(&self.start);
        if self.end.bytes - last.bytes >= MARK_BYTES {
            self.marks.push_back(self.end);
        }
    }

    /// Records from `index` on are gone.
    pub fn truncate(&mut self, index: u64) {
        let bytes = self.bytes_before(index);
        while self.marks.back().is_some_and(|mark| mark.end > index) {
            self.marks.pop_back();
        }
        self.end = Mark { end: index.min(self.end.end), bytes };
    }

    /// Records before `index` are gone.
    pub fn purge(&mut self, index: u64) {
        if index <= self.start.end {
            return;
        }
        let bytes = self.bytes_before(index);
        while self.marks.front().is_some_and(|mark| mark.end <= index) {
            self.marks.pop_front();
        }
        self.start = Mark { end: index, bytes };
        self.end = Mark { end: self.end.end.max(index), bytes: self.end.bytes.max(bytes) };
    }

    fn bytes_before(&self, index: u64) -> u64 {
        if index >= self.end.end {
            return self.end.bytes;
        }
        if index <= self.start.end {
            return self.start.bytes;
        }
        let behind = self.marks.partition_point(|mark| mark.end <= index);
        let from = behind.checked_sub(1).map_or(self.start, |at| self.marks[at]);
        let to = self.marks.get(behind).copied().unwrap_or(self.end);
        let share = u128::from(to.bytes - from.bytes) * u128::from(index - from.end) / u128::from(to.end - from.end);
        from.bytes + share as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: u64 = 10_000;

    fn about(kept: &KeptBytes, expected: u64) {
        let off = kept.get().abs_diff(expected);
        assert!(off <= MARK_BYTES, "{} bytes instead of {expected}", kept.get());
    }

    #[test]
    fn records_come_and_go() {
        let mut kept = KeptBytes::default();
        (1..=1_000).for_each(|index| kept.push(index, RECORD));
        assert_eq!(kept.get(), 1_000 * RECORD);
        kept.purge(401);
        about(&kept, 600 * RECORD);
        kept.truncate(901);
        about(&kept, 500 * RECORD);
        (901..=1_000).for_each(|index| kept.push(index, RECORD));
        about(&kept, 600 * RECORD);
        kept.purge(300);
        about(&kept, 600 * RECORD);
        kept.truncate(401);
        about(&kept, 0);
        kept.push(401, RECORD);
        about(&kept, RECORD);
        kept.purge(5_000);
        assert_eq!(kept.get(), 0);
        kept.push(5_000, 7);
        assert_eq!(kept.get(), 7);
        assert!(kept.marks.len() <= 1);
    }

    #[test]
    fn what_a_start_finds_goes_evenly() {
        let mut kept = KeptBytes::new(101, 201, 1_000);
        assert_eq!(kept.get(), 1_000);
        kept.purge(151);
        assert_eq!(kept.get(), 500);
        kept.push(201, 50);
        assert_eq!(kept.get(), 550);
        kept.purge(201);
        assert_eq!(kept.get(), 50);
        assert_eq!(KeptBytes::new(1, 0, 0).get(), 0);
    }
}
