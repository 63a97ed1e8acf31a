//! Hand leased work back unharmed: a worker drains.

use coda_protocol::ids::{LeaseId, SessionId, Work};
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::Release;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::leases::{self, Reason};
use crate::tables::{RUN, TASK};

pub(crate) fn apply(cx: &mut Cx<'_>, release: &Release) -> Outcome {
    let session = holder(cx, release.work, release.lease)?;
    leases::take_back(cx, session, release.lease, release.work, Reason::Released);
    Ok(Reply::Done)
}

/// The session that holds the work under this lease.
fn holder(cx: &Cx<'_>, work: Work, lease: LeaseId) -> Result<SessionId, Reject> {
    let life = match work {
        Work::Task(task) => TASK.get(cx.kv, cx.group, &task).map(|row| row.life),
        Work::Run(run) => RUN.get(cx.kv, cx.group, &run).map(|row| row.life),
    };
    life.ok_or(Reject::AlreadyEnded)?.holder(lease)
}
