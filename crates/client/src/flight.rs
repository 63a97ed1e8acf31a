//! The requests that have no answer yet: their bytes, who waits for them, and when they are sent again.
//!
//! Deliberately absent: sockets, clocks and chance. The courier brings `now` and jitter.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coda_protocol::ids::{Position, Work};
use coda_protocol::reject::{Refusal, Reject, Unavailable};
use coda_protocol::reply::{Answer, Reply};

use crate::options::{RETRY_ASKED_MAX, RETRY_MAX, RETRY_MIN, WRITE_BYTES_MAX};

/// What a request weighs against the bounds while it is unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// First on each connection; made anew for the next one.
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
        freed: Freed,
    },
    /// It will be sent again by itself.
    Again,
    /// Nobody asked.
    Unknown,
}

pub(crate) struct Flight<T> {
    pending: HashMap<u64, Pending<T>>,
    outbox: VecDeque<u64>,
    retries: BinaryHeap<Reverse<(Instant, u64)>>,
    waits: HashMap<Work, u64>,
}

impl<T> Flight<T> {
    pub(crate) fn new() -> Self {
        Self { pending: HashMap::new(), outbox: VecDeque::new(), retries: BinaryHeap::new(), waits: HashMap::new() }
    }

    /// Adds a request to the outbox. A second wait for the same work joins the first; its room comes back.
    pub(crate) fn add(&mut self, id: u64, frame: Bytes, class: Class, ticket: T) -> Option<Freed> {
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
        self.pending.insert(id, Pending { frame, class, ticket, more: Vec::new(), refusals: 0, last: None });
        self.outbox.push_back(id);
        None
    }

    /// Adds a request that the caller writes itself.
    pub(crate) fn add_written(&mut self, id: u64, frame: Bytes, class: Class, ticket: T) {
        self.pending.insert(id, Pending { frame, class, ticket, more: Vec::new(), refusals: 0, last: None });
    }

    /// Takes the next frames to write, about [`WRITE_BYTES_MAX`] of them; frames of their own stream weigh nothing.
    pub(crate) fn fill(&mut self, now: Instant, inline_max: usize, frames: &mut Vec<Bytes>) {
        while let Some(Reverse((at, id))) = self.retries.peek().copied() {
            if at > now {
                break;
            }
            self.retries.pop();
            self.outbox.push_back(id);
        }
        let mut bytes = 0;
        while bytes < WRITE_BYTES_MAX {
            let Some(id) = self.outbox.pop_front() else { break };
            let Some(pending) = self.pending.get(&id) else { continue };
            bytes += if pending.frame.len() > inline_max { 0 } else { pending.frame.len() };
            frames.push(pending.frame.clone());
        }
    }

    /// When the next refused request is due.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.retries.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes an answer. `chance` in `0.0..1.0` spreads retries.
    pub(crate) fn settle(&mut self, id: u64, answer: Answer, now: Instant, chance: f64) -> Settled<T> {
        let Entry::Occupied(mut entry) = self.pending.entry(id) else { return Settled::Unknown };
        let result = match answer.result {
            Ok(reply) => Ok((reply, answer.position)),
            Err(Refusal::Reject(reject)) => Err(reject),
            Err(Refusal::Unavailable(unavailable)) => {
                let pending = entry.get_mut();
                let delay = retry_delay(pending.refusals, &unavailable, chance);
                pending.refusals += 1;
                pending.last = Some(unavailable);
                self.retries.push(Reverse((now + delay, id)));
                return Settled::Again;
            }
        };
        let pending = entry.remove();
        if let Class::Wait(work) = pending.class {
            self.waits.remove(&work);
        }
        let freed = Freed { class: pending.class, bytes: pending.frame.len() };
        Settled::Answered { ticket: pending.ticket, more: pending.more, result, freed }
    }

