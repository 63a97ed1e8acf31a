//! A worker and three nodes, with frames under way in both directions: no slot is lost, and none is promised twice.

use std::collections::VecDeque;
use std::time::Duration;

use coda_protocol::ids::{Position, TaskId};
use coda_protocol::payload::Payload;
use coda_protocol::push::TaskLease;
use coda_protocol::reply::Reply;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const QUEUE: &str = "emails";
const SLOTS: u32 = 12;
const NODES: usize = 3;

/// What is under way to a node.
enum Asked {
    Credit(u32),
    Withdraw(u32, Intent),
}

/// What is under way to the worker.
enum Told {
    Lease(Hold),
    Wants(u32),
    Withdrawn(u32, Intent),
}

/// A node, as far as slots go: free ones, and entries in flight that have taken some.
#[derive(Default)]
struct Paper {
    up: bool,
    free: u32,
    riding: Vec<u32>,
    asked: VecDeque<Asked>,
    told: VecDeque<Told>,
}

impl Paper {
    /// What the worker must believe that it has promised to this node.
    fn promised(&self) -> u32 {
        let asked = self.asked.iter().map(|asked| if let Asked::Credit(slots) = asked { *slots } else { 0 });
        let told = self.told.iter().map(|told| match told {
            Told::Lease(_) => 1,
            Told::Withdrawn(slots, _) => *slots,
            Told::Wants(_) => 0,
        });
        self.free + self.riding.iter().sum::<u32>() + asked.sum::<u32>() + told.sum::<u32>()
    }
}

struct World {
    leases: Leases<()>,
    nodes: [Paper; NODES],
    now: Instant,
    held: Vec<Hold>,
    next: u64,
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

fn wants(wanted: u32) -> Wants {
    Wants { queue: QUEUE.into(), kind: WorkKind::Task, wanted }
}

impl World {
    fn new() -> Self {
        let subscribe = Subscribe { queue: QUEUE.into(), tasks: vec!["send".into()], workflows: Vec::new() };
        let leases = Leases::new(vec![Served { subscribe, task_slots: SLOTS, run_slots: 0 }], Salt(7)).unwrap();
        let mut world = Self { leases, nodes: Default::default(), now: Instant::now(), held: Vec::new(), next: 0 };
        (0..NODES).for_each(|node| world.connect(node));
        world
    }

    fn lead(&mut self) {
        let up = (0..NODES).filter(|node| self.nodes[*node].up).map(id).collect();
        assert!(self.leases.leading(&up).is_empty(), "who is not connected is told nothing");
    }

    fn connect(&mut self, node: usize) {
        if !self.nodes[node].up {
            self.nodes[node].up = true;
            self.leases.greeting(id(node));
            self.lead();
        }
    }

    fn disconnect(&mut self, node: usize) {
        self.nodes[node] = Paper::default();
        self.leases.on_disconnected(id(node));
        self.lead();
    }

    /// The worker's writer to this node writes.
    fn write(&mut self, node: usize) {
        let mut out = Vec::new();
        self.leases.credits(id(node), self.now, &mut out);
        let mut buffer = bytes::BytesMut::from(&out[..]);
        while let Some(frame) = Frame::take(&mut buffer).unwrap() {
            let Frame::Request { request: Request::Credit(credit), .. } = frame else { panic!("{frame:?}") };
            assert!(self.nodes[node].up);
            self.nodes[node].asked.push_back(Asked::Credit(credit.slots));
        }
    }

    fn reclaim(&mut self) {
        for (node, withdraw, intent) in self.leases.reclaim(self.now) {
            let node = &mut self.nodes[node.0 as usize - 1];
            assert!(node.up);
            node.asked.push_back(Asked::Withdraw(withdraw.slots, intent));
        }
    }

    /// The node handles what comes next.
    fn serve(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        match node.asked.pop_front() {
            Some(Asked::Credit(slots)) => node.free += slots,
            Some(Asked::Withdraw(slots, intent)) => {
                let slots = slots.min(node.free);
                node.free -= slots;
                node.told.push_back(Told::Withdrawn(slots, intent));
            }
            None => {}
        }
    }

    /// The worker handles what comes next.
    fn read(&mut self, node: usize) {
        match self.nodes[node].told.pop_front() {
            Some(Told::Lease(hold)) => {
                let Work::Task(task) = hold.0 else { panic!() };
                let (queue, name, args) = (QUEUE.into(), "send".into(), Payload::json("1"));
                let lease =
                    TaskLease { task, lease: hold.1, queue, name, args, attempt: 1, retries_left: 0, run: None };
                self.leases.on_push(id(node), Push::Task(lease), &mut Vec::new(), &mut Vec::new());
                self.held.push(hold);
            }
            Some(Told::Wants(wanted)) => {
                self.leases.on_wants(id(node), &wants(wanted), self.now);
                self.reclaim();
            }
            Some(Told::Withdrawn(slots, intent)) => {
                let mut answer = Ok((Reply::Withdrawn { slots }, Position::default()));
                assert!(self.leases.finish(&intent, &mut answer, &mut Vec::new()).is_none());
                self.reclaim();
            }
            None => {}
        }
    }

