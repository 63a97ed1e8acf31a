//! Who could do a queue's work: subscribers, their free slots, and the lanes known to hold ready work.
//!
//! A plain struct per queue of a group, shared by those who know of workers and work, and the proposer, which takes grants from it
//! whenever it closes an entry. All of it is a guess that the engine checks; nothing here is ever persisted.

mod starved;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coda_engine::entry::{Entry, Grant, Lane};
use coda_protocol::ids::{Name, SessionId, WorkKind};
use coda_protocol::reply::Wait;
use coda_protocol::request::Subscribe;

use crate::config::{GRANT_BYTES_PER_ENTRY_MAX, GRANTS_PER_ENTRY_MAX};
use crate::free_slots::FreeSlots;
use crate::held::Held;

pub use starved::{Backlog, Starved};

/// What a grant or a lane adds to an entry beside its names.
const ENVELOPE_BYTES: usize = 32;

/// Tells apart the connections of one session: what was said on an earlier one no longer counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

#[derive(Debug, Default)]
pub struct Dispatch {
    subscribers: BTreeMap<SessionId, Subscriber>,
    /// What is served, and by how many of them. Workers of one program share a set of names.
    served: BTreeMap<(WorkKind, Arc<[Name]>), u32>,
    held: Arc<Held>,
    /// Lanes that a subscriber serves and that hold ready work, as the engine last hinted. What nobody serves is found
    /// in state when somebody subscribes to it, so that it costs no memory.
    backlog: BTreeSet<Lane>,
    /// Where the next entry starts to offer grants, so that none is always last.
    turn: usize,
}

#[derive(Debug)]
struct Subscriber {
    epoch: Epoch,
    slots: Arc<FreeSlots>,
    tasks: Offer,
    runs: Offer,
}

/// What a session can execute of one kind.
#[derive(Debug)]
struct Offer {
    /// Sorted, as the engine expects.
    names: Arc<[Name]>,
}

/// One kind of work and a set of its names, and who could do it.
#[derive(Clone, Debug)]
pub struct Service {
    pub kind: WorkKind,
    /// Sorted.
    pub names: Arc<[Name]>,
    pub workers: u32,
    pub free_slots: u32,
}

impl Offer {
    fn serves(&self, name: &Name) -> bool {
        self.names.binary_search(name).is_ok()
    }

    /// What its names add to an entry.
    fn bytes(&self) -> usize {
        self.names.iter().map(|name| name.len() + size_of::<u32>()).sum()
    }
}

/// What an entry can still take of grants, of the names that come with them, and of lanes.
#[derive(Debug)]
pub struct Room {
    grants: usize,
    name_bytes: usize,
    lane_bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        let half = GRANT_BYTES_PER_ENTRY_MAX / 2;
        Self { grants: GRANTS_PER_ENTRY_MAX, name_bytes: half, lane_bytes: half }
    }
}

impl Room {
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.grants == 0 || self.name_bytes == 0 || self.lane_bytes == 0
    }
}

/// Takes the bytes, if they are there; if not, none is left.
fn fits(bytes: usize, room: &mut usize) -> bool {
    let fits = bytes <= *room;
    *room = if fits { *room - bytes } else { 0 };
    fits
}

/// Slots taken for an entry, to be given back where unused.
#[derive(Debug)]
pub struct Taken {
    pub session: SessionId,
    pub epoch: Epoch,
    pub kind: WorkKind,
    pub slots: u32,
    pub from: Arc<FreeSlots>,
}

impl Dispatch {
    #[must_use]
    pub fn new(held: Arc<Held>) -> Self {
        Self { held, ..Self::default() }
    }

    /// A session serves this queue from now on, with these slots as far as they are free.
    pub fn subscribe(&mut self, session: SessionId, epoch: Epoch, subscribe: Subscribe, slots: Arc<FreeSlots>) {
        // A connection that was replaced may still have a word under way.
        if self.subscribers.get(&session).is_some_and(|subscriber| subscriber.epoch > epoch) {
            return;
        }
        let subscriber = Subscriber {
            epoch,
            slots,
            tasks: self.offer_of(WorkKind::Task, subscribe.tasks),
            runs: self.offer_of(WorkKind::Run, subscribe.workflows),
        };
        let before = self.subscribers.insert(session, subscriber);
        self.forget(before);
    }

