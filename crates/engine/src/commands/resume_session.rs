//! A session is back after its connection or its node was gone. What it does not name, it never got: handed back.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use coda_protocol::ids::{LeaseId, SessionId, Work};
use coda_protocol::planted::{self, Bug};
use coda_protocol::reply::Reply;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::effect::Effect;
use crate::leases::{self, Reason};
use crate::tables::{LEASE, RUN};

pub(crate) fn apply(cx: &mut Cx<'_>, session: SessionId, held: &[LeaseId]) -> Outcome {
    let mut lost: BTreeSet<LeaseId> = held.iter().copied().collect();
    for (lease, work) in leases_of(cx, session, usize::MAX) {
        if !lost.remove(&lease) {
            leases::take_back(cx, session, lease, work, Reason::Released);
        } else if let Work::Run(run) = work
            && !planted::is(Bug::ResumedRunIsToldNothing)
        {
            let workflow = RUN.get(cx.kv, cx.group, &run).expect("leased runs have a row").workflow;
            cx.effects.push(Effect::MemoWanted { session, workflow, run, lease });
        }
    }
    Ok(Reply::Resumed { lost: lost.into_iter().collect() })
}

/// The leases that a session holds, oldest first.
pub(crate) fn leases_of(cx: &Cx<'_>, session: SessionId, max: usize) -> Vec<(LeaseId, Work)> {
    let mut leases = Vec::new();
    LEASE.scan(
        cx.kv,
        cx.group,
        |out| out.extend_from_slice(&session.0),
        |key, work| {
            leases.push((key.lease, work));
            if leases.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    );
    leases
}
