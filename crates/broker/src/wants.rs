//! Tells workers that work waits here for slots, which they may have promised to another node.
//!
//! Proposers say which queues wait; one task per node looks after those queues, and only after those, until their work is
//! done or has slots. It tells few workers at first and more the longer the work waits, in rotation: of a thousand workers
//! most have nothing to give, and one slot more may be all that is wanted. A node without others tells nobody.
//!
//! The struct [`Wishes`] decides; [`run`] looks and tells.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use coda_engine::query;
use coda_protocol::ids::{Name, SessionId, WorkKind};
use coda_protocol::limits::{CREDIT_MAX, WANTS_MS};
use coda_protocol::push::{Push, Wants};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::dispatch::{Epoch, Starved};
use crate::host::Host;

/// Work has waited so long for slots before anybody is told: most finds one that is free again by then.
const WANTS_AFTER: Duration = Duration::from_millis(2);
/// Times between looks at a queue that waits: each is twice the one before.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(10);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(100);
/// Work that has slots again is believed to have enough of them after so long. Until then nobody is told otherwise.
const ENOUGH_AFTER: Duration = Duration::from_millis(50);
/// A worker is not told again any sooner; twice as much later, each time that it is told while the same work waits.
const TELL_AGAIN_MIN: Duration = Duration::from_millis(25);
const TELL_AGAIN_MAX: Duration = Duration::from_millis(500);
/// Workers told at the first look; twice as many at each one that follows.
const TOLD_FIRST: usize = 8;
/// Workers told at a time, of all queues.
const TOLD_AT_ONCE_MAX: usize = 256;
/// Lanes of a queue and kind that are looked at. What others hold is counted when they come first.
const LANES_LOOKED_MAX: usize = 64;
/// A node that knows of no other looks again after so long, while work waits.
const ALONE_AGAIN: Duration = Duration::from_secs(1);
const WANTS: Duration = Duration::from_millis(WANTS_MS);

/// What is said stays true until it is said again.
const _: () = assert!(2 * TELL_AGAIN_MAX.as_millis() <= WANTS.as_millis());
/// And who is told at one look may be told more at the next.
const _: () = assert!(LOOK_AGAIN_MAX.as_millis() < TELL_AGAIN_MAX.as_millis());

/// Queues whose ready work waits for slots, as proposers see it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Starving(Arc<Inner>);

#[derive(Default)]
struct Inner {
    queues: Mutex<Queues>,
    said: Notify,
}

#[derive(Default)]
struct Queues {
    /// Those that are looked after, and those that will be.
    known: BTreeSet<Name>,
    new: Vec<Name>,
}

impl Starving {
    /// The queue's work waits. Costs a look at a set where that is known.
    pub fn say(&self, queue: &Name) {
        let mut queues = self.0.queues.lock();
        if !queues.known.contains(queue) {
            queues.known.insert(queue.clone());
            queues.new.push(queue.clone());
            drop(queues);
            self.0.said.notify_one();
        }
    }

    fn take_new(&self) -> Vec<Name> {
        mem::take(&mut self.0.queues.lock().new)
    }

    /// The queue is looked at now, and was the last time if it is not kept: what is said from here on is news again.
    fn forget(&self, queue: &Name) {
        self.0.queues.lock().known.remove(queue);
    }

    fn keep(&self, queue: &Name) {
        self.0.queues.lock().known.insert(queue.clone());
    }

    fn forget_all(&self) {
        *self.0.queues.lock() = Queues::default();
    }
}

/// What of a queue and kind waits for slots, in all groups that are led here.
#[derive(Debug, Default)]
pub struct Demand {
    ready: u64,
    /// Those who could do it and have no free slot here.
    workers: BTreeSet<(SessionId, Epoch)>,
}

/// To tell one worker.
#[derive(Debug, PartialEq, Eq)]
pub struct Tell {
    pub session: SessionId,
    pub epoch: Epoch,
    pub wants: Wants,
}

/// What is wanted, and who knows.
#[derive(Debug, Default)]
pub struct Wishes {
    /// By kind.
    queues: BTreeMap<Name, [Wish; 2]>,
}

