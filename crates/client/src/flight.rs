//! The requests that have no answer yet: their bytes, who waits for them, where they are, and when they are sent again.
//!
//! Each is with one node, the one that [`Routes`] names, or parked while there is none. When leadership moves or a
//! connection breaks, requests move along, in their old order.
//!
//! Deliberately absent: sockets, clocks and chance. The courier brings `now` and jitter.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coda_protocol::ids::{NodeId, Position, Work};
use coda_protocol::planted::{self, Bug};
use coda_protocol::reject::{Refusal, Reject, Unavailable};
use coda_protocol::reply::{Answer, Reply};
use tokio::sync::Notify;

use crate::options::{RETRY_ASKED_MAX, RETRY_MAX, RETRY_MIN, WRITE_BYTES_MAX};
use crate::routes::{Routes, Target};

/// What a request weighs against the bounds while it is unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Of one connection; made anew for the next one.
    Greeting,
    /// Sent by the link itself; always has room.
    Internal,
    Prompt,
    /// A wait for a result. Waits for one work share one request.
    Wait(Work),
}

/// Room that an answered request gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Freed {
    pub class: Class,
    pub bytes: usize,
}

/// A request on its way.
#[derive(Debug)]
struct Pending<T> {
    frame: Bytes,
    class: Class,
    target: Target,
    /// The node that has it, or gets it with the next write.
    at: Option<NodeId>,
    /// Not before its retry is due, wherever it goes then.
    overloaded: bool,
    ticket: T,
    /// Others who wait for the same result.
    more: Vec<T>,
    refusals: u32,
    last: Option<Unavailable>,
}

/// What an answer meant.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it lives for one match; a box would be an allocation per answer")]
pub(crate) enum Settled<T> {
    Answered {
        ticket: T,
        more: Vec<T>,
        result: Result<(Reply, Position), Reject>,
        position: Position,
        freed: Freed,
    },
    /// It will be sent again by itself.
    Again,
    /// Nobody asked, or not there any more.
    Unknown,
}

/// What a node's writer sends next.
#[derive(Debug, Default)]
struct Outbox {
    greetings: Vec<u64>,
    ids: VecDeque<u64>,
    wake: Arc<Notify>,
}

pub(crate) struct Flight<T> {
    pub routes: Routes,
    pending: HashMap<u64, Pending<T>>,
    outboxes: BTreeMap<NodeId, Outbox>,
    /// Refused requests, with nobody until they are due.
    retries: BinaryHeap<Reverse<(Instant, u64)>>,
    waits: HashMap<Work, u64>,
}

impl<T> Flight<T> {
    pub(crate) fn new() -> Self {
        Self {
            routes: Routes::default(),
            pending: HashMap::new(),
            outboxes: BTreeMap::new(),
            retries: BinaryHeap::new(),
            waits: HashMap::new(),
        }
    }

    /// Adds a request. A second wait for the same work joins the first; its room comes back.
    pub(crate) fn add(&mut self, id: u64, frame: Bytes, class: Class, target: Target, ticket: T) -> Option<Freed> {
        if let Class::Wait(work) = class {
            match self.waits.entry(work) {
                Entry::Occupied(first) => {
                    let first = self.pending.get_mut(first.get()).expect("a wait is pending");
                    first.more.push(ticket);
                    return Some(Freed { class, bytes: frame.len() });
                }
                Entry::Vacant(slot) => slot.insert(id),
            };
        }
        let (at, overloaded, more, refusals, last) = (None, false, Vec::new(), 0, None);
        let pending = Pending { frame, class, target, at, overloaded, ticket, more, refusals, last };
        self.pending.insert(id, pending);
        self.place(id);
        None
    }