    /// Whether nothing is unanswered but waits for results.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.len() == self.waits.len()
    }

    /// Why a request was refused last, if it was.
    pub(crate) fn last_refusal(&self, id: u64) -> Option<Unavailable> {
        self.pending.get(&id)?.last.clone()
    }

    /// A new connection: everything unanswered is sent again in its old order. Greetings are dropped, the new
    /// connection has its own; so are waits that nobody awaits any more. Returns the room that comes back.
    pub(crate) fn restart(&mut self, abandoned: impl Fn(&T) -> bool) -> Vec<Freed> {
        let mut freed = Vec::new();
        self.pending.retain(|_, pending| {
            let keep = match pending.class {
                Class::Greeting => false,
                Class::Internal | Class::Prompt => true,
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
        self.retries.clear();
        let mut ids: Vec<u64> = self.pending.keys().copied().collect();
        ids.sort_unstable();
        self.outbox = ids.into();
        freed
    }

    /// Gives up on everything.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        self.outbox.clear();
        self.retries.clear();
        self.waits.clear();
        let mut all: Vec<_> = self.pending.drain().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter().flat_map(|(_, pending)| std::iter::once(pending.ticket).chain(pending.more)).collect()
    }
}

/// Doubles per refusal, shortened by up to half at random. Never sooner than the node asks, and later by up to half of
/// that at random: those it refuses together must not come back together.
fn retry_delay(refusals: u32, unavailable: &Unavailable, chance: f64) -> Duration {
    let grown = RETRY_MIN.saturating_mul(1 << refusals.min(10)).min(RETRY_MAX);
    let asked = match unavailable {
        Unavailable::Overloaded { retry_after_ms } => Duration::from_millis(*retry_after_ms).min(RETRY_ASKED_MAX),
        Unavailable::NotLeader { .. } | Unavailable::ShuttingDown | Unavailable::ConnectionLost => Duration::ZERO,
    };
    grown.mul_f64(1.0 - chance / 2.0).max(asked.mul_f64(1.0 + chance / 2.0))
}

#[cfg(test)]
mod tests {
    use coda_protocol::ids::RunId;

    use super::*;

    const INLINE_MAX: usize = 10;

    fn frame(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn sent(flight: &mut Flight<u32>, now: Instant) -> Vec<Bytes> {
        let mut frames = Vec::new();
        flight.fill(now, INLINE_MAX, &mut frames);
        frames
    }

    fn overloaded() -> Answer {
        let unavailable = Unavailable::Overloaded { retry_after_ms: 40 };
        Answer { position: Position::default(), result: Err(unavailable.into()) }
    }

    #[test]
    fn what_is_unanswered_is_sent_again_in_its_old_order_and_greetings_are_not() {
        let now = Instant::now();
        let mut flight = Flight::new();
        flight.add(1, frame("hi"), Class::Greeting, 0);
        for (id, text) in [(2, "a"), (3, "b"), (4, "c")] {
            flight.add(id, frame(text), Class::Prompt, 0);
        }
        assert_eq!(sent(&mut flight, now).len(), 4);
        let done = Answer { position: Position::default(), result: Ok(Reply::Done) };
        assert!(matches!(flight.settle(3, done.clone(), now, 0.0), Settled::Answered { .. }));
        assert!(matches!(flight.settle(3, done, now, 0.0), Settled::Unknown));
        flight.restart(|_| true);
        assert_eq!(sent(&mut flight, now), ["a", "c"]);
    }

    #[test]
    fn an_unavailable_answer_is_retried_no_sooner_than_asked() {
        let now = Instant::now();
        let mut flight = Flight::new();
        flight.add(7, frame("a"), Class::Prompt, 0);
        sent(&mut flight, now);
        assert!(!flight.is_settled());
        assert!(matches!(flight.settle(7, overloaded(), now, 0.0), Settled::Again));
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
        let mut flight = Flight::new();
        assert_eq!(flight.add(1, frame("w"), Class::Wait(work), 10), None);
        assert!(flight.is_settled());
        let back = Freed { class: Class::Wait(work), bytes: 1 };
        assert_eq!(flight.add(2, frame("w"), Class::Wait(work), 11), Some(back));
        assert_eq!(sent(&mut flight, Instant::now()).len(), 1);
        assert!(flight.restart(|ticket| *ticket == 10).is_empty());
        assert_eq!(flight.restart(|_| true), [back]);
        assert!(sent(&mut flight, Instant::now()).is_empty());
        assert_eq!(flight.add(3, frame("w"), Class::Wait(work), 12), None);
        assert_eq!(flight.take_all(), [12]);
    }
}