#[derive(Debug, Default)]
struct Wish {
    /// When it is looked at next, while it is of interest.
    next: Option<Instant>,
    /// Looks since it has waited.
    looks: u32,
    /// Since when it has had enough, while somebody believes otherwise.
    enough: Option<Instant>,
    /// Behind whom the next look begins.
    turn: Option<(SessionId, Epoch)>,
    told: BTreeMap<(SessionId, Epoch), Told>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    at: Instant,
    again: Duration,
}

impl Wishes {
    /// The queue's work waits.
    pub fn begin(&mut self, queue: Name, now: Instant) {
        for wish in self.queues.entry(queue).or_default() {
            wish.next.get_or_insert(now + WANTS_AFTER);
        }
    }

    /// When there is something to look at.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.queues.values().flatten().filter_map(|wish| wish.next).min()
    }

    /// Queues to look at now.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<Name> {
        let is_due = |wishes: &[Wish; 2]| wishes.iter().any(|wish| wish.next.is_some_and(|next| next <= now));
        self.queues.iter().filter(|(_, wishes)| is_due(wishes)).map(|(queue, _)| queue.clone()).collect()
    }

    /// What was seen of a queue, by kind. Returns whom to tell, `room` of them at most; which becomes less by as many.
    pub fn look(&mut self, queue: &Name, seen: &[Demand; 2], now: Instant, room: &mut usize) -> Vec<Tell> {
        let Some(wishes) = self.queues.get_mut(queue) else { return Vec::new() };
        let mut tells = Vec::new();
        for (kind, (wish, demand)) in [WorkKind::Task, WorkKind::Run].into_iter().zip(wishes.iter_mut().zip(seen)) {
            match wish.next {
                Some(next) if next <= now => {}
                Some(_) => continue,
                // Seen for the first time: for the sake of the other kind, or it would have been begun.
                None => {
                    wish.next = (demand.ready > 0).then_some(now + WANTS_AFTER);
                    continue;
                }
            }
            let said = if demand.ready > 0 { wish.tell(demand, now, *room) } else { wish.enough(now, *room) };
            *room -= said.len();
            tells.extend(said.into_iter().map(|((session, epoch), wanted)| {
                let wants = Wants { queue: queue.clone(), kind, wanted };
                Tell { session, epoch, wants }
            }));
        }
        tells
    }

    /// Whether the queue is of no interest any more; forgets it then.
    pub fn ends(&mut self, queue: &Name) -> bool {
        let ends = self.queues.get(queue).is_none_or(|wishes| wishes.iter().all(|wish| wish.next.is_none()));
        if ends {
            self.queues.remove(queue);
        }
        ends
    }
}

impl Wish {
    /// Work waits: tells some of those who could do it and have not been told lately.
    fn tell(&mut self, demand: &Demand, now: Instant, room: usize) -> Vec<((SessionId, Epoch), u32)> {
        self.enough = None;
        self.told.retain(|_, told| told.at + WANTS > now);
        let may = |who: &&(SessionId, Epoch)| self.told.get(who).is_none_or(|told| told.at + told.again <= now);
        let count = TOLD_FIRST.saturating_mul(1 << self.looks.min(16)).min(room);
        let (late, early): (Vec<_>, Vec<_>) =
            demand.workers.iter().partition(|who| self.turn.is_some_and(|at| **who <= at));
        let some: Vec<_> = early.into_iter().chain(late).filter(may).take(count).copied().collect();
        self.turn = some.last().copied().or(self.turn);
        self.next = Some(now + (LOOK_AGAIN_MIN * (1 << self.looks.min(16))).min(LOOK_AGAIN_MAX));
        self.looks = self.looks.saturating_add(1);
        let wanted = demand.ready.div_ceil(some.len().max(1) as u64).min(u64::from(CREDIT_MAX)) as u32;
        for who in &some {
            let again = self.told.get(who).map_or(TELL_AGAIN_MIN, |told| (told.again * 2).min(TELL_AGAIN_MAX));
            self.told.insert(*who, Told { at: now, again });
        }
        some.into_iter().map(|who| (who, wanted)).collect()
    }

