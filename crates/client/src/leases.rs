//! What a worker holds: its leases, the slots they take, the memo pages that are still coming, the steps it awaits.
//!
//! A plain struct that decides; [`crate::worker_link`] sends and receives. Free slots are offered as the difference
//! between what is free and what nodes already know of, so that no lost frame can make the two disagree for long. Each is
//! promised to one node at a time: see [`slots`].
//!
//! ```text
//!              push ──▶ (assembling) ──▶ ACTIVE ──complete/release──▶ ENDING ──answer──▶ gone
//!                            │            │  ▲ └──lost──▶ LOST ──abandon──▶ gone
//!                        disconnect    park  not idle
//!                            ▼            ▼  │
//!                          gone          PARKING ──answer──▶ gone
//! ```

mod requests;
mod slots;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use coda_protocol::cluster::ClusterMap;
use coda_protocol::frame::Frame;
use coda_protocol::ids::{GroupId, LeaseId, NodeId, RunId, Slotted, Work, WorkKind, check_name};
use coda_protocol::limits::{LEASES_PER_SESSION_MAX, SUBSCRIPTION_NAMES_MAX, SUBSCRIPTIONS_PER_SESSION_MAX};
use coda_protocol::payload::WorkOutcome;
use coda_protocol::push::{MEMO_PAGES_OPEN, MemoPage, Push, RunLease, StepEnded, Wants};
use coda_protocol::request::{Credit, Request, Resume, StepKey, Subscribe, Withdraw};
use tracing::{debug, warn};

use crate::error::ClientError;
use crate::options::PROMPT_IN_FLIGHT_MAX;
use crate::worker_link::WorkerEvent;
pub(crate) use slots::Salt;
use slots::Slots;

/// What a worker executes from one queue, and how much of it at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub subscribe: Subscribe,
    pub task_slots: u32,
    pub run_slots: u32,
}

/// One lease of one piece of work. Lease ids alone are unique only within a group.
pub(crate) type Hold = (Work, LeaseId);

/// What a request of the worker does to what it holds.
#[derive(Debug)]
pub(crate) enum Intent {
    /// Nothing.
    Ask,
    /// Says to a group's leader that these are held.
    Resume {
        holds: Vec<Hold>,
    },
    Spawn {
        hold: Hold,
        keys: Vec<StepKey>,
    },
    Record {
        hold: Hold,
    },
    /// Completed or released.
    End {
        hold: Hold,
    },
    Park {
        hold: Hold,
    },
    /// Takes free slots back that a node was promised.
    Withdraw {
        node: NodeId,
        line: usize,
        kind: WorkKind,
        id: u64,
    },
}

/// What to do with a request now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    /// Not before the run's spawns are answered: it must not overtake them.
    Defer,
    /// The lease has ended before: there is nothing to say to the node.
    Superseded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    Parking,
    /// The end was sent; its slot is free again.
    Ending,
    Lost,
}

#[derive(Debug)]
struct Held<P> {
    line: usize,
    /// That pushed it.
    node: NodeId,
    state: State,
    /// A run whose memo is not complete yet: the user has not seen it.
    assembling: Option<Box<Assembling>>,
    /// Steps that were spawned and have not ended.
    pending: HashSet<StepKey>,
    /// Spawns and records without an answer.
    unanswered: u32,
    deferred: Option<P>,
}

#[derive(Debug)]
struct Assembling {
    lease: RunLease,
    /// Unknown where a `MemoEnd` says so.
    pages_left: Option<u32>,
    memo: Vec<(StepKey, WorkOutcome)>,
}

/// A queue that is served.
#[derive(Debug)]
struct Line {
    subscribe: Subscribe,
    /// Indexed by [`WorkKind`].
    slots: [Slots; 2],
}

/// `P` is a request that waits until it may be sent.
#[derive(Debug)]
pub(crate) struct Leases<P> {
    lines: Vec<Line>,
    /// Connected nodes that lead groups.
    leading: BTreeSet<NodeId>,
    held: HashMap<Hold, Held<P>>,
    /// Of the last request that took slots back.
    withdrawals: u64,
    draining: bool,
}

impl<P> Leases<P> {
    pub(crate) fn new(served: Vec<Served>, salt: Salt) -> Result<Self, ClientError> {
        check(&served)?;
        let line = |served: Served| {
            let run_slots = if served.subscribe.workflows.is_empty() { 0 } else { served.run_slots };
            let task_slots = if served.subscribe.tasks.is_empty() { 0 } else { served.task_slots };
            Line { subscribe: served.subscribe, slots: [task_slots, run_slots].map(|total| Slots::new(total, salt)) }
        };
        let lines = served.into_iter().map(line).collect();
        Ok(Self { lines, leading: BTreeSet::new(), held: HashMap::new(), withdrawals: 0, draining: false })
    }

