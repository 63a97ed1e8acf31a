//! A register whose writes all have values of their own, checked by real time alone: the zones of Gibbons and Korach
//! ("Testing Shared Memories", 1997). O(n log n) at any concurrency.

use std::collections::BTreeMap;

use crate::properties::READS_ARE_LINEARIZABLE;
use crate::{Moment, NEVER, Violation};

/// A write or a read.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub is_write: bool,
    pub value: u64,
    pub asked: Moment,
    /// [`NEVER`] of a write of which nobody knows: it counts only if somebody read its value.
    pub answered: Moment,
}

/// Of all operations of one value: the first answer and the last question. Where the first is before the last, the value
/// reigned at least between the two.
#[derive(Clone, Copy)]
struct Zone {
    value: u64,
    answered: Moment,
    asked: Moment,
}

/// Checks a register that held `initial`. Names at most one violation.
#[must_use]
pub fn check(initial: u64, ops: &[Op]) -> Option<Violation> {
    let broken = |detail| Some(Violation::new(READS_ARE_LINEARIZABLE, detail));
    let mut writes: BTreeMap<u64, (Moment, Moment)> = BTreeMap::from([(initial, (0, 0))]);
    for op in ops.iter().filter(|op| op.is_write) {
        assert!(writes.insert(op.value, (op.asked, op.answered)).is_none(), "every write has a value of its own");
    }
    let mut zones: BTreeMap<u64, Zone> = BTreeMap::new();
    for read in ops.iter().filter(|op| !op.is_write) {
        let value = read.value;
        let Some(&(asked, answered)) = writes.get(&value) else {
            return broken(format!("{read:?}: nobody has written it"));
        };
        if read.answered < asked {
            return broken(format!("{read:?}: it was not written yet, but at {asked}"));
        }
        let zone = zones.entry(value).or_insert(Zone { value, answered, asked });
        zone.answered = zone.answered.min(read.answered);
        zone.asked = zone.asked.max(read.asked);
    }
    for (&value, &(asked, answered)) in writes.iter().filter(|(_, (_, answered))| *answered != NEVER) {
        zones.entry(value).or_insert(Zone { value, answered, asked });
    }
    let mut forward: Vec<&Zone> = zones.values().filter(|zone| zone.answered < zone.asked).collect();
    // The register held its first value before anything was asked.
    forward.sort_unstable_by_key(|zone| (zone.value != initial, zone.answered, zone.asked));
    if let Some(pair) = forward.windows(2).find(|pair| pair[1].answered < pair[0].asked) {
        return broken(format!("{} and {} were each seen before and after the other", pair[0].value, pair[1].value));
    }
    // What may have reigned for a moment only must not lie inside the reign of another.
    for zone in zones.values().filter(|zone| zone.answered >= zone.asked) {
        let after = forward.partition_point(|other| other.value == initial || other.answered < zone.asked);
        if let Some(other) = after.checked_sub(1).map(|i| forward[i]).filter(|other| other.asked > zone.answered) {
            return broken(format!("{} lived inside the reign of {}", zone.value, other.value));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, asked: Moment, answered: Moment) -> Op {
        Op { is_write: true, value, asked, answered }
    }

    fn read(value: u64, asked: Moment, answered: Moment) -> Op {
        Op { is_write: false, value, asked, answered }
    }

    #[test]
    fn stale_reads_are_found_and_concurrent_ones_are_fine() {
        let good = [write(1, 1, 4), read(0, 2, 3), read(1, 3, 6), write(2, 7, NEVER), read(1, 8, 9), read(2, 8, 12)];
        assert_eq!(check(0, &good), None);
        for bad in [
            vec![write(1, 1, 4), read(0, 5, 6)],
            vec![write(1, 1, 4), read(7, 5, 6)],
            vec![write(1, 5, 9), read(1, 2, 3)],
            vec![write(1, 1, 9), read(1, 2, 3), read(0, 4, 5)],
            vec![write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)],
            vec![write(1, 1, NEVER), read(1, 2, 3), read(0, 4, 5)],
            vec![write(1, 1, 2), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8), read(2, 9, 10)],
        ] {
            assert_ne!(check(0, &bad), None, "{bad:?}");
        }
    }
}