    /// Nothing waits: says so once that has lasted, to those who believe otherwise. Whom there is no room to tell will not
    /// believe it for long.
    fn enough(&mut self, now: Instant, room: usize) -> Vec<((SessionId, Epoch), u32)> {
        self.told.retain(|_, told| told.at + WANTS > now);
        let since = *self.enough.get_or_insert(now);
        if !self.told.is_empty() && now < since + ENOUGH_AFTER {
            self.next = Some(since + ENOUGH_AFTER);
            return Vec::new();
        }
        let told = mem::take(self).told;
        told.into_keys().take(room).map(|who| (who, 0)).collect()
    }
}

/// Looks after the queues that wait, for as long as the node runs.
pub async fn run(host: Host, clock: Arc<dyn Clock>) {
    let mut wishes = Wishes::default();
    loop {
        let next = wishes.next();
        tokio::select! {
            () = host.routes.starving().0.said.notified() => {}
            () = tokio::time::sleep_until(next.unwrap_or_else(|| clock.instant())), if next.is_some() => {}
        }
        if is_alone(&host) {
            tokio::time::sleep(ALONE_AGAIN).await;
            wishes = Wishes::default();
            // From here on it is said again.
            host.routes.starving().forget_all();
            continue;
        }
        let now = clock.instant();
        for queue in host.routes.starving().take_new() {
            wishes.begin(queue, now);
        }
        let mut room = TOLD_AT_ONCE_MAX;
        for queue in wishes.due(now) {
            host.routes.starving().forget(&queue);
            let seen = see(&host, &queue);
            for Tell { session, epoch, wants } in wishes.look(&queue, &seen, now, &mut room) {
                if let Some(outbox) = host.sessions.outbox_of(session, epoch) {
                    outbox.push(Push::Wants(wants));
                }
            }
            if !wishes.ends(&queue) {
                host.routes.starving().keep(&queue);
            }
        }
    }
}

fn is_alone(host: &Host) -> bool {
    host.map().is_none_or(|map| map.nodes.len() <= 1)
}

