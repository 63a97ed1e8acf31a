//! The log that is kept for followers who are sent a snapshot.
//!
//! A snapshot brings a follower to where its sender was when it began. If the log from there on were gone by the time it
//! has arrived, the follower would need another one, and under constant load never be done. So the log behind a snapshot is
//! owed to whom it is sent to, until that has caught up: within bounds, because the disk belongs to everybody.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::stopwatch::Stopwatch;

/// Past this much log of a group nothing of it is owed to anybody.
pub(crate) const OWED_LOG_BYTES_MAX: u64 = 1 << 30;
/// How long a follower has, once it has the snapshot, to be as far as what is let go of.
pub(crate) const OWED_TIME: Duration = Duration::from_secs(60);

/// What a group owes to whom.
#[derive(Default)]
pub(crate) struct Owed(Mutex<Debts>);

#[derive(Default)]
struct Debts {
    open: Vec<Debt>,
    last_id: u64,
}

struct Debt {
    id: u64,
    to: u64,
    /// The last entry that is in the snapshot.
    from: u64,
    /// Since the follower had it, or it was given up.
    sent: Stopwatch,
}

/// A snapshot on its way.
pub(crate) struct Sending {
    owed: Arc<Owed>,
    id: u64,
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut debts = self.owed.0.lock();
        if let Some(debt) = debts.open.iter_mut().find(|debt| debt.id == self.id) {
            debt.sent.restart();
        }
    }
}

impl Owed {
    /// From now on the log behind entry `from` is owed to node `to`.
    pub fn owe(self: &Arc<Self>, to: u64, from: u64) -> Sending {
        let mut debts = self.0.lock();
        debts.last_id += 1;
        let id = debts.last_id;
        // Of two snapshots the follower needs what is behind the later one.
        debts.open.retain(|debt| debt.to != to || debt.sent.elapsed().is_none());
        debts.open.push(Debt { id, to, from, sent: Stopwatch::default() });
        Sending { owed: self.clone(), id }
    }

    /// How far the log may be let go of, which should be up to `upto`, while `kept` bytes of it are there and nodes have
    /// what `matched` says.
    pub fn purge_upto(&self, upto: u64, kept: u64, matched: impl Fn(u64) -> u64) -> u64 {
        let open = &mut self.0.lock().open;
        if kept > OWED_LOG_BYTES_MAX && !open.is_empty() {
            tracing::warn!(kept, "the log grows faster than a snapshot is sent: who receives it will need another one");
            open.clear();
        }
        open.retain(|debt| is_owed(upto, matched(debt.to), debt.sent.elapsed()));
        open.iter().map(|debt| debt.from).fold(upto, u64::min)
    }
}

/// Whether a follower that has what `matched` says may still come for what is before `upto`.
fn is_owed(upto: u64, matched: u64, since_sent: Option<Duration>) -> bool {
    since_sent.is_none_or(|passed| matched < upto && passed < OWED_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: u64 = 3;

    fn upto(owed: &Owed, wanted: u64, matched: u64) -> u64 {
        owed.purge_upto(wanted, 0, |_| matched)
    }

    #[test]
    fn nothing_is_owed_to_who_is_sent_nothing() {
        assert_eq!(upto(&Owed::default(), 900, 0), 900);
    }

    #[test]
    fn the_log_behind_a_snapshot_is_kept_until_it_was_followed() {
        let owed = Arc::new(Owed::default());
        let sending = owed.owe(NODE, 100);
        assert_eq!(upto(&owed, 50, 0), 50);
        assert_eq!(upto(&owed, 900, 0), 100);
        drop(sending);
        assert_eq!(upto(&owed, 900, 100), 100, "it has the snapshot, and nothing behind it");
        assert_eq!(upto(&owed, 900, 900), 900);
        assert_eq!(upto(&owed, 950, 0), 950, "the debt is paid");
    }

    #[test]
    fn who_does_not_follow_is_waited_for_so_long() {
        assert!(is_owed(900, 0, None), "it does not have the snapshot yet");
        assert!(is_owed(900, 100, Some(OWED_TIME / 2)));
        assert!(!is_owed(900, 900, Some(OWED_TIME / 2)));
        assert!(!is_owed(900, 100, Some(OWED_TIME)));
    }

    #[test]
    fn another_snapshot_takes_the_place_of_the_one_before() {
        let owed = Arc::new(Owed::default());
        drop(owed.owe(NODE, 100));
        let other = owed.owe(NODE + 1, 300);
        let again = owed.owe(NODE, 500);
        assert_eq!(upto(&owed, 900, 0), 300);
        drop((other, again));
        assert_eq!(owed.purge_upto(900, 0, |node| if node == NODE { 500 } else { 900 }), 500);
    }

    #[test]
    fn no_more_than_so_many_bytes_are_owed() {
        let owed = Arc::new(Owed::default());
        let sending = owed.owe(NODE, 100);
        assert_eq!(owed.purge_upto(900, OWED_LOG_BYTES_MAX, |_| 0), 100);
        assert_eq!(owed.purge_upto(900, OWED_LOG_BYTES_MAX + 1, |_| 0), 900);
        drop(sending);
        assert_eq!(upto(&owed, 900, 0), 900);
    }
}
