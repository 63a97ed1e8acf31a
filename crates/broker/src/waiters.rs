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
        let mut inner = self.inner.lock();
        if let Some(session) = reply.session() {
            inner.by_session.entry(session).or_default().insert(work);
        }
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