    /// Gives a request to the node where it belongs now. Without one it is parked.
    fn place(&mut self, id: u64) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.at = self.routes.route(pending.target);
        if let Some(outbox) = pending.at.and_then(|node| self.outboxes.get_mut(&node)) {
            match pending.class {
                Class::Greeting => outbox.greetings.push(id),
                Class::Internal | Class::Prompt | Class::Wait(_) => outbox.ids.push_back(id),
            }
            outbox.wake.notify_one();
        }
    }

    /// Takes the next frames for a node's shared stream, about [`WRITE_BYTES_MAX`] of them, and those that go on streams
    /// of their own. Greetings go before all others, and none of them on a stream of its own, whatever its size.
    pub(crate) fn fill(&mut self, node: NodeId, now: Instant, inline_max: usize, frames: &mut Frames) {
        while let Some(Reverse((at, id))) = self.retries.peek().copied() {
            if at > now {
                break;
            }
            self.retries.pop();
            // It may have moved, or been answered, meanwhile.
            if let Some(pending) = self.pending.get_mut(&id).filter(|pending| pending.at.is_none()) {
                pending.overloaded = false;
                self.place(id);
            }
        }
        let Some(outbox) = self.outboxes.get_mut(&node) else { return };
        let greetings = outbox.greetings.drain(..).filter_map(|id| self.pending.get(&id));
        frames.greetings.extend(greetings.map(|pending| pending.frame.clone()));
        let mut bytes = 0;
        while bytes < WRITE_BYTES_MAX {
            let Some(id) = outbox.ids.pop_front() else { break };
            let Some(pending) = self.pending.get(&id).filter(|pending| pending.at == Some(node)) else { continue };
            if pending.frame.len() > inline_max {
                frames.alone.push(pending.frame.clone());
            } else {
                bytes += pending.frame.len();
                frames.shared.push(pending.frame.clone());
            }
        }
    }

    /// When the next refused request is due.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.retries.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes an answer of a node. `chance` in `0.0..1.0` spreads retries.
    pub(crate) fn settle(&mut self, node: NodeId, id: u64, answer: Answer, now: Instant, chance: f64) -> Settled<T> {
        let Entry::Occupied(mut entry) = self.pending.entry(id) else { return Settled::Unknown };
        let position = answer.position;
        let result = match answer.result {
            Ok(reply) => Ok((reply, position)),
            Err(Refusal::Reject(reject)) => Err(reject),
            // A node that it has moved away from has nothing to say about when.
            Err(Refusal::Unavailable(_)) if entry.get().at != Some(node) => return Settled::Unknown,
            // What a leader is told is told anew to the next.
            Err(Refusal::Unavailable(Unavailable::NotLeader { .. })) if entry.get().class == Class::Greeting => {
                entry.remove();
                return Settled::Unknown;
            }
            Err(Refusal::Unavailable(unavailable)) => {
                let pending = entry.get_mut();
                let delay = retry_delay(pending.refusals, &unavailable, chance);
                pending.refusals += 1;
                pending.overloaded = asked_to_wait(&unavailable).is_some();
                pending.last = Some(unavailable);
                pending.at = None;
                self.retries.push(Reverse((now + delay, id)));
                return Settled::Again;
            }
        };
        let pending = entry.remove();
        if let Class::Wait(work) = pending.class {
            self.waits.remove(&work);
        }
        let freed = Freed { class: pending.class, bytes: pending.frame.len() };
        Settled::Answered { ticket: pending.ticket, more: pending.more, result, position, freed }
    }

    /// Whether nothing is unanswered but waits for results.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.len() == self.waits.len()
    }

    /// Why a request was refused last, if it was.
    pub(crate) fn last_refusal(&self, id: u64) -> Option<Unavailable> {
        self.pending.get(&id)?.last.clone()
    }

    /// A node is connected. Follow with [`Flight::reroute`].
    pub(crate) fn up(&mut self, node: NodeId, wake: Arc<Notify>) {
        self.outboxes.insert(node, Outbox { greetings: Vec::new(), ids: VecDeque::new(), wake });
        self.routes.up(node);
    }

    /// A node's connection is gone: what it had not answered is sent again, wherever it belongs now. Greetings are
    /// dropped, the next connection has its own; so are waits that nobody awaits any more. Returns the room that comes
    /// back.
    pub(crate) fn down(&mut self, node: NodeId, abandoned: impl Fn(&T) -> bool) -> Vec<Freed> {
        self.outboxes.remove(&node);
        self.routes.down(node);
        let mut freed = Vec::new();
        self.pending.retain(|_, pending| {
            if pending.at != Some(node) {
                return true;
            }
            pending.at = None;
            let keep = match pending.class {
                Class::Greeting => false,
                Class::Internal | Class::Prompt if planted::is(Bug::UnansweredIsForgotten) => false,
                Class::Internal | Class::Prompt => pending.target != Target::Node(node),
                Class::Wait(_) => !abandoned(&pending.ticket) || !pending.more.iter().all(&abandoned),
            };
            if !keep {
                freed.push(Freed { class: pending.class, bytes: pending.frame.len() });
            }
            keep
        });
        for freed in &freed {
            if let Class::Wait(work) = freed.class {
                self.waits.remove(&work);
            }
        }
        self.reroute();
        freed
    }

    /// Nodes, leaders or slots have changed: requests that belong elsewhere now move there, in their old order. One that
    /// any node may answer stays where it is.
    pub(crate) fn reroute(&mut self) {
        let mut ids: Vec<u64> = self.pending.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let pending = &self.pending[&id];
            let stays = match (pending.target, pending.at) {
                (_, None) => pending.overloaded,
                (Target::Any | Target::Node(_), Some(_)) => true,
                (Target::Slot(_), Some(at)) => self.routes.route(pending.target) == Some(at),
            };
            if !stays {
                self.place(id);
            }
        }
    }

    /// Every writer looks for what there is to write.
    pub(crate) fn wake_all(&self) {
        self.outboxes.values().for_each(|outbox| outbox.wake.notify_one());
    }

    /// Gives up on everything.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        self.outboxes.clear();
        self.retries.clear();
        self.waits.clear();
        let mut all: Vec<_> = self.pending.drain().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter().flat_map(|(_, pending)| std::iter::once(pending.ticket).chain(pending.more)).collect()
    }
}

