//! Ready work that waits for slots: who could do it, if it had promised this node some.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coda_engine::entry::Lane;
use coda_protocol::ids::{Name, SessionId, WorkKind};

use super::{Dispatch, Epoch, Subscriber};

/// How a queue's ready work stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Some of it could be leased now.
    pub meets_slots: bool,
    /// Some of it waits for slots of those who know its names.
    pub starves: bool,
}

/// Lanes of one kind that wait for slots.
#[derive(Debug, PartialEq, Eq)]
pub struct Starved {
    pub kind: WorkKind,
    pub lanes: Vec<Lane>,
    /// Those who know any of their names, and have no free slot here.
    pub workers: Vec<(SessionId, Epoch)>,
}

impl Dispatch {
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let mut backlog = Backlog::default();
        for lane in &self.backlog {
            let meets_slots = self.can_serve(lane);
            backlog.meets_slots |= meets_slots;
            backlog.starves |= !meets_slots;
            if backlog.meets_slots && backlog.starves {
                break;
            }
        }
        backlog
    }

    /// What waits for slots, by kind; of each kind so many lanes at most.
    #[must_use]
    pub fn starved(&self, lanes_max: usize) -> Vec<Starved> {
        [WorkKind::Task, WorkKind::Run].into_iter().filter_map(|kind| self.starved_of(kind, lanes_max)).collect()
    }

    fn starved_of(&self, kind: WorkKind, lanes_max: usize) -> Option<Starved> {
        if !self.backlog.iter().any(|lane| lane.kind == kind) {
            return None;
        }
        // Workers of one program share a set of names: each set is looked through once.
        let mut known: BTreeMap<Set, &Arc<[Name]>> = BTreeMap::new();
        let (mut idle, mut served) = (Vec::new(), BTreeSet::new());
        for (session, subscriber) in &self.subscribers {
            let set = set_of(subscriber, kind);
            known.insert(set, &subscriber.of(kind).names);
            if subscriber.slots.free(kind) == 0 {
                idle.push((*session, subscriber.epoch, set));
            } else if self.held.room(*session) > 0 {
                served.insert(set);
            }
        }
        let knows = |set: &Set, lane: &Lane| known[set].binary_search(&lane.name).is_ok();
        let starves = |lane: &&Lane| lane.kind == kind && !served.iter().any(|set| knows(set, lane));
        let lanes: Vec<Lane> = self.backlog.iter().filter(starves).take(lanes_max).cloned().collect();
        let useful: BTreeSet<Set> =
            known.keys().copied().filter(|set| lanes.iter().any(|lane| knows(set, lane))).collect();
        // One that is full or behind would be leased nothing whatever it offers.
        let could = |(session, _, set): &(SessionId, Epoch, Set)| useful.contains(set) && self.held.room(*session) > 0;
        let workers: Vec<_> = idle.into_iter().filter(could).map(|(session, epoch, _)| (session, epoch)).collect();
        (!lanes.is_empty()).then_some(Starved { kind, lanes, workers })
    }
}

/// Where a set of names lies, and how many there are.
type Set = (usize, usize);

fn set_of(subscriber: &Subscriber, kind: WorkKind) -> Set {
    let names = &subscriber.of(kind).names;
    (names.as_ptr() as usize, names.len())
}