    /// Whether it was subscribed.
    pub fn unsubscribe(&mut self, session: SessionId, epoch: Epoch) -> bool {
        let subscribed = self.subscribers.get(&session).is_some_and(|subscriber| subscriber.epoch == epoch);
        if subscribed {
            let before = self.subscribers.remove(&session);
            self.forget(before);
        }
        subscribed
    }

    fn offer_of(&mut self, kind: WorkKind, mut names: Vec<Name>) -> Offer {
        names.sort_unstable();
        names.dedup();
        let service = (kind, names.into());
        let names =
            self.served.get_key_value(&service).map_or_else(|| service.1.clone(), |((_, known), _)| known.clone());
        *self.served.entry((kind, names.clone())).or_default() += 1;
        Offer { names }
    }

    fn forget(&mut self, subscriber: Option<Subscriber>) {
        let Some(Subscriber { tasks, runs, .. }) = subscriber else { return };
        for service in [(WorkKind::Task, tasks.names), (WorkKind::Run, runs.names)] {
            let Some(workers) = self.served.get_mut(&service) else { continue };
            *workers -= 1;
            if *workers == 0 {
                self.served.remove(&service);
            }
        }
        let served = &self.served;
        self.backlog.retain(|lane| serves(served, lane));
    }

    /// A lane holds ready work. Whether an entry is wanted for it.
    pub fn lane_ready(&mut self, lane: Lane) -> bool {
        if !serves(&self.served, &lane) {
            return false;
        }
        let wanted = self.can_serve(&lane);
        self.backlog.insert(lane);
        wanted
    }

    /// Whether ready work meets a free slot.
    #[must_use]
    pub fn wants_entry(&self) -> bool {
        self.backlog.iter().any(|lane| self.can_serve(lane))
    }

    fn can_serve(&self, lane: &Lane) -> bool {
        self.subscribers.iter().any(|(session, subscriber)| {
            let is_free = subscriber.slots.free(lane.kind) > 0;
            is_free && subscriber.of(lane.kind).serves(&lane.name) && self.held.room(*session) > 0
        })
    }

    /// Moves free slots, and the lanes they could serve, into an entry, as far as there is room. Of each session's slots
    /// one in `share` is taken, rounded up: that many groups draw from them.
    pub fn take(&mut self, queue: &Name, share: u32, entry: &mut Entry, taken: &mut Vec<Taken>, room: &mut Room) {
        let count = self.subscribers.len();
        self.turn = if count == 0 { 0 } else { (self.turn + 1) % count };
        let served: Vec<Lane> = self.backlog.iter().filter(|lane| self.can_serve(lane)).cloned().collect();
        let before = entry.grants.len();
        self.take_slots(queue, share, entry, taken, room);
        // Another group may have been quicker: lanes without slots would go for nothing.
        if entry.grants.len() == before {
            return;
        }
        for lane in served {
            if !fits(lane.queue.len() + lane.name.len() + ENVELOPE_BYTES, &mut room.lane_bytes) {
                break;
            }
            // Taken with the slots: the engine hints again at whatever stays ready.
            self.backlog.remove(&lane);
            entry.lanes.push(lane);
        }
    }

