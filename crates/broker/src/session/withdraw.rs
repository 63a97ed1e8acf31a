//! A worker takes back free slots that it has promised to this node: another node wants them.
//!
//! What is free is given back, in one step with its being free. Slots that ride on an entry, or whose lease is on its way,
//! are not: if they come back unused, they stay promised to this node, and the worker counts them so.

use coda_protocol::ids::Position;
use coda_protocol::reply::Reply;
use coda_protocol::request::Withdraw;

use super::Session;
use crate::proposer::ReplyTo;

/// Nothing is given back. A refusal would make the worker ask again later, when it may mean other slots.
pub(super) fn nothing(reply: ReplyTo) {
    reply.answer(Position::NOWHERE, Ok(Reply::Withdrawn { slots: 0 }));
}

impl Session {
    pub(super) fn withdraw(&self, Withdraw { queue, kind, slots }: &Withdraw, reply: ReplyTo) {
        // Whoever does not want to know how many would take them for promised for ever.
        if reply.session().is_none() {
            return;
        }
        let Some(served) = self.serving.lock().queues.get(queue).cloned() else { return nothing(reply) };
        let slots = served.slots.take(*kind, *slots);
        reply.answer(Position::NOWHERE, Ok(Reply::Withdrawn { slots }));
        if slots > 0 {
            self.host.routes.all().iter().for_each(|router| router.slots_gone(queue));
        }
    }
}