/// What of the queue waits for slots now, by kind.
fn see(host: &Host, queue: &Name) -> [Demand; 2] {
    let mut seen = [Demand::default(), Demand::default()];
    for router in host.routes.all() {
        let group = router.shared.group.id();
        for Starved { kind, lanes, workers } in router.starved(queue, LANES_LOOKED_MAX) {
            // A queue that is paused waits for something else.
            let ready: u64 = router.read(|view, _| lanes.iter().map(|lane| query::ready(view, group, lane)).sum());
            if ready > 0 {
                seen[kind as usize].ready += ready;
                seen[kind as usize].workers.extend(workers);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One queue, some of whose tasks wait.
    struct World {
        wishes: Wishes,
        now: Instant,
        workers: BTreeSet<(SessionId, Epoch)>,
    }

    fn worker(n: u16) -> (SessionId, Epoch) {
        let [high, low] = n.to_be_bytes();
        let mut id = [0; 16];
        (id[0], id[1]) = (high, low);
        (SessionId(id), Epoch(1))
    }

    impl World {
        fn new(workers: u16) -> Self {
            Self { wishes: Wishes::default(), now: Instant::now(), workers: (0..workers).map(worker).collect() }
        }

        /// The node looks as soon as it wants to; what it says then, by worker.
        fn look(&mut self, ready: u64) -> BTreeMap<(SessionId, Epoch), u32> {
            self.now = self.wishes.next().expect("of interest").max(self.now);
            let demand = Demand { ready, workers: if ready > 0 { self.workers.clone() } else { BTreeSet::new() } };
            let mut room = TOLD_AT_ONCE_MAX;
            let queue: Name = "q".into();
            assert_eq!(self.wishes.due(self.now), std::slice::from_ref(&queue));
            let said = self.wishes.look(&queue, &[demand, Demand::default()], self.now, &mut room);
            assert_eq!(said.len(), TOLD_AT_ONCE_MAX - room);
            self.wishes.ends(&queue);
            said.into_iter().map(|Tell { session, epoch, wants }| ((session, epoch), wants.wanted)).collect()
        }
    }

    #[test]
    fn work_that_finds_a_slot_soon_is_not_spoken_of() {
        let mut w = World::new(9);
        w.wishes.begin("q".into(), w.now);
        let begun = w.now;
        assert!(w.look(0).is_empty());
        assert_eq!((w.now - begun, w.wishes.next()), (WANTS_AFTER, None));
        assert!(w.wishes.queues.is_empty());
    }

    #[test]
    fn few_are_told_at_first_and_more_the_longer_it_waits_each_once_in_a_while() {
        let mut w = World::new(1_000);
        w.wishes.begin("q".into(), w.now);
        let begun = w.now;
        let mut told = BTreeSet::new();
        let mut counts = Vec::new();
        while told.len() < 1_000 {
            let said = w.look(20);
            counts.push(said.len());
            assert!(said.values().all(|wanted| *wanted == 20_u32.div_ceil(said.len() as u32)));
            told.extend(said.into_keys());
        }
        assert_eq!(counts[..6], [8, 16, 32, 64, 128, 256]);
        assert!(w.now - begun < Duration::from_millis(700), "{:?}", w.now - begun);
    }

    #[test]
    fn one_that_was_told_is_told_again_more_and_more_rarely_and_before_it_stops_believing() {
        let mut w = World::new(1);
        w.wishes.begin("q".into(), w.now);
        let mut said = Vec::new();
        while said.len() < 10 {
            if w.look(3) == BTreeMap::from([(worker(0), 3)]) {
                said.push(w.now);
            }
        }
        let gaps: Vec<_> = said.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[0] >= TELL_AGAIN_MIN && gaps[0] < 2 * TELL_AGAIN_MIN + LOOK_AGAIN_MAX, "{gaps:?}");
        assert!(gaps.iter().all(|gap| *gap < WANTS), "{gaps:?}");
        assert!(gaps[8] >= TELL_AGAIN_MAX, "{gaps:?}");
        // On another connection it knows of nothing.
        w.workers = BTreeSet::from([(worker(0).0, Epoch(2))]);
        assert_eq!(w.look(3).len(), 1);
    }

    #[test]
    fn who_was_told_is_told_when_it_is_over_and_not_when_it_only_seems_so() {
        let mut w = World::new(3);
        w.wishes.begin("q".into(), w.now);
        assert_eq!(w.look(9).len(), 3);
        assert!(w.look(0).is_empty());
        assert_eq!(w.look(9).len(), 3, "it only seemed so");
        assert!(w.look(0).is_empty());
        let over = w.look(0);
        assert_eq!(over, w.workers.iter().map(|who| (*who, 0)).collect());
        assert_eq!(w.wishes.next(), None);
    }

    #[test]
    fn the_other_kind_of_a_queue_that_is_looked_at_waits_its_time_too() {
        let mut w = World::new(1);
        let queue: Name = "q".into();
        w.wishes.begin(queue.clone(), w.now);
        w.look(1);
        w.now = w.wishes.next().unwrap();
        let demand = || Demand { ready: 1, workers: w.workers.clone() };
        let kinds = |tells: Vec<Tell>| tells.into_iter().map(|tell| tell.wants.kind).collect::<Vec<_>>();
        let both = [demand(), demand()];
        assert_eq!(kinds(w.wishes.look(&queue, &both, w.now, &mut 9)), []);
        assert_eq!(w.wishes.next(), Some(w.now + WANTS_AFTER));
        assert_eq!(kinds(w.wishes.look(&queue, &both, w.now + WANTS_AFTER, &mut 9)), [WorkKind::Run]);
    }

    #[test]
    fn a_queue_is_news_once_and_again_after_it_was_forgotten() {
        let starving = Starving::default();
        let queue: Name = "q".into();
        starving.say(&queue);
        starving.say(&queue);
        assert_eq!(starving.take_new(), std::slice::from_ref(&queue));
        starving.say(&queue);
        assert!(starving.take_new().is_empty());
        starving.forget(&queue);
        starving.say(&queue);
        starving.keep(&queue);
        assert_eq!(starving.take_new(), [queue], "said while it was looked at");
    }
}
