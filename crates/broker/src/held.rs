//! How many leases each session holds, or is about to get: what keeps all of them within their bound. And who is behind
//! with reading what was leased to it, and gets no more meanwhile.
//!
//! Soft, and exact while its leader leads: a new one counts in state once, and from then on whatever is granted and
//! whatever ends passes here.

use std::collections::BTreeMap;

use coda_protocol::ids::SessionId;
use coda_protocol::limits::LEASES_PER_SESSION_MAX;
use parking_lot::Mutex;

const MAX: u32 = LEASES_PER_SESSION_MAX as u32;

#[derive(Debug, Default)]
pub struct Held {
    /// Those with anything to count.
    sessions: Mutex<BTreeMap<SessionId, Counts>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    held: u32,
    /// Slots of entries that are not committed yet.
    granted: u32,
    behind: bool,
}

impl Counts {
    fn room(self) -> u32 {
        if self.behind { 0 } else { MAX.saturating_sub(self.held + self.granted) }
    }
}

impl Held {
    /// Begins with what state says.
    pub fn begin(&self, held: BTreeMap<SessionId, u32>) {
        let counts = held.into_iter().map(|(session, held)| (session, Counts { held, ..Counts::default() }));
        *self.sessions.lock() = counts.collect();
    }

    /// Whether the session holds as many leases as it may.
    #[must_use]
    pub fn is_full(&self, session: SessionId) -> bool {
        self.sessions.lock().get(&session).is_some_and(|counts| counts.held >= MAX)
    }

    /// Says whether the session is behind; whether that is news.
    pub fn set_behind(&self, session: SessionId, behind: bool) -> bool {
        let mut news = false;
        self.change(session, |counts| news = std::mem::replace(&mut counts.behind, behind) != behind);
        news
    }

    /// How many more leases the session may get.
    #[must_use]
    pub fn room(&self, session: SessionId) -> u32 {
        self.sessions.lock().get(&session).copied().unwrap_or_default().room()
    }

    /// Grants as many of the slots as there is room for.
    #[must_use]
    pub fn grant(&self, session: SessionId, slots: u32) -> u32 {
        let mut sessions = self.sessions.lock();
        let counts = sessions.entry(session).or_default();
        let slots = slots.min(counts.room());
        counts.granted += slots;
        slots
    }

    /// An entry with slots that were granted is committed: those that found work are leases now.
    pub fn committed(&self, session: SessionId, granted: u32, unused: u32) {
        self.change(session, |counts| {
            counts.granted = counts.granted.saturating_sub(granted);
            counts.held += granted.saturating_sub(unused);
        });
    }

    /// So many leases have ended.
    pub fn ended(&self, session: SessionId, count: u32) {
        self.change(session, |counts| {
            // An entry that a leader of this term left behind may be applied after the count: its leases are not in it.
            counts.held = counts.held.saturating_sub(count);
        });
    }

    fn change(&self, session: SessionId, change: impl FnOnce(&mut Counts)) {
        let mut sessions = self.sessions.lock();
        let counts = sessions.entry(session).or_default();
        change(counts);
        if *counts == Counts::default() {
            sessions.remove(&session);
        }
    }

    /// Sessions that hold anything.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sessions.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId([1; 16]);

    #[test]
    fn no_session_is_granted_more_than_it_may_hold_whatever_is_under_way() {
        let held = Held::default();
        held.begin(BTreeMap::from([(SESSION, MAX - 10)]));
        assert_eq!(held.grant(SESSION, 7), 7);
        assert_eq!(held.grant(SESSION, 7), 3, "another entry, while the first is under way");
        assert_eq!((held.grant(SESSION, 7), held.room(SESSION)), (0, 0));
        held.committed(SESSION, 7, 5);
        assert_eq!(held.room(SESSION), 5);
        held.committed(SESSION, 3, 0);
        assert_eq!(held.room(SESSION), 5);
        held.ended(SESSION, 2);
        assert_eq!(held.room(SESSION), 7);
    }

    #[test]
    fn a_session_that_is_behind_is_granted_nothing_until_it_has_caught_up() {
        let held = Held::default();
        assert!(held.set_behind(SESSION, true));
        assert!(!held.set_behind(SESSION, true), "said once");
        assert_eq!((held.room(SESSION), held.grant(SESSION, 3)), (0, 0));
        assert!(!held.is_full(SESSION));
        assert!(held.set_behind(SESSION, false));
        assert_eq!((held.count(), held.grant(SESSION, 3)), (0, 3));
    }

    #[test]
    fn a_session_that_holds_nothing_costs_nothing() {
        let held = Held::default();
        assert_eq!(held.room(SESSION), MAX);
        let granted = held.grant(SESSION, 2);
        held.committed(SESSION, granted, 1);
        assert_eq!(held.count(), 1);
        held.ended(SESSION, 1);
        assert_eq!(held.count(), 0);
        let granted = held.grant(SESSION, 2);
        held.committed(SESSION, granted, granted);
        assert_eq!(held.count(), 0);
    }
}
