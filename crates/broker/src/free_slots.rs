//! Free slots that a connection has offered from one queue. Every group that this node leads draws from the same ones, so
//! that no work waits in one of them for a slot that was promised to another.

use std::sync::atomic::{AtomicU32, Ordering};

use coda_protocol::ids::WorkKind;
use coda_protocol::limits::CREDIT_MAX;
use coda_protocol::planted::{self, Bug};

/// Indexed by [`WorkKind`].
#[derive(Debug, Default)]
pub struct FreeSlots([AtomicU32; 2]);

impl FreeSlots {
    /// Adds slots: offered by the worker, or taken and found no work.
    pub fn add(&self, kind: WorkKind, slots: u32) {
        let add = |free: u32| Some(free.saturating_add(slots).min(CREDIT_MAX));
        let _ = self.0[kind as usize].fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
    }

    #[must_use]
    pub fn free(&self, kind: WorkKind) -> u32 {
        self.0[kind as usize].load(Ordering::Acquire)
    }

    /// Takes up to `max`; how many there were.
    #[must_use]
    pub fn take(&self, kind: WorkKind, max: u32) -> u32 {
        let max_taken = if planted::is(Bug::SlotsGrantedTwice) { max / 2 } else { max };
        let take = |free: u32| Some(free.saturating_sub(max_taken));
        self.0[kind as usize].fetch_update(Ordering::AcqRel, Ordering::Acquire, take).map_or(0, |free| free.min(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_once_and_never_exceed_what_may_be_offered() {
        let slots = FreeSlots::default();
        slots.add(WorkKind::Task, 5);
        assert_eq!(
            [slots.take(WorkKind::Task, 3), slots.take(WorkKind::Task, 3), slots.take(WorkKind::Task, 3)],
            [3, 2, 0]
        );
        slots.add(WorkKind::Task, u32::MAX);
        slots.add(WorkKind::Task, 1);
        assert_eq!((slots.free(WorkKind::Task), slots.free(WorkKind::Run)), (CREDIT_MAX, 0));
    }
}
