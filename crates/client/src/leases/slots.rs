//! A worker's slots of one queue and kind: which are free, and to which node each free one is promised.
//!
//! Without wishes, free slots are spread evenly over the nodes that lead groups. A node whose work waits for slots says
//! so: until it has what it wants, it comes first, and promises that other nodes have no use for are taken back for it.
//! A node that wants something loses nothing, so that two of them share what becomes free, and no slot goes to and fro.
//!
//! ```text
//!            offer ──▶ PROMISED ──lease──▶ TAKEN ──give──▶ FREE
//!   FREE ────┘           │  ▲ └──disconnect, revoke──▶ FREE
//!                  reclaim  withdrawn: what the node has used meanwhile stays promised
//!                        ▼  │
//!                    WITHDRAWING ──withdrawn──▶ FREE
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use coda_protocol::ids::NodeId;
use coda_protocol::limits::{CREDIT_MAX, WANTS_MS};

/// How long a wish lasts that is not said again.
const WISH_LASTS: Duration = Duration::from_millis(WANTS_MS);

#[derive(Debug)]
pub(super) struct Slots {
    total: u32,
    taken: u32,
    salt: Salt,
    /// Of nodes that are connected, or have pushed a lease that is not ended.
    shares: BTreeMap<NodeId, Share>,
}

/// What one node has of the slots.
#[derive(Debug, Default)]
struct Share {
    connected: bool,
    /// Credit that it has and has not used, what is being withdrawn included.
    promised: u32,
    /// Leases that it has pushed.
    leased: u32,
    wish: Option<Wish>,
    withdrawing: Option<Withdrawing>,
    /// Gave back less than it was asked for: what else it was promised is on its way as leases.
    is_dry: bool,
}

/// So many slots in all, leased and promised, are what the node could use.
#[derive(Clone, Copy, Debug)]
struct Wish {
    slots: u32,
    until: Instant,
}

/// An unanswered request to give slots back.
#[derive(Clone, Copy, Debug)]
struct Withdrawing {
    id: u64,
    slots: u32,
}

impl Share {
    fn used(&self) -> u32 {
        self.leased + self.promised
    }

    fn wants(&self, now: Instant) -> bool {
        self.wish.is_some_and(|wish| wish.until > now)
    }

    /// How many slots it wants beyond what it has.
    fn short(&self, now: Instant) -> u32 {
        self.wish.filter(|wish| wish.until > now).map_or(0, |wish| wish.slots.saturating_sub(self.used()))
    }
}

impl Slots {
    pub(super) fn new(total: u32, salt: Salt) -> Self {
        Self { total, taken: 0, salt, shares: BTreeMap::new() }
    }

    /// A node is connected, and knows of no credit.
    pub(super) fn connect(&mut self, node: NodeId) {
        self.disconnect(node);
        self.shares.entry(node).or_default().connected = true;
    }

    /// Whatever it was promised is free again, and it wants nothing any more.
    pub(super) fn disconnect(&mut self, node: NodeId) {
        if let Some(share) = self.shares.get_mut(&node) {
            *share = Share { leased: share.leased, ..Share::default() };
            self.tidy(node);
        }
    }

    /// A node has nothing to hand out any more: whatever it was promised is free again, if the node hears of it. Whether
    /// it has to.
    pub(super) fn revoke(&mut self, node: NodeId) -> bool {
        let Some(share) = self.shares.get_mut(&node).filter(|share| share.connected) else { return false };
        let promised = share.promised > 0;
        *share = Share { connected: true, leased: share.leased, ..Share::default() };
        promised
    }

    /// A node has leased something. Whether there is a slot for it: one that the node was promised, or else one that
    /// nobody was. There may be none, for what a leader pushed just before it was replaced can come long after the slots
    /// that it was promised have become its successor's.
    #[must_use]
    pub(super) fn used(&mut self, node: NodeId) -> bool {
        if let Some(share) = self.shares.get_mut(&node).filter(|share| share.promised > 0) {
            share.promised -= 1;
            return true;
        }
        self.unpromised() > 0
    }

    /// A lease of this node takes a slot.
    pub(super) fn take(&mut self, node: NodeId) {
        self.taken += 1;
        self.shares.entry(node).or_default().leased += 1;
    }

    /// The slot of a lease of this node is free.
    pub(super) fn give(&mut self, node: NodeId) {
        self.taken -= 1;
        if let Some(share) = self.shares.get_mut(&node) {
            share.leased -= 1;
            self.tidy(node);
        }
    }

    fn tidy(&mut self, node: NodeId) {
        if self.shares.get(&node).is_some_and(|share| !share.connected && share.leased == 0) {
            self.shares.remove(&node);
        }
    }