    fn slots(&mut self) -> impl Iterator<Item = &mut Slots> {
        self.lines.iter_mut().flat_map(|line| &mut line.slots)
    }

    /// Whether free slots exist that no node knows of.
    pub(crate) fn owes_credit(&self) -> bool {
        let owes = |line: &Line| line.slots.iter().any(|slots| slots.unpromised() > 0);
        !self.draining && !self.leading.is_empty() && self.lines.iter().any(owes)
    }

    /// Whether this lease's slot is free now, and for another node than the one that will hear of the lease's end.
    pub(crate) fn owes_others(&self, hold: Hold, now: Instant) -> bool {
        let Some(held) = self.held.get(&hold).filter(|_| self.leading.len() > 1 && !self.draining) else {
            return false;
        };
        let slots = &self.lines[held.line].slots[hold.0.kind() as usize];
        slots.unpromised() > slots.due(held.node, &self.leading, now)
    }

    /// Leases that the user has and has not ended.
    pub(crate) fn count(&self) -> usize {
        let with_user = |held: &&Held<P>| held.assembling.is_none() && held.state != State::Ending;
        self.held.values().filter(with_user).count()
    }

    /// What a new connection says first. The node knows of no credit then.
    pub(crate) fn greeting(&mut self, node: NodeId) -> Vec<Request> {
        self.slots().for_each(|slots| slots.connect(node));
        if self.draining { Vec::new() } else { self.subscriptions() }
    }

    fn subscriptions(&self) -> Vec<Request> {
        self.lines.iter().map(|line| Request::Subscribe(line.subscribe.clone())).collect()
    }

    /// What the leader of a group is told: the leases of that group. Without a map there is one group.
    pub(crate) fn resume(&self, group: GroupId, map: Option<&ClusterMap>) -> (Resume, Vec<Hold>) {
        let here = |work: &Work| map.is_none_or(|map| map.group_of(work.slot()) == group);
        let kept = self.held.iter().filter(|((work, _), held)| held.state != State::Lost && here(work));
        let mut holds: Vec<Hold> = kept.map(|(hold, _)| *hold).collect();
        holds.sort_unstable_by_key(|(_, lease)| *lease);
        (Resume { group, held: holds.iter().map(|(_, lease)| *lease).collect() }, holds)
    }

    /// These nodes lead groups now. Of those that do no more, credit is taken back: a new subscription has none.
    pub(crate) fn leading(&mut self, nodes: &BTreeSet<NodeId>) -> Vec<(NodeId, Request)> {
        let mut anew = Vec::new();
        for node in self.leading.difference(nodes) {
            for line in &mut self.lines {
                let [tasks, runs] = &mut line.slots;
                if (tasks.revoke(*node) | runs.revoke(*node)) && !self.draining {
                    anew.push((*node, Request::Subscribe(line.subscribe.clone())));
                }
            }
        }
        self.leading.clone_from(nodes);
        anew
    }

    /// Offers a node its part of the free slots that no node knows of.
    pub(crate) fn credits(&mut self, node: NodeId, now: Instant, out: &mut Vec<u8>) {
        if self.draining {
            return;
        }
        for line in &mut self.lines {
            for kind in [WorkKind::Task, WorkKind::Run] {
                let of_kind = &mut line.slots[kind as usize];
                let slots = of_kind.due(node, &self.leading, now);
                if slots > 0 {
                    of_kind.offer(node, slots);
                    let credit = Credit { queue: line.subscribe.queue.clone(), kind, slots };
                    Frame::Request { id: 0, request: Request::Credit(credit) }.encode(out);
                }
            }
        }
    }

    /// A node's work waits for slots, or not any more. Follow with [`Leases::reclaim`].
    fn on_wants(&mut self, node: NodeId, Wants { queue, kind, wanted }: &Wants, now: Instant) {
        let line = self.lines.iter_mut().find(|line| line.subscribe.queue == *queue);
        if let Some(line) = line.filter(|_| !self.draining && self.leading.contains(&node)) {
            line.slots[*kind as usize].wants(node, *wanted, now);
        }
    }

    /// Takes slots back from nodes that have no use for them, for those that want some.
    pub(crate) fn reclaim(&mut self, now: Instant) -> Vec<(NodeId, Withdraw, Intent)> {
        let mut withdrawals = Vec::new();
        if self.draining {
            return withdrawals;
        }
        for (i, line) in self.lines.iter_mut().enumerate() {
            for kind in [WorkKind::Task, WorkKind::Run] {
                for (node, slots, id) in line.slots[kind as usize].reclaim(now, &mut self.withdrawals) {
                    let withdraw = Withdraw { queue: line.subscribe.queue.clone(), kind, slots };
                    withdrawals.push((node, withdraw, Intent::Withdraw { node, line: i, kind, id }));
                }
            }
        }
        withdrawals
    }

