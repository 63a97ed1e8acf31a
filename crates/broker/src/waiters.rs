//! Who waits for the end of a run or task. Soft: a client that lost its answer asks again.

use std::collections::{BTreeMap, BTreeSet};

use coda_protocol::ids::{Position, SessionId, Work};
use coda_protocol::payload::WorkOutcome;
use coda_protocol::reply::Reply;
use parking_lot::Mutex;

use crate::dispatch::Epoch;
use crate::proposer::ReplyTo;

#[derive(Default)]
pub struct Waiters {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_work: BTreeMap<Work, Vec<ReplyTo>>,
    by_session: BTreeMap<(SessionId, Epoch), BTreeSet<Work>>,
}

impl Waiters {
    /// Answers when the work ends.
    pub fn add(&self, work: Work, reply: ReplyTo) {
        // Nobody would ever take a waiter away that nobody waits on.
        let Some(session) = reply.session() else { return };
        let mut inner = self.inner.lock();
        // Its connection went while the question waited for its turn: `gone` was here already, or waits for the lock.
        if reply.is_closed() {
            return;
        }
        inner.by_session.entry(session).or_default().insert(work);
        inner.by_work.entry(work).or_default().push(reply);
    }

    /// The work has ended.
    pub fn ended(&self, work: Work, outcome: &WorkOutcome, position: Position) {
        let waiting = {
            let mut inner = self.inner.lock();
            let waiting = inner.by_work.remove(&work).unwrap_or_default();
            for reply in &waiting {
                inner.forget(reply, work);
            }
            waiting
        };
        for reply in waiting {
            reply.answer(position, Ok(Reply::Ended(outcome.clone())));
        }
    }

    /// Work that somebody waits for, and connections that wait.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.by_work.len(), inner.by_session.len())
    }

    /// The session's connection is gone, and whoever waited on it with it.
    pub fn gone(&self, session: SessionId, epoch: Epoch) {
        let mut inner = self.inner.lock();
        for work in inner.by_session.remove(&(session, epoch)).unwrap_or_default() {
            if let Some(waiting) = inner.by_work.get_mut(&work) {
                waiting.retain(|reply| reply.session() != Some((session, epoch)));
                if waiting.is_empty() {
                    inner.by_work.remove(&work);
                }
            }
        }
    }
}

impl Inner {
    fn forget(&mut self, reply: &ReplyTo, work: Work) {
        let Some(session) = reply.session() else { return };
        let Some(works) = self.by_session.get_mut(&session) else { return };
        works.remove(&work);
        if works.is_empty() {
            self.by_session.remove(&session);
        }
    }
}

#[cfg(test)]
mod tests {
    use coda_protocol::ids::RunId;
    use coda_protocol::payload::Payload;

    use super::*;
    use crate::outbox;

    const SESSION: SessionId = SessionId([1; 16]);
    const RUN: Work = Work::Run(RunId([2; 16]));

    #[test]
    fn a_question_that_outlives_its_connection_in_the_proposers_queue_leaves_nothing_behind() {
        let (outbox, _outgoing) = outbox::channel(&outbox::Outboxes::default());
        let ask = |id| ReplyTo::session_of(SESSION, Epoch(1), outbox.clone(), id);
        let waiters = Waiters::default();
        waiters.add(RUN, ask(1));
        outbox.close();
        waiters.gone(SESSION, Epoch(1));
        waiters.add(RUN, ask(2));
        waiters.add(RUN, ReplyTo::nobody());
        assert_eq!(waiters.count(), (0, 0));
    }

    #[tokio::test]
    async fn everyone_who_waits_is_answered_once() {
        let (outbox, mut outgoing) = outbox::channel(&outbox::Outboxes::default());
        let waiters = Waiters::default();
        for id in 1..4 {
            outbox.expect_answer();
            waiters.add(RUN, ReplyTo::session_of(SESSION, Epoch(1), outbox.clone(), id));
        }
        let outcome = Ok(Payload::json("7"));
        waiters.ended(RUN, &outcome, Position::default());
        waiters.ended(RUN, &outcome, Position::default());
        let mut frames = Vec::new();
        assert_eq!(outgoing.take(&mut frames, 9).await, 3);
        assert_eq!(waiters.count(), (0, 0));
    }
}