    fn free(&self) -> u32 {
        self.total.saturating_sub(self.taken).min(CREDIT_MAX)
    }

    /// Free slots that no node knows of.
    pub(super) fn unpromised(&self) -> u32 {
        self.free().saturating_sub(self.shares.values().map(|share| share.promised).sum())
    }

    /// How many of them this node is to be offered: those that wish for some first, each so that all of them have equally
    /// many as far as they want so many; what is left is spread evenly over those that lead.
    pub(super) fn due(&self, node: NodeId, leading: &BTreeSet<NodeId>, now: Instant) -> u32 {
        let unpromised = self.unpromised();
        let is_connected = |node: &NodeId| self.shares.get(node).is_some_and(|share| share.connected);
        if unpromised == 0 || !leading.contains(&node) || !is_connected(&node) {
            return 0;
        }
        if leading.len() == 1 {
            return unpromised;
        }
        // Of two that are equal, who has fewer leases comes first: most often the one whose slot has just become free.
        let mut shares: Vec<_> = leading.iter().filter_map(|node| Some((*node, self.shares.get(node)?))).collect();
        shares.retain(|(_, share)| share.connected);
        shares.sort_by_key(|(node, share)| (share.leased, self.salt.of(*node)));
        let wanted = |(node, share): &(NodeId, &Share)| (*node, share.used(), share.short(now));
        let first = spread(unpromised, shares.iter().map(wanted).collect());
        let left = unpromised - first.iter().map(|(_, gain)| gain).sum::<u32>();
        let even =
            |((node, share), (_, gain)): (&(NodeId, &Share), &(NodeId, u32))| (*node, share.promised + gain, left);
        let rest = spread(left, shares.iter().zip(&first).map(even).collect());
        first.iter().chain(&rest).filter(|(to, _)| *to == node).map(|(_, gain)| gain).sum()
    }

    /// A node is told of so many free slots.
    pub(super) fn offer(&mut self, node: NodeId, slots: u32) {
        if let Some(share) = self.shares.get_mut(&node) {
            share.promised += slots;
        }
    }

    /// A node says how many slots more it could use.
    pub(super) fn wants(&mut self, node: NodeId, wanted: u32, now: Instant) {
        let Some(share) = self.shares.get_mut(&node).filter(|share| share.connected) else { return };
        // What it has of promises are slots that were on their way when it said so: it does not know of them.
        let slots = share.leased.saturating_add(wanted.max(share.promised)).min(self.total);
        share.wish = (wanted > 0).then_some(Wish { slots, until: now + WISH_LASTS });
        self.shares.values_mut().for_each(|share| share.is_dry = false);
    }

    /// Takes promises back from nodes that want nothing, for those that do: from whom, and how many. At most one request
    /// to a node is unanswered at a time; `next_id` tells them apart.
    pub(super) fn reclaim(&mut self, now: Instant, next_id: &mut u64) -> Vec<(NodeId, u32, u64)> {
        let wanted: u32 = self.shares.values().map(|share| share.short(now)).fold(0, u32::saturating_add);
        let coming = self.shares.values().filter_map(|share| share.withdrawing).map(|asked| asked.slots).sum::<u32>();
        let mut missing = wanted.saturating_sub(self.unpromised()).saturating_sub(coming);
        if missing == 0 {
            return Vec::new();
        }
        let idle = self.shares.iter_mut().filter(|(_, share)| {
            share.promised > 0 && !share.wants(now) && !share.is_dry && share.withdrawing.is_none()
        });
        let mut idle: Vec<_> = idle.collect();
        idle.sort_by_key(|(_, share)| std::cmp::Reverse(share.promised));
        let mut asks = Vec::new();
        for (node, share) in idle {
            let slots = share.promised.min(missing);
            if slots == 0 {
                break;
            }
            missing -= slots;
            *next_id += 1;
            share.withdrawing = Some(Withdrawing { id: *next_id, slots });
            asks.push((*node, slots, *next_id));
        }
        asks
    }

    /// A node has answered a request to give slots back. The answer to one that a reconnect or a later word has overtaken
    /// says nothing: those slots are free already.
    pub(super) fn withdrawn(&mut self, node: NodeId, id: u64, slots: u32) {
        let Some(share) = self.shares.get_mut(&node) else { return };
        let Some(asked) = share.withdrawing.take_if(|asked| asked.id == id) else { return };
        share.is_dry = slots < asked.slots;
        share.promised = share.promised.saturating_sub(slots);
    }
}