    /// Takes a push. `back` receives leases that are handed back at once.
    pub(crate) fn on_push(&mut self, node: NodeId, push: Push, events: &mut Vec<WorkerEvent>, back: &mut Vec<Hold>) {
        match push {
            Push::Wants(wants) => self.on_wants(node, &wants, Instant::now()),
            Push::Task(lease) => {
                if self.lease(node, (Work::Task(lease.task), lease.lease), &lease.queue, back).is_some() {
                    events.push(WorkerEvent::TaskStart(lease));
                }
            }
            Push::Run(lease) => {
                let hold = (Work::Run(lease.run), lease.lease);
                let Some(held) = self.lease(node, hold, &lease.queue, back) else { return };
                if lease.memo_pages == 0 {
                    events.push(WorkerEvent::RunStart { lease, memo: Vec::new() });
                } else {
                    let pages_left = (lease.memo_pages != MEMO_PAGES_OPEN).then_some(lease.memo_pages);
                    held.assembling = Some(Box::new(Assembling { lease, pages_left, memo: Vec::new() }));
                }
            }
            Push::Memo(page) => self.on_memo(page, events),
            Push::MemoEnd { run, lease, steps_ended } => self.on_memo_end(run, lease, steps_ended, events),
            Push::Step(step) => self.on_step(step, events),
            Push::LeaseLost { work, lease } => self.on_lost((work, lease), events),
            // The courier's.
            Push::Leader(_) | Push::Map(_) | Push::Outside => {}
        }
    }

    /// Takes a slot, unless the lease is known or unwanted.
    fn lease(&mut self, node: NodeId, hold: Hold, queue: &str, back: &mut Vec<Hold>) -> Option<&mut Held<P>> {
        if self.held.contains_key(&hold) {
            debug!(?hold, "a lease was pushed again");
            return None;
        }
        let Some(i) = self.lines.iter().position(|line| line.subscribe.queue == queue) else {
            warn!(?hold, queue, "leased from a queue that is not served, handing it back");
            back.push(hold);
            return None;
        };
        let kind = hold.0.kind() as usize;
        let has_slot = self.lines[i].slots[kind].used(node);
        if !has_slot || self.draining {
            back.push(hold);
            return None;
        }
        self.lines[i].slots[kind].take(node);
        let held = Held {
            line: i,
            node,
            state: State::Active,
            assembling: None,
            pending: HashSet::new(),
            unanswered: 0,
            deferred: None,
        };
        Some(self.held.entry(hold).or_insert(held))
    }

    /// A page of a run that is being assembled, or what a resumed run may have missed.
    fn on_memo(&mut self, page: MemoPage, events: &mut Vec<WorkerEvent>) {
        let Some(held) = self.held.get_mut(&(Work::Run(page.run), page.lease)) else { return };
        let Some(mut assembling) = held.assembling.take() else {
            // The page's count may cover steps of later pages, which the user must not be said to have seen.
            let MemoPage { run, lease, .. } = page;
            for (key, outcome) in page.items {
                held.step_ended(StepEnded { run, lease, key, outcome, steps_ended: 0 }, events);
            }
            return;
        };
        assembling.memo.extend(page.items);
        assembling.lease.steps_ended = assembling.lease.steps_ended.max(page.steps_ended);
        assembling.pages_left = assembling.pages_left.map(|left| left - 1);
        if assembling.pages_left != Some(0) {
            held.assembling = Some(assembling);
            return;
        }
        events.push(WorkerEvent::RunStart { lease: assembling.lease, memo: assembling.memo });
    }

    /// All that had ended when the memo was begun has been told: a run starts, one that goes on has seen it.
    fn on_memo_end(&mut self, run: RunId, lease: LeaseId, steps_ended: u32, events: &mut Vec<WorkerEvent>) {
        let Some(held) = self.held.get_mut(&(Work::Run(run), lease)) else { return };
        let Some(assembling) = held.assembling.take() else {
            return events.push(WorkerEvent::StepsSeen { run, lease, steps_ended });
        };
        let Assembling { mut lease, memo, .. } = *assembling;
        lease.steps_ended = lease.steps_ended.max(steps_ended);
        events.push(WorkerEvent::RunStart { lease, memo });
    }