/// Encoded frames to write.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pub greetings: Vec<Bytes>,
    pub shared: Vec<Bytes>,
    /// Too large to share a stream.
    pub alone: Vec<Bytes>,
}

/// Doubles per refusal, shortened by up to half at random. Never sooner than the node asks, and later by up to half of
/// that at random: those it refuses together must not come back together.
fn retry_delay(refusals: u32, unavailable: &Unavailable, chance: f64) -> Duration {
    let grown = RETRY_MIN.saturating_mul(1 << refusals.min(10)).min(RETRY_MAX);
    let asked = asked_to_wait(unavailable).unwrap_or_default();
    grown.mul_f64(1.0 - chance / 2.0).max(asked.mul_f64(1.0 + chance / 2.0))
}

/// How long a node wants to be left alone, if it says so.
fn asked_to_wait(unavailable: &Unavailable) -> Option<Duration> {
    match unavailable {
        Unavailable::Overloaded { retry_after_ms } | Unavailable::DiskFull { retry_after_ms } => {
            Some(Duration::from_millis(*retry_after_ms).min(RETRY_ASKED_MAX))
        }
        Unavailable::NotLeader { .. } | Unavailable::ShuttingDown | Unavailable::ConnectionLost => None,
    }
}

#[cfg(test)]
mod tests {
    use coda_protocol::ids::{GroupId, RunId, Slot};
    use coda_protocol::push::GroupLeader;

    use super::*;
    use crate::routes::tests::map;