    fn take_slots(&mut self, queue: &Name, share: u32, entry: &mut Entry, taken: &mut Vec<Taken>, room: &mut Room) {
        let (late, early): (Vec<_>, Vec<_>) = self.subscribers.iter().enumerate().partition(|(i, _)| *i < self.turn);
        for (_, (session, subscriber)) in early.into_iter().chain(late) {
            for kind in [WorkKind::Task, WorkKind::Run] {
                let (offer, free) = (subscriber.of(kind), subscriber.slots.free(kind));
                if free == 0 || room.grants == 0 || self.held.room(*session) == 0 {
                    continue;
                }
                let known = find_names(entry, &offer.names);
                let bytes = known.map_or_else(|| offer.bytes(), |_| 0) + queue.len() + ENVELOPE_BYTES;
                if !fits(bytes, &mut room.name_bytes) {
                    return;
                }
                let slots = subscriber.slots.take(kind, free.div_ceil(share));
                // What the session has no room for stays offered until it has ended other leases.
                let granted = self.held.grant(*session, slots);
                subscriber.slots.add(kind, slots - granted);
                if granted == 0 {
                    continue;
                }
                room.grants -= 1;
                let names = known.unwrap_or_else(|| {
                    entry.name_sets.push(offer.names.clone());
                    entry.name_sets.len() - 1
                });
                let (session, epoch, from) = (*session, subscriber.epoch, subscriber.slots.clone());
                entry.grants.push(Grant { session, queue: queue.clone(), kind, names: names as u32, slots: granted });
                taken.push(Taken { session, epoch, kind, slots: granted, from });
            }
        }
    }

    /// Subscribed sessions.
    #[must_use]
    pub fn workers(&self) -> u32 {
        self.subscribers.len() as u32
    }

    /// Lanes known to hold ready work.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.backlog.len()
    }

    /// Why a ready lane waits.
    #[must_use]
    pub fn why(&self, kind: WorkKind, name: &Name) -> Wait {
        let (workers, free_slots) = self.serving(kind, name);
        why(workers, free_slots)
    }

    /// What is served, and by whom: small enough to be looked at in peace, without the lock.
    #[must_use]
    pub fn services(&self) -> Vec<Service> {
        let place = |kind, names: &Arc<[Name]>| (kind, names.as_ptr() as usize, names.len());
        let mut services: BTreeMap<_, Service> = BTreeMap::new();
        for ((kind, names), workers) in &self.served {
            let service = Service { kind: *kind, names: names.clone(), workers: *workers, free_slots: 0 };
            services.insert(place(*kind, names), service);
        }
        for (session, subscriber) in &self.subscribers {
            for kind in [WorkKind::Task, WorkKind::Run] {
                let offer = subscriber.of(kind);
                if let Some(service) = services.get_mut(&place(kind, &offer.names)) {
                    service.free_slots += subscriber.slots.free(kind).min(self.held.room(*session));
                }
            }
        }
        services.into_values().collect()
    }

    fn serving(&self, kind: WorkKind, name: &Name) -> (u32, u32) {
        let subscribers = self.subscribers.iter().filter(|(_, subscriber)| subscriber.of(kind).serves(name));
        subscribers.fold((0, 0), |(workers, free), (session, subscriber)| {
            (workers + 1, free + subscriber.slots.free(kind).min(self.held.room(*session)))
        })
    }
}

/// Whether anybody knows the lane's name.
fn serves(served: &BTreeMap<(WorkKind, Arc<[Name]>), u32>, lane: &Lane) -> bool {
    served.keys().any(|(kind, names)| *kind == lane.kind && names.binary_search(&lane.name).is_ok())
}

/// Why a ready lane waits that so many serve with so many free slots.
#[must_use]
pub fn why(workers: u32, free_slots: u32) -> Wait {
    match (workers, free_slots) {
        (0, _) => Wait::NoWorker,
        (_, 0) => Wait::WorkersBusy,
        _ => Wait::Soon,
    }
}

impl Subscriber {
    fn of(&self, kind: WorkKind) -> &Offer {
        match kind {
            WorkKind::Task => &self.tasks,
            WorkKind::Run => &self.runs,
        }
    }
}

/// The index of a set of names in the entry; most workers share one.
fn find_names(entry: &Entry, names: &Arc<[Name]>) -> Option<usize> {
    entry.name_sets.iter().position(|set| Arc::ptr_eq(set, names) || set == names)
}

#[cfg(test)]
mod slots_tests;

#[cfg(test)]
mod tests {
    use coda_protocol::limits::LEASES_PER_SESSION_MAX;

    use super::*;

    const WORKER: SessionId = SessionId([1; 16]);

    fn queue() -> Name {
        "emails".into()
    }