    fn on_step(&mut self, step: StepEnded, events: &mut Vec<WorkerEvent>) {
        let Some(held) = self.held.get_mut(&(Work::Run(step.run), step.lease)) else { return };
        if let Some(assembling) = &mut held.assembling {
            assembling.memo.push((step.key, step.outcome));
            assembling.lease.steps_ended = assembling.lease.steps_ended.max(step.steps_ended);
            return;
        }
        held.step_ended(step, events);
    }

    /// A lease that ends or parks anyway is not reported as lost: its answer says what became of it.
    fn on_lost(&mut self, hold: Hold, events: &mut Vec<WorkerEvent>) {
        let Some(held) = self.held.get_mut(&hold) else { return };
        if held.assembling.is_some() {
            self.forget(hold);
        } else if held.state == State::Active {
            held.state = State::Lost;
            events.push(WorkerEvent::LeaseLost { work: hold.0, lease: hold.1 });
        }
    }

    /// Of what was said to be held, the group does not know these leases as ours any more.
    fn on_resumed(&mut self, holds: &[Hold], lost: Vec<LeaseId>, events: &mut Vec<WorkerEvent>) {
        let lost: HashSet<LeaseId> = lost.into_iter().collect();
        holds.iter().filter(|(_, lease)| lost.contains(lease)).for_each(|hold| self.on_lost(*hold, events));
    }

    /// Runs whose pages were cut off are left to the node, which hands out what no resume names.
    pub(crate) fn on_disconnected(&mut self, node: NodeId) {
        self.slots().for_each(|slots| slots.disconnect(node));
        self.take_assembling(|held| held.node == node);
    }

    /// No further work. Returns the runs that the user has not seen, and the queues to unsubscribe.
    pub(crate) fn drain(&mut self) -> (Vec<Hold>, Vec<Subscribe>) {
        self.draining = true;
        let nothing =
            |line: &Line| Subscribe { queue: line.subscribe.queue.clone(), tasks: Vec::new(), workflows: Vec::new() };
        (self.take_assembling(|_| true), self.lines.iter().map(nothing).collect())
    }

    fn take_assembling(&mut self, of: impl Fn(&Held<P>) -> bool) -> Vec<Hold> {
        let cut = self.held.iter().filter(|(_, held)| held.assembling.is_some() && of(held));
        let cut: Vec<Hold> = cut.map(|(hold, _)| *hold).collect();
        cut.iter().for_each(|hold| self.forget(*hold));
        cut
    }

    fn forget(&mut self, hold: Hold) {
        let Some(held) = self.held.remove(&hold) else { return };
        if held.state != State::Ending {
            self.lines[held.line].slots[hold.0.kind() as usize].give(held.node);
        }
    }
}

impl<P> Held<P> {
    /// A step that this execution has not spawned yet counts, and is told when it is spawned.
    fn step_ended(&mut self, step: StepEnded, events: &mut Vec<WorkerEvent>) {
        let StepEnded { run, lease, key, outcome, steps_ended } = step;
        if self.pending.remove(&key) {
            events.push(WorkerEvent::StepEnded { run, lease, key, outcome, steps_ended });
        } else if steps_ended > 0 {
            events.push(WorkerEvent::StepsSeen { run, lease, steps_ended });
        }
    }
}

fn check(served: &[Served]) -> Result<(), ClientError> {
    let bad = |why: String| Err(ClientError::BadOptions { why });
    if served.len() > SUBSCRIPTIONS_PER_SESSION_MAX {
        return bad(format!("a worker serves at most {SUBSCRIPTIONS_PER_SESSION_MAX} queues: run several workers"));
    }
    let mut queues = HashSet::new();
    let mut slots = 0;
    for Served { subscribe, task_slots, run_slots } in served {
        let names = subscribe.tasks.iter().chain(&subscribe.workflows);
        std::iter::once(&subscribe.queue).chain(names).try_for_each(|name| check_name(name))?;
        if subscribe.tasks.len() + subscribe.workflows.len() > SUBSCRIPTION_NAMES_MAX {
            return bad(format!(
                "a worker serves at most {SUBSCRIPTION_NAMES_MAX} names per queue: run several workers"
            ));
        }
        if !queues.insert(&subscribe.queue) {
            return bad(format!("queue `{}` is served twice: put its names together", subscribe.queue));
        }
        slots += *task_slots as usize + *run_slots as usize;
    }
    // Leases that end are still the session's until their answer, beside as many new ones as there are slots.
    let slots_max = LEASES_PER_SESSION_MAX - PROMPT_IN_FLIGHT_MAX;
    if slots > slots_max {
        return bad(format!("a worker has at most {slots_max} slots: run several workers"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wants_tests;
