//! What is free, what rides on entries, and what is taken back: no slot is lost, and none is there twice.

use coda_protocol::limits::LEASES_PER_SESSION_MAX;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const WORKER: SessionId = SessionId([1; 16]);
const OTHER: SessionId = SessionId([2; 16]);

fn lane(kind: WorkKind, name: &str) -> Lane {
    Lane { queue: "emails".into(), kind, name: name.into() }
}

fn serve(tasks: &[&str]) -> Subscribe {
    let tasks = tasks.iter().map(|name| Name::from(*name)).collect();
    Subscribe { queue: "emails".into(), tasks, workflows: vec!["flow".into()] }
}

fn take(dispatch: &mut Dispatch, share: u32) -> Vec<Taken> {
    let (mut entry, mut taken) = (Entry::default(), Vec::new());
    dispatch.take(&"emails".into(), share, &mut entry, &mut taken, &mut Room::default());
    taken
}

#[test]
fn work_starves_while_those_who_know_it_have_no_slot() {
    let (slots, others) = (Arc::new(FreeSlots::default()), Arc::new(FreeSlots::default()));
    let mut dispatch = Dispatch::default();
    dispatch.subscribe(WORKER, Epoch(1), serve(&["send"]), slots.clone());
    dispatch.subscribe(OTHER, Epoch(2), serve(&["other"]), others.clone());
    assert_eq!((dispatch.backlog(), dispatch.starved(9)), (Backlog::default(), vec![]));
    dispatch.lane_ready(lane(WorkKind::Task, "send"));
    dispatch.lane_ready(lane(WorkKind::Run, "flow"));
    others.add(WorkKind::Task, 1);
    assert_eq!(dispatch.backlog(), Backlog { meets_slots: false, starves: true });
    let tasks =
        Starved { kind: WorkKind::Task, lanes: vec![lane(WorkKind::Task, "send")], workers: vec![(WORKER, Epoch(1))] };
    let runs = Starved {
        kind: WorkKind::Run,
        lanes: vec![lane(WorkKind::Run, "flow")],
        workers: vec![(WORKER, Epoch(1)), (OTHER, Epoch(2))],
    };
    assert_eq!(dispatch.starved(9), [tasks, runs]);
    others.add(WorkKind::Run, 1);
    assert_eq!(dispatch.backlog(), Backlog { meets_slots: true, starves: true });
    slots.add(WorkKind::Task, 1);
    assert_eq!(dispatch.backlog(), Backlog { meets_slots: true, starves: false });
    assert!(dispatch.starved(9).is_empty());
    // Taken back.
    assert_eq!((slots.take(WorkKind::Task, 5), slots.take(WorkKind::Task, 5)), (1, 0));
    assert!(dispatch.backlog().starves);
}

#[test]
fn one_that_may_hold_no_more_leases_is_not_asked_for_slots() {
    let held = Arc::new(Held::default());
    held.begin(BTreeMap::from([(WORKER, LEASES_PER_SESSION_MAX as u32)]));
    let mut dispatch = Dispatch::new(held);
    for (session, slots) in [(WORKER, 3), (OTHER, 0)] {
        let free = Arc::new(FreeSlots::default());
        free.add(WorkKind::Task, slots);
        dispatch.subscribe(session, Epoch(1), serve(&["send"]), free);
    }
    dispatch.lane_ready(lane(WorkKind::Task, "send"));
    assert_eq!(dispatch.starved(9)[0].workers, [(OTHER, Epoch(1))]);
}

#[test]
fn of_many_lanes_some_are_looked_at() {
    let names: Vec<String> = (0..100).map(|n| format!("task-{n:03}")).collect();
    let mut dispatch = Dispatch::default();
    let tasks: Vec<&str> = names.iter().map(String::as_str).collect();
    dispatch.subscribe(WORKER, Epoch(1), serve(&tasks), Arc::default());
    for name in tasks {
        dispatch.lane_ready(lane(WorkKind::Task, name));
    }
    assert_eq!(dispatch.starved(7)[0].lanes.len(), 7);
}

/// A connection of the worker, and what it and the node have done with its slots.
struct World {
    groups: [Dispatch; 2],
    epoch: u64,
    slots: Arc<FreeSlots>,
    /// Offered on this connection, less what was given back and what became leases.
    promised: u32,
    /// On entries that are not committed, of earlier connections too.
    riding: Vec<(usize, Taken)>,
}

impl World {
    fn new() -> Self {
        let (epoch, slots, promised) = (0, Arc::default(), 0);
        let mut world = Self { groups: Default::default(), epoch, slots, promised, riding: Vec::new() };
        world.connect();
        world
    }

    /// Once more: what was offered before counts no longer.
    fn connect(&mut self) {
        self.epoch += 1;
        (self.slots, self.promised) = (Arc::default(), 0);
        for group in &mut self.groups {
            group.unsubscribe(WORKER, Epoch(self.epoch - 1));
            group.subscribe(WORKER, Epoch(self.epoch), serve(&["send"]), self.slots.clone());
        }
    }

    fn take(&mut self, group: usize) {
        self.groups[group].lane_ready(lane(WorkKind::Task, "send"));
        self.riding.extend(take(&mut self.groups[group], 2).into_iter().map(|taken| (group, taken)));
    }

    /// An entry is committed, or nobody learns what became of it.
    fn commit(&mut self, which: &Index, used: u32) {
        if self.riding.is_empty() {
            return;
        }
        let (group, taken) = self.riding.swap_remove(which.index(self.riding.len()));
        let unused = taken.slots.saturating_sub(used);
        self.groups[group].held.committed(taken.session, taken.slots, unused);
        self.groups[group].held.ended(taken.session, taken.slots - unused);
        taken.from.add(taken.kind, unused);
        if taken.epoch == Epoch(self.epoch) {
            self.promised -= taken.slots - unused;
        }
    }

    fn check(&self) {
        let now = Epoch(self.epoch);
        let riding: u32 =
            self.riding.iter().filter(|(_, taken)| taken.epoch == now).map(|(_, taken)| taken.slots).sum();
        assert_eq!(self.slots.free(WorkKind::Task) + riding, self.promised);
    }
}

proptest! {
    /// Two groups take slots for their entries and give some back, the worker offers and takes back, and connects anew.
    #[test]
    fn slots_are_conserved(steps in proptest::collection::vec((0u8..9, 0u32..8, any::<Index>()), 0..300)) {
        let mut w = World::new();
        for (what, slots, which) in steps {
            match what {
                0 | 1 => {
                    w.slots.add(WorkKind::Task, slots);
                    w.promised += slots;
                }
                2 | 3 => {
                    let given_back = w.slots.take(WorkKind::Task, slots);
                    prop_assert!(given_back <= slots && given_back <= w.promised);
                    w.promised -= given_back;
                }
                4 | 5 => w.take(slots as usize % 2),
                6 | 7 => w.commit(&which, slots),
                _ if slots == 0 => w.connect(),
                _ => {}
            }
            w.check();
        }
    }
}
