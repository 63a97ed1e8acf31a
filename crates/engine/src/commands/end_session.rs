//! A session is gone: what it held is ready again at once.

use coda_protocol::ids::SessionId;
use coda_protocol::limits::LEASES_PER_END_MAX;
use coda_protocol::reply::Reply;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::commands::resume_session::leases_of;
use crate::effect::Effect;
use crate::leases::{self, Reason};

pub(crate) fn apply(cx: &mut Cx<'_>, session: SessionId) -> Outcome {
    let leases = leases_of(cx, session, LEASES_PER_END_MAX);
    let more = leases.len() == LEASES_PER_END_MAX;
    for (lease, work) in leases {
        leases::take_back(cx, session, lease, work, Reason::Lost);
        // It may only have seemed gone.
        cx.effects.push(Effect::LeaseLost { session, work, lease });
    }
    if more {
        cx.effects.push(Effect::EndSessionAgain(session));
    }
    Ok(Reply::Done)
}