/// Raises the lowest levels by so much in all, none by more than it has room for: who gains how much, in the same order.
/// Of what cannot be divided, the first get more. Whoever asks first, all get the same, if each takes all of its part.
fn spread(amount: u32, levels: Vec<(NodeId, u32, u32)>) -> Vec<(NodeId, u32)> {
    let gain = |level: u32, (_, at, room): &(NodeId, u32, u32)| level.saturating_sub(*at).min(*room);
    let cost = |level: u32| levels.iter().map(|one| u64::from(gain(level, one))).sum::<u64>();
    let (mut low, mut high) = (0, levels.iter().map(|(_, at, _)| at + amount).max().unwrap_or_default());
    // The highest level to which all can be raised.
    while low < high {
        let middle = high - (high - low) / 2;
        if cost(middle) <= u64::from(amount) { low = middle } else { high = middle - 1 }
    }
    let mut left = amount - cost(low) as u32;
    let gains = levels.iter().map(|one| {
        let (even, more) = (gain(low, one), gain(low + 1, one));
        let more = (more - even).min(left);
        left -= more;
        (one.0, even + more)
    });
    gains.collect()
}

/// Which node comes first where nothing else decides: another one for each worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Salt(pub u64);

impl Salt {
    fn of(self, node: NodeId) -> u64 {
        // Fibonacci hashing: neighbours end up far apart.
        (node.0 ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
impl Slots {
    /// Slots that leases have, that are promised, and that are neither.
    pub(super) fn count(&self) -> (u32, u32, u32) {
        let promised = self.shares.values().map(|share| share.promised).sum();
        (self.taken, promised, self.unpromised())
    }

    pub(super) fn promised_to(&self, node: NodeId) -> u32 {
        self.shares.get(&node).map_or(0, |share| share.promised)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const NODES: [NodeId; 3] = [A, B, C];

    /// Connected to all nodes, all of which lead.
    struct World {
        slots: Slots,
        now: Instant,
        last: u64,
    }

    impl World {
        fn new(total: u32) -> Self {
            let mut slots = Slots::new(total, Salt(0));
            NODES.iter().for_each(|node| slots.connect(*node));
            Self { slots, now: Instant::now(), last: 0 }
        }

        /// Each node in turn takes what it is due. Returns what they have then.
        fn offer(&mut self) -> [u32; 3] {
            let leading = BTreeSet::from(NODES);
            for node in NODES {
                let due = self.slots.due(node, &leading, self.now);
                self.slots.offer(node, due);
            }
            NODES.map(|node| self.slots.promised_to(node))
        }

        /// A node leases so many.
        fn lease(&mut self, node: NodeId, count: u32) {
            for _ in 0..count {
                assert!(self.slots.used(node));
                self.slots.take(node);
            }
        }

        fn wants(&mut self, node: NodeId, wanted: u32) -> Vec<(NodeId, u32)> {
            self.slots.wants(node, wanted, self.now);
            self.reclaim()
        }

        fn reclaim(&mut self) -> Vec<(NodeId, u32)> {
            let asks = self.slots.reclaim(self.now, &mut self.last);
            asks.into_iter().map(|(node, slots, _)| (node, slots)).collect()
        }

        fn withdrawn(&mut self, node: NodeId, slots: u32) {
            let id = self.slots.shares[&node].withdrawing.unwrap().id;
            self.slots.withdrawn(node, id, slots);
        }
    }

    #[test]
    fn what_a_node_wants_is_taken_from_those_that_have_most_and_stays_with_it() {
        let mut w = World::new(12);
        assert_eq!(w.offer(), [4, 4, 4]);
        w.lease(A, 4);
        w.lease(C, 1);
        assert_eq!(w.wants(A, 6), [(B, 4), (C, 2)]);
        assert_eq!(w.wants(A, 6), [], "what is on its way is not asked for again");
        w.withdrawn(B, 4);
        w.withdrawn(C, 2);
        assert_eq!(w.offer(), [6, 0, 1]);
        w.slots.wants(A, 0, w.now);
        assert_eq!((w.reclaim(), w.offer()), (vec![], [6, 0, 1]));
        // Used, and free again: evenly as ever.
        w.lease(A, 6);
        (0..10).for_each(|_| w.slots.give(A));
        assert_eq!(w.offer(), [4, 4, 3]);
    }

    #[test]
    fn a_slot_that_becomes_free_goes_to_the_node_that_wants_it_until_it_has_what_it_wants_or_its_wish_is_old() {
        let mut w = World::new(6);
        w.offer();
        NODES.iter().for_each(|node| w.lease(*node, 2));
        assert_eq!(w.wants(A, 1), [], "there is nothing to take back");
        w.slots.give(B);
        assert_eq!(w.offer(), [1, 0, 0]);
        w.slots.give(B);
        assert_eq!(w.offer(), [1, 1, 0]);
        w.lease(A, 1);
        w.slots.give(A);
        assert_eq!(w.offer(), [1, 1, 0], "it keeps what it has, as long as it wants it");
        w.lease(A, 1);
        w.now += WISH_LASTS;
        (0..2).for_each(|_| w.slots.give(A));
        assert_eq!(w.offer(), [1, 1, 1]);
    }

    #[test]
    fn two_that_want_share_evenly_and_take_nothing_from_each_other() {
        let mut w = World::new(8);
        w.slots.shares.get_mut(&C).unwrap().connected = false;
        assert_eq!(w.offer(), [4, 4, 0]);
        w.lease(A, 4);
        assert_eq!(w.wants(A, 100), [(B, 4)]);
        w.withdrawn(B, 4);
        w.offer();
        w.lease(A, 4);
        // All eight are A's now.
        assert_eq!(w.wants(B, 100), []);
        for _ in 0..4 {
            w.slots.give(A);
            w.offer();
        }
        assert_eq!(NODES.map(|node| w.slots.promised_to(node)), [0, 4, 0]);
        w.lease(B, 4);
        w.slots.give(B);
        assert_eq!(w.offer(), [0, 1, 0], "each gets its own back");
        w.slots.give(A);
        assert_eq!(w.offer(), [1, 1, 0]);
        assert_eq!(w.wants(A, 3), [], "what B has is B's while it wants it");
        assert_eq!(w.wants(B, 0), [(B, 1)]);
    }

    #[test]
    fn who_gives_back_less_than_asked_is_not_asked_again_before_somebody_wants_more_and_others_are() {
        let mut w = World::new(9);
        w.offer();
        w.lease(A, 3);
        assert_eq!(w.wants(A, 3), [(B, 3)]);
        // B leases two of them at this moment; the worker has not heard of it.
        w.withdrawn(B, 1);
        assert_eq!(w.offer(), [1, 2, 3]);
        assert_eq!(w.reclaim(), [(C, 2)]);
        w.withdrawn(C, 0);
        assert_eq!(w.reclaim(), []);
        w.lease(B, 2);
        assert_eq!(w.wants(A, 2), [(C, 1)]);
    }

    #[test]
    fn an_answer_that_a_reconnect_or_a_new_subscription_has_overtaken_says_nothing() {
        let mut w = World::new(9);
        w.offer();
        w.lease(A, 3);
        w.wants(A, 6);
        let [b, c] = [B, C].map(|node| w.slots.shares[&node].withdrawing.unwrap().id);
        w.slots.disconnect(B);
        w.slots.connect(B);
        assert!(w.slots.revoke(C) && !w.slots.revoke(C));
        let before = w.offer();
        w.slots.withdrawn(B, b, 3);
        w.slots.withdrawn(C, c, 3);
        assert_eq!((w.offer(), w.slots.count()), (before, (3, 6, 0)));
    }

    #[test]
    fn who_was_promised_nothing_gets_no_slot_that_another_was_promised() {
        let mut w = World::new(4);
        w.slots.offer(A, 4);
        assert!(w.slots.revoke(A));
        w.slots.offer(B, 3);
        // Both were on their way when A was told.
        assert!(w.slots.used(A));
        w.slots.take(A);
        assert!(!w.slots.used(A));
        w.lease(B, 3);
        assert_eq!(w.slots.count(), (4, 0, 0));
    }

    #[test]
    fn a_slot_without_a_reason_is_promised_to_another_node_by_each_worker() {
        let first = |salt| {
            let mut w = World::new(1);
            w.slots.salt = Salt(salt);
            w.offer()
        };
        let all: BTreeSet<_> = (0..32).map(first).collect();
        assert_eq!(all.len(), NODES.len());
    }

    proptest! {
        /// Everything that is there is promised, whoever asks first.
        #[test]
        fn all_get_the_same_whoever_asks_first(
            total in 1u32..50,
            leased in proptest::array::uniform3(0u32..10),
            promised in proptest::array::uniform3(0u32..10),
            wanted in proptest::array::uniform3(0u32..20),
            salt in any::<u64>(),
        ) {
            let leading = BTreeSet::from(NODES);
            let result = |order: [usize; 3]| {
                let mut w = World::new(total + 60);
                w.slots.salt = Salt(salt);
                for i in 0..3 {
                    w.slots.offer(NODES[i], promised[i]);
                    (0..leased[i]).for_each(|_| w.slots.take(NODES[i]));
                    w.slots.wants(NODES[i], wanted[i], w.now);
                }
                for i in order {
                    let due = w.slots.due(NODES[i], &leading, w.now);
                    w.slots.offer(NODES[i], due);
                }
                (NODES.map(|node| w.slots.promised_to(node)), w.slots.unpromised())
            };
            let first = result([0, 1, 2]);
            prop_assert_eq!(first.1, 0);
            for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                prop_assert_eq!(result(order), first);
            }
        }
    }
}