    const INLINE_MAX: usize = 10;
    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);
    const SLOT: Target = Target::Slot(Slot(3));

    fn frame(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    /// Of one group, led by the first of them.
    fn connected(nodes: &[NodeId]) -> Flight<u32> {
        let mut flight = Flight::new();
        flight.routes.set_map(map(1, 1));
        for node in nodes {
            flight.up(*node, Arc::default());
        }
        leads(&mut flight, 1, nodes[0]);
        flight
    }

    fn sent_to(flight: &mut Flight<u32>, node: NodeId, now: Instant) -> Vec<Bytes> {
        let mut frames = Frames::default();
        flight.fill(node, now, INLINE_MAX, &mut frames);
        frames.greetings.append(&mut frames.shared);
        frames.greetings
    }

    fn sent(flight: &mut Flight<u32>, now: Instant) -> Vec<Bytes> {
        sent_to(flight, ONE, now)
    }

    fn leads(flight: &mut Flight<u32>, term: u64, node: NodeId) {
        flight.routes.set_leader(node, GroupLeader { group: GroupId(1), term, leader: Some(node) });
        flight.reroute();
    }

    fn overloaded() -> Answer {
        let unavailable = Unavailable::Overloaded { retry_after_ms: 40 };
        Answer { position: Position::default(), result: Err(unavailable.into()) }
    }

    #[test]
    fn what_is_unanswered_is_sent_again_in_its_old_order_and_greetings_are_not() {
        let now = Instant::now();
        let mut flight = connected(&[ONE]);
        flight.add(1, frame("hi"), Class::Greeting, Target::Node(ONE), 0);
        for (id, text) in [(2, "a"), (3, "b"), (4, "c")] {
            flight.add(id, frame(text), Class::Prompt, SLOT, 0);
        }
        assert_eq!(sent(&mut flight, now).len(), 4);
        let done = Answer { position: Position::default(), result: Ok(Reply::Done) };
        assert!(matches!(flight.settle(ONE, 3, done.clone(), now, 0.0), Settled::Answered { .. }));
        assert!(matches!(flight.settle(ONE, 3, done, now, 0.0), Settled::Unknown));
        flight.down(ONE, |_| true);
        assert!(!flight.is_settled());
        flight.up(ONE, Arc::default());
        leads(&mut flight, 1, ONE);
        assert_eq!(sent(&mut flight, now), ["a", "c"]);
    }

    #[test]
    fn an_unavailable_answer_is_retried_no_sooner_than_asked() {
        let now = Instant::now();
        let mut flight = connected(&[ONE]);
        flight.add(7, frame("a"), Class::Prompt, SLOT, 0);
        sent(&mut flight, now);
        assert!(matches!(flight.settle(ONE, 7, overloaded(), now, 0.0), Settled::Again));
        let due = flight.next_retry().unwrap();
        assert_eq!(due, now + Duration::from_millis(40));
        assert!(sent(&mut flight, due - Duration::from_millis(1)).is_empty());
        assert_eq!(sent(&mut flight, due), ["a"]);
        assert_eq!(flight.last_refusal(7), Some(Unavailable::Overloaded { retry_after_ms: 40 }));
    }

    #[test]
    fn those_who_are_refused_together_are_spread_and_none_comes_sooner_than_asked() {
        let after = |ms| Unavailable::Overloaded { retry_after_ms: ms };
        for refusals in 0..40 {
            for chance in [0.0, 0.3, 0.999] {
                let delay = retry_delay(refusals, &after(200), chance);
                assert!(delay >= Duration::from_millis(200) && delay <= RETRY_MAX.max(Duration::from_millis(300)));
                assert!(retry_delay(refusals, &after(5_000), chance) >= Duration::from_millis(5_000));
                assert!(retry_delay(refusals, &after(u64::MAX), chance) <= RETRY_ASKED_MAX * 3 / 2);
                let full = Unavailable::DiskFull { retry_after_ms: 1_000 };
                assert!(retry_delay(refusals, &full, chance) >= Duration::from_millis(1_000));
                assert!(retry_delay(refusals, &Unavailable::ShuttingDown, chance) >= RETRY_MIN / 2);
            }
            let delays = || (0..100).map(|i| retry_delay(refusals, &after(200), f64::from(i) / 100.0));
            let spread = delays().max().unwrap() - delays().min().unwrap();
            assert!(spread >= Duration::from_millis(60), "{refusals}: {spread:?}");
        }
    }

    #[test]
    fn waits_for_one_work_are_one_request_and_abandoned_ones_are_not_repeated() {
        let work = Work::Run(RunId([1; 16]));
        let mut flight = connected(&[ONE, TWO]);
        assert_eq!(flight.add(1, frame("w"), Class::Wait(work), SLOT, 10), None);
        assert!(flight.is_settled());
        let back = Freed { class: Class::Wait(work), bytes: 1 };
        assert_eq!(flight.add(2, frame("w"), Class::Wait(work), SLOT, 11), Some(back));
        assert_eq!(sent(&mut flight, Instant::now()).len(), 1);
        assert!(flight.down(ONE, |ticket| *ticket == 10).is_empty());
        leads(&mut flight, 2, TWO);
        assert_eq!(sent_to(&mut flight, TWO, Instant::now()), ["w"]);
        assert_eq!(flight.down(TWO, |_| true), [back]);
        assert_eq!(flight.add(3, frame("w"), Class::Wait(work), SLOT, 12), None);
        assert_eq!(flight.take_all(), [12]);
    }

    #[test]
    fn requests_follow_the_leader_in_their_order_and_are_parked_while_there_is_none() {
        let now = Instant::now();
        let mut flight = connected(&[ONE, TWO]);
        flight.routes.set_leader(ONE, GroupLeader { group: GroupId(1), term: 2, leader: None });
        flight.add(1, frame("a"), Class::Prompt, SLOT, 0);
        assert!(sent(&mut flight, now).is_empty() && sent_to(&mut flight, TWO, now).is_empty());
        leads(&mut flight, 2, ONE);
        flight.add(2, frame("b"), Class::Prompt, SLOT, 0);
        flight.add(3, frame("mine"), Class::Internal, Target::Node(ONE), 0);
        assert_eq!(sent(&mut flight, now), ["a", "b", "mine"]);
        leads(&mut flight, 3, TWO);
        assert_eq!(sent_to(&mut flight, TWO, now), ["a", "b"]);
        // The deposed leader's word about "now" counts no more, its word about what has happened does.
        let lost =
            Answer { position: Position::default(), result: Err(Unavailable::NotLeader { leader: None }.into()) };
        assert!(matches!(flight.settle(ONE, 1, lost, now, 0.0), Settled::Unknown));
        let done = Answer { position: Position::default(), result: Ok(Reply::Done) };
        assert!(matches!(flight.settle(ONE, 2, done, now, 0.0), Settled::Answered { .. }));
        flight.down(TWO, |_| false);
        assert!(sent(&mut flight, now).is_empty());
        leads(&mut flight, 4, ONE);
        assert_eq!(sent(&mut flight, now), ["a"]);
        flight.down(ONE, |_| false);
        assert_eq!(flight.take_all(), [0], "what was for one connection ended with it");
    }

    #[test]
    fn who_is_told_to_wait_waits_even_if_leadership_moves_and_who_was_told_to_look_elsewhere_goes_at_once() {
        let now = Instant::now();
        let mut flight = connected(&[ONE, TWO]);
        flight.add(1, frame("a"), Class::Prompt, SLOT, 0);
        flight.add(2, frame("b"), Class::Prompt, SLOT, 0);
        sent(&mut flight, now);
        flight.settle(ONE, 1, overloaded(), now, 0.0);
        let lost =
            Answer { position: Position::default(), result: Err(Unavailable::NotLeader { leader: None }.into()) };
        flight.settle(ONE, 2, lost, now, 0.0);
        leads(&mut flight, 2, TWO);
        assert_eq!(sent_to(&mut flight, TWO, now), ["b"]);
        assert_eq!(sent_to(&mut flight, TWO, now + Duration::from_millis(40)), ["a"]);
        assert!(sent_to(&mut flight, TWO, now + Duration::from_secs(9)).is_empty(), "each once");
    }
}