    fn lane(name: &str) -> Lane {
        Lane { queue: queue(), kind: WorkKind::Task, name: name.into() }
    }

    fn serve(tasks: Vec<Name>) -> Subscribe {
        Subscribe { queue: queue(), tasks, workflows: vec![] }
    }

    /// With a worker that serves "send", and its slots.
    fn subscribed() -> (Dispatch, Arc<FreeSlots>) {
        let (mut dispatch, slots) = (Dispatch::default(), Arc::new(FreeSlots::default()));
        dispatch.subscribe(WORKER, Epoch(1), serve(vec!["send".into()]), slots.clone());
        (dispatch, slots)
    }

    fn offered(slots: u32) -> Arc<FreeSlots> {
        let free = Arc::new(FreeSlots::default());
        free.add(WorkKind::Task, slots);
        free
    }

    fn take(dispatch: &mut Dispatch) -> (Entry, Vec<Taken>) {
        let (mut entry, mut taken) = (Entry::default(), Vec::new());
        dispatch.take(&queue(), 1, &mut entry, &mut taken, &mut Room::default());
        (entry, taken)
    }

    #[test]
    fn an_entry_is_wanted_when_ready_work_meets_a_free_slot() {
        let (mut dispatch, slots) = subscribed();
        assert!(!dispatch.lane_ready(lane("send")));
        slots.add(WorkKind::Run, 1);
        assert!(!dispatch.wants_entry(), "a slot of the other kind");
        slots.add(WorkKind::Task, 1);
        assert!(dispatch.wants_entry());
    }

    #[test]
    fn slots_and_lanes_travel_once_until_they_are_given_back_or_hinted_again() {
        let (mut dispatch, slots) = subscribed();
        slots.add(WorkKind::Task, 3);
        dispatch.lane_ready(lane("send"));
        let (entry, taken) = take(&mut dispatch);
        assert_eq!((entry.grants.len(), entry.grants[0].slots, entry.lanes.len()), (1, 3, 1));
        assert!(take(&mut dispatch).0.grants.is_empty());
        taken[0].from.add(WorkKind::Task, 2);
        assert!(!dispatch.wants_entry(), "the lane was not hinted again");
        assert!(dispatch.lane_ready(lane("send")));
        assert_eq!(take(&mut dispatch).0.grants[0].slots, 2);
    }

    #[test]
    fn a_lane_that_nobody_serves_costs_nothing_and_says_why() {
        let (mut dispatch, slots) = subscribed();
        slots.add(WorkKind::Task, 1);
        assert!(!dispatch.lane_ready(lane("other")));
        assert!(dispatch.backlog.is_empty());
        assert_eq!(dispatch.why(WorkKind::Task, &"other".into()), Wait::NoWorker);
        dispatch.lane_ready(lane("send"));
        dispatch.unsubscribe(WORKER, Epoch(1));
        assert!(dispatch.backlog.is_empty(), "nobody is left to serve it");
    }

    #[test]
    fn a_late_word_on_an_earlier_connection_does_not_replace_what_was_said_on_the_newer() {
        let mut dispatch = Dispatch::default();
        dispatch.subscribe(WORKER, Epoch(2), serve(vec!["send".into()]), offered(1));
        dispatch.subscribe(WORKER, Epoch(1), serve(vec!["other".into()]), offered(1));
        dispatch.unsubscribe(WORKER, Epoch(1));
        assert!(dispatch.lane_ready(lane("send")));
    }

    #[test]
    fn an_entry_takes_a_bounded_part_of_slots_and_names_and_the_rest_is_still_wanted() {
        let mut dispatch = Dispatch::default();
        let long = |worker: u8, i: usize| Name::from(format!("{}-{worker}-{i}", "n".repeat(240)));
        for worker in 0..8 {
            let tasks: Vec<Name> = (0..1_024).map(|i| long(worker, i)).collect();
            dispatch.subscribe(SessionId([worker; 16]), Epoch(1), serve(tasks), offered(1));
            dispatch.lane_ready(lane(&long(worker, 7)));
        }
        let mut entries = 0;
        let mut granted = BTreeSet::new();
        while dispatch.wants_entry() {
            let (entry, _) = take(&mut dispatch);
            let bytes = coda_protocol::codec::encode(&entry).len();
            assert!(bytes < GRANT_BYTES_PER_ENTRY_MAX, "{bytes}");
            assert!(!entry.grants.is_empty());
            granted.extend(entry.grants.iter().map(|grant| grant.session));
            // The engine hints again at what no grant could lease.
            for lane in entry.lanes {
                if !entry.name_sets.iter().any(|names| names.contains(&lane.name)) {
                    dispatch.lane_ready(lane);
                }
            }
            entries += 1;
        }
        assert_eq!(granted.len(), 8);
        assert!(entries > 1);
    }

