//! How soon the simulation finds bugs that are there on purpose. One that it does not find is a hole in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use coda_protocol::planted::Bug;
use parking_lot::Mutex;

use crate::child::Order;
use crate::shrink::kind_of;

/// How a bug was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub seeds: u64,
    /// The property that is broken.
    pub property: String,
}

/// Hunts these bugs, so many at once, and says on the way what was found.
#[must_use]
pub fn hunt_all(bugs: &[Bug], first: u64, seeds_max: u64, jobs: usize) -> BTreeMap<Bug, Option<Found>> {
    let next = AtomicUsize::new(0);
    let hunted = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = hunt(*bug, first, seeds_max);
                    eprintln!("{bug}: {found:?}");
                    hunted.lock().insert(*bug, found);
                }
            });
        }
    });
    hunted.into_inner()
}

/// Runs seed after seed until something is found.
fn hunt(bug: Bug, first: u64, seeds_max: u64) -> Option<Found> {
    (0..seeds_max).find_map(|n| {
        let order = Order { planted: Some(bug), ..Order::of(first + n) };
        let problems = order.problems();
        // What a seed finds without the bug is not the bug.
        let is_it = !problems.is_empty() && Order { planted: None, ..order }.problems().is_empty();
        is_it.then(|| Found { seeds: n + 1, property: kind_of(&problems) })
    })
}