    /// An entry takes slots.
    fn grant(&mut self, node: usize, slots: u32) {
        let node = &mut self.nodes[node];
        let slots = slots.min(node.free);
        node.free -= slots;
        node.riding.push(slots);
    }

    /// An entry is committed: some of its slots are leases now.
    fn commit(&mut self, node: usize, used: u32) {
        let Some(riding) = self.nodes[node].riding.pop() else { return };
        let used = used.min(riding);
        self.nodes[node].free += riding - used;
        for _ in 0..used {
            self.next += 1;
            let hold = (Work::Task(TaskId((u128::from(self.next)).to_be_bytes())), LeaseId(self.next));
            self.nodes[node].told.push_back(Told::Lease(hold));
        }
    }

    fn end(&mut self, which: &Index) {
        if !self.held.is_empty() {
            let hold = self.held.swap_remove(which.index(self.held.len()));
            assert_eq!(self.leases.begin(&Intent::End { hold }), Verdict::Send);
            let mut answer = Ok((Reply::Done, Position::default()));
            self.leases.finish(&Intent::End { hold }, &mut answer, &mut Vec::new());
        }
    }

    fn check(&self) {
        let slots = &self.leases.lines[0].slots[WorkKind::Task as usize];
        let (taken, promised, unpromised) = slots.count();
        assert_eq!(taken as usize, self.held.len());
        assert_eq!(taken + promised + unpromised, SLOTS);
        for node in 0..NODES {
            assert_eq!(slots.promised_to(id(node)), self.nodes[node].promised(), "of node {node}");
        }
    }

    /// Until nothing is under way.
    fn settle(&mut self) {
        for node in 0..NODES {
            while !self.nodes[node].riding.is_empty() {
                self.commit(node, 0);
            }
        }
        loop {
            for node in 0..NODES {
                self.write(node);
                self.serve(node);
                self.read(node);
                self.check();
            }
            if self.nodes.iter().all(|node| node.asked.is_empty() && node.told.is_empty())
                && self.leases.lines[0].slots[0].unpromised() == 0
            {
                return;
            }
        }
    }
}

proptest! {
    /// Whatever happens in whatever order, each slot is at work, promised to one node, or neither; and what the worker
    /// believes to have promised to a node is what that node has, what rides on its entries, and what is under way.
    /// In the end, one node that wants slots has all that no lease has.
    #[test]
    fn slots_are_conserved_and_move_to_where_work_waits(
        steps in proptest::collection::vec((0u8..12, 0usize..NODES, 0u32..6, any::<Index>()), 0..300),
    ) {
        let mut w = World::new();
        for (what, node, slots, which) in steps {
            match what {
                0 | 1 => w.write(node),
                2 | 3 => w.serve(node),
                4 | 5 => w.read(node),
                6 => w.grant(node, slots),
                7 => w.commit(node, slots),
                8 => w.end(&which),
                9 if w.nodes[node].up => w.nodes[node].told.push_back(Told::Wants(slots)),
                10 if slots == 0 => w.disconnect(node),
                10 => w.connect(node),
                11 => w.now += Duration::from_millis(u64::from(slots) * 50),
                _ => {}
            }
            w.check();
        }
        (0..NODES).for_each(|node| w.connect(node));
        w.settle();
        for node in [1, 2] {
            w.nodes[node].told.push_back(Told::Wants(0));
        }
        w.nodes[0].told.push_back(Told::Wants(SLOTS));
        w.settle();
        prop_assert_eq!(w.nodes[0].free as usize + w.held.len(), SLOTS as usize);
    }
}

#[test]
fn a_lease_that_ends_wakes_others_when_its_slot_is_for_them() {
    let mut w = World::new();
    w.settle();
    for node in 0..NODES {
        w.grant(node, 4);
        w.commit(node, 4);
        (0..4).for_each(|_| w.read(node));
    }
    let of = |w: &World, node| *w.held.iter().find(|hold| w.leases.held[*hold].node == id(node)).unwrap();
    let first = of(&w, 1);
    w.leases.begin(&Intent::End { hold: first });
    assert!(!w.leases.owes_others(first, w.now), "its own node has fewest");
    w.write(1);
    w.leases.on_wants(id(0), &wants(1), w.now);
    let second = of(&w, 2);
    w.leases.begin(&Intent::End { hold: second });
    assert!(w.leases.owes_others(second, w.now));
    (0..NODES).rev().for_each(|node| w.write(node));
    assert_eq!([0, 1, 2].map(|node| w.nodes[node].promised()), [1, 1, 0]);
}

#[test]
fn a_draining_worker_and_one_that_serves_no_such_queue_ignore_wishes() {
    let mut w = World::new();
    w.settle();
    let other = Wants { queue: "other".into(), ..wants(9) };
    w.leases.on_wants(id(0), &other, w.now);
    assert!(w.leases.reclaim(w.now).is_empty());
    w.leases.on_wants(id(0), &wants(9), w.now);
    w.leases.drain();
    assert!(w.leases.reclaim(w.now).is_empty());
}