    #[test]
    fn a_session_gets_no_more_than_it_may_hold_and_the_rest_of_its_slots_wait() {
        let (mut dispatch, slots) = subscribed();
        let held = dispatch.held.clone();
        held.begin(BTreeMap::from([(WORKER, LEASES_PER_SESSION_MAX as u32 - 2)]));
        slots.add(WorkKind::Task, 5);
        assert!(dispatch.lane_ready(lane("send")));
        let (entry, taken) = take(&mut dispatch);
        assert_eq!((entry.grants[0].slots, taken[0].slots), (2, 2));
        held.committed(WORKER, 2, 0);
        // It is full: its slots are not free, and no entry is made for them.
        assert!(!dispatch.lane_ready(lane("send")) && !dispatch.wants_entry());
        assert_eq!(dispatch.why(WorkKind::Task, &"send".into()), Wait::WorkersBusy);
        assert!(take(&mut dispatch).0.grants.is_empty());
        assert!(dispatch.lanes() == 1, "work that nobody can take is not forgotten");
        held.ended(WORKER, 1);
        assert!(dispatch.wants_entry());
        assert_eq!(take(&mut dispatch).0.grants[0].slots, 1);
    }

    #[test]
    fn workers_of_one_program_share_its_names() {
        let mut dispatch = Dispatch::default();
        for worker in 0..9 {
            let names = |names: [&str; 2]| names.map(Name::from).to_vec();
            let tasks = names(if worker % 3 == 0 { ["a", "b"] } else { ["c", "b"] });
            let session = SessionId([worker; 16]);
            dispatch.subscribe(session, Epoch(1), serve(tasks), offered(2));
        }
        let tasks = |dispatch: &Dispatch| {
            let tasks = dispatch.services().into_iter().filter(|service| service.kind == WorkKind::Task);
            let mut tasks: Vec<_> = tasks.map(|one| (one.names[0].clone(), one.workers, one.free_slots)).collect();
            tasks.sort();
            tasks
        };
        assert_eq!(tasks(&dispatch), [("a".into(), 3, 6), ("b".into(), 6, 12)]);
        let (entry, _) = take(&mut dispatch);
        assert_eq!((entry.grants.len(), entry.name_sets.len()), (9, 2));
        for worker in 0..9 {
            dispatch.unsubscribe(SessionId([worker; 16]), Epoch(1));
        }
        assert!(dispatch.served.is_empty() && dispatch.services().is_empty());
    }

    #[test]
    fn groups_share_slots_and_none_waits_for_another_to_leave_some() {
        let (mut one, slots) = subscribed();
        let mut other = Dispatch::default();
        other.subscribe(WORKER, Epoch(1), serve(vec!["send".into()]), slots.clone());
        slots.add(WorkKind::Task, 3);
        let take_half = |dispatch: &mut Dispatch| {
            dispatch.lane_ready(lane("send"));
            let (mut entry, mut taken) = (Entry::default(), Vec::new());
            dispatch.take(&queue(), 2, &mut entry, &mut taken, &mut Room::default());
            (entry.grants.iter().map(|grant| grant.slots).sum::<u32>(), entry.lanes.len())
        };
        assert_eq!([take_half(&mut one), take_half(&mut other)], [(2, 1), (1, 1)]);
        assert_eq!(take_half(&mut one), (0, 0), "a lane that found no slot stays known");
        assert_eq!(one.lanes(), 1);
    }
}
