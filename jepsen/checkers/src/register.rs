//! A register of one group, whose writes all have values of their own, checked by position: the log says what came before
//! what, so this is a sort. [`zones`](crate::zones) and [`wgl`](crate::wgl) give a second opinion that knows no positions.

use std::collections::BTreeMap;

use crate::history::End;
use crate::properties::{POSITIONS_FOLLOW_REAL_TIME, READS_ARE_LINEARIZABLE};
use crate::{Moment, Violation};

/// A value was written.
#[derive(Clone, Debug)]
pub struct Write {
    pub value: u64,
    pub asked: Moment,
    pub answered: Moment,
    pub end: End,
    /// The index of its entry; what has none counts as a write of which nobody knows.
    pub index: Option<u64>,
}

/// A value was read.
#[derive(Clone, Debug)]
pub struct Read {
    pub value: u64,
    pub asked: Moment,
    pub answered: Moment,
    /// The last entry that the answer knows.
    pub index: u64,
}

/// An operation with an answer, for [`follow_real_time`].
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    pub asked: Moment,
    pub answered: Moment,
    pub index: u64,
    /// It is an entry of its own time: after everything that was answered before it was asked for.
    pub is_command: bool,
}

/// Checks that positions of one group go with real time.
#[must_use]
pub fn follow_real_time(answered: &[Answered]) -> Vec<Violation> {
    let mut by_question: Vec<&Answered> = answered.iter().collect();
    by_question.sort_by_key(|one| one.asked);
    let mut by_answer: Vec<&Answered> = answered.iter().collect();
    by_answer.sort_by_key(|one| one.answered);
    let (mut i, mut furthest, mut broken) = (0, None::<&Answered>, Vec::new());
    for one in by_question {
        while i < by_answer.len() && by_answer[i].answered < one.asked {
            furthest = furthest.filter(|known| known.index >= by_answer[i].index).or(Some(by_answer[i]));
            i += 1;
        }
        let back = furthest.filter(|before| one.index < before.index || one.is_command && one.index == before.index);
        if let Some(before) = back {
            broken.push(Violation::new(POSITIONS_FOLLOW_REAL_TIME, format!("{one:?} was asked for after {before:?}")));
        }
    }
    broken
}

/// Checks a register that held `initial`, and that positions go with real time.
#[must_use]
pub fn check(initial: u64, writes: &[Write], reads: &[Read]) -> Vec<Violation> {
    let acknowledged = |write: &&Write| write.end == End::Ok && write.index.is_some();
    let commands = writes.iter().filter(acknowledged).map(|write| {
        let index = write.index.unwrap_or_default();
        Answered { asked: write.asked, answered: write.answered, index, is_command: true }
    });
    let questions = reads.iter().map(|read| {
        let Read { asked, answered, index, .. } = *read;
        Answered { asked, answered, index, is_command: false }
    });
    let answered: Vec<Answered> = commands.chain(questions).collect();
    let mut broken = follow_real_time(&answered);
    let known: BTreeMap<u64, &Write> = writes.iter().map(|write| (write.value, write)).collect();
    assert_eq!(known.len(), writes.len(), "every write has a value of its own");
    let mut indexes: Vec<u64> = writes.iter().filter(acknowledged).filter_map(|write| write.index).collect();
    indexes.sort_unstable();
    let mut sorted: Vec<&Read> = reads.iter().collect();
    sorted.sort_by_key(|read| read.index);
    let mut states = States { known: &known, answered: Furthest::new(&answered), reigns: BTreeMap::new(), last: None };
    for read in sorted {
        // The last acknowledged write that the reader knows.
        let written = indexes.partition_point(|index| *index <= read.index).checked_sub(1).map(|i| indexes[i]);
        if let Err(why) = states.next(initial, read, written) {
            broken.push(Violation::new(READS_ARE_LINEARIZABLE, format!("{read:?}: {why}")));
        }
    }
    broken
}

/// The values in the order of the log, as far as they were read.
struct States<'a> {
    known: &'a BTreeMap<u64, &'a Write>,
    answered: Furthest,
    /// Values that were read, and whether they are over.
    reigns: BTreeMap<u64, bool>,
    last: Option<Last>,
}

#[derive(Clone, Copy)]
struct Last {
    value: u64,
    index: u64,
    /// The acknowledged write that it follows.
    written: Option<u64>,
    is_acknowledged: bool,
}

impl States<'_> {
    fn next(&mut self, initial: u64, read: &Read, written: Option<u64>) -> Result<(), String> {
        let write = self.known.get(&read.value);
        let own = write.filter(|write| write.end == End::Ok).and_then(|write| write.index);
        match write {
            None if read.value != initial => return Err("nobody has written it".into()),
            Some(write) if write.end == End::Fail => return Err(format!("{write:?} was refused")),
            Some(write) if write.asked > read.answered => return Err(format!("{write:?} came later")),
            None if written.is_some() => return Err("it was overwritten".into()),
            Some(_) if own.is_some() && own != written => {
                return Err(format!("its entry is {own:?}, the last one {written:?}"));
            }
            None | Some(_) => {}
        }
        let this =
            Last { value: read.value, index: read.index, written, is_acknowledged: own.is_some() || write.is_none() };
        let Some(last) = self.last else {
            self.reigns.insert(read.value, false);
            self.last = Some(this);
            return self.began_before(read, write.copied(), own);
        };
        if last.value == read.value {
            // Nobody else may have written since.
            let again = own.is_none() && last.written != written && write.is_some();
            self.last = Some(this);
            return if again {
                Err(format!("{written:?} was written since it was read at {}", last.index))
            } else {
                Ok(())
            };
        }
        if last.index == read.index {
            return Err(format!("the same entry holds {}", last.value));
        }
        self.reigns.insert(last.value, true);
        if self.reigns.insert(read.value, false) == Some(true) {
            return Err("it had been read and overwritten before".into());
        }
        self.last = Some(this);
        if this.is_acknowledged && last.written == written {
            return Err(format!("{} was read at {}, and nothing was written since", last.value, last.index));
        }
        self.began_before(read, write.copied(), own)
    }

    /// A write of which nobody knows has an entry after everything that was answered before it began.
    fn began_before(&self, read: &Read, write: Option<&Write>, own: Option<u64>) -> Result<(), String> {
        let Some(write) = write.filter(|_| own.is_none()) else { return Ok(()) };
        match self.answered.before(write.asked) {
            Some(index) if index >= read.index => Err(format!("{write:?} began when {index} was answered")),
            Some(_) | None => Ok(()),
        }
    }
}

/// The highest index that was answered before a moment.
struct Furthest(Vec<(Moment, u64)>);

impl Furthest {
    fn new(answered: &[Answered]) -> Self {
        let mut highest: Vec<(Moment, u64)> = answered.iter().map(|one| (one.answered, one.index)).collect();
        highest.sort_unstable();
        let mut index = 0;
        for one in &mut highest {
            index = index.max(one.1);
            one.1 = index;
        }
        Self(highest)
    }

    fn before(&self, moment: Moment) -> Option<u64> {
        let count = self.0.partition_point(|(answered, _)| *answered < moment);
        count.checked_sub(1).map(|i| self.0[i].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, asked: Moment, answered: Moment, index: u64) -> Write {
        Write { value, asked, answered, end: End::Ok, index: Some(index) }
    }

    fn maybe(value: u64, asked: Moment) -> Write {
        Write { value, asked, answered: crate::NEVER, end: End::Maybe, index: None }
    }

    fn read(value: u64, asked: Moment, answered: Moment, index: u64) -> Read {
        Read { value, asked, answered, index }
    }

    fn broken(writes: &[Write], reads: &[Read]) -> Vec<&'static str> {
        check(0, writes, reads).into_iter().map(|broken| broken.property.name()).collect()
    }

    #[test]
    fn reads_see_the_last_write_before_their_position() {
        let writes = [write(1, 0, 9, 3), write(2, 1, 9, 3), write(4, 10, 19, 8), maybe(3, 0)];
        let reads = [read(0, 0, 9, 2), read(2, 0, 9, 3), read(2, 9, 11, 5), read(3, 9, 12, 6), read(4, 15, 16, 8)];
        assert_eq!(broken(&writes, &reads), [""; 0]);
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        let one = [write(1, 0, 9, 3)];
        let stale = ["reads_are_linearizable"];
        assert_eq!(broken(&one, &[read(0, 0, 20, 3)]), stale, "overwritten");
        assert_eq!(broken(&one, &[read(1, 0, 9, 2)]), stale, "not written yet");
        assert_eq!(broken(&one, &[read(7, 0, 9, 5)]), stale, "nobody's");
        assert_eq!(broken(&one, &[read(1, 10, 20, 2)]), ["positions_follow_real_time", "reads_are_linearizable"]);
        assert_eq!(broken(&[write(1, 0, 9, 3), write(2, 10, 20, 3)], &[]), ["positions_follow_real_time"]);
        let two = [write(1, 0, 9, 3), write(2, 0, 9, 3)];
        assert_eq!(broken(&two, &[read(1, 0, 9, 3), read(2, 0, 9, 4)]), stale, "no write between");
        assert_eq!(broken(&two, &[read(1, 0, 9, 3), read(2, 0, 9, 3)]), stale, "two values at one index");
        let unknown = [write(1, 0, 9, 3), maybe(2, 0)];
        assert_eq!(broken(&unknown, &[read(2, 0, 9, 4), read(1, 0, 9, 5)]), stale, "back again");
        assert_eq!(broken(&unknown, &[read(2, 0, 9, 2), read(2, 0, 9, 5)]), stale, "through another write");
        assert_eq!(broken(&[write(1, 0, 9, 3), maybe(2, 10)], &[read(2, 0, 20, 3)]), stale, "begun after that entry");
        let refused = Write { end: End::Fail, index: None, ..maybe(2, 0) };
        assert_eq!(broken(&[refused], &[read(2, 0, 9, 4)]), stale);
    }
}
