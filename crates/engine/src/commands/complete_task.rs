//! A leased task has ended, or failed this attempt.

use coda_protocol::ids::Work;
use coda_protocol::planted::{self, Bug};
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::CompleteTask;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::rows::{Event, Life};
use crate::tables::TASK;
use crate::{lanes, leases, steps};

pub(crate) fn apply(cx: &mut Cx<'_>, complete: &CompleteTask) -> Outcome {
    let task = complete.task;
    // A step's task is gone once it has ended: whoever completes it again learns just that.
    let mut row = TASK.get(cx.kv, cx.group, &task).ok_or(Reject::AlreadyEnded)?;
    if row.life == (Life::Ended { by: Some(complete.lease) }) {
        return Ok(Reply::Done);
    }
    let held = row.life.lease();
    let dropped = u32::from(planted::is(Bug::RetryDropped));
    let retry_at = match &complete.outcome {
        Err(failure) if failure.retryable && row.failures + dropped < row.policy.max_retries => {
            let retry = row.failures + 1;
            Some(cx.now + row.policy.delay(retry, leases::chance(&Work::Task(task), retry)))
        }
        Ok(_) | Err(_) => None,
    };
    row.life = row.life.on(match retry_at {
        Some(at) => Event::RetryAt(complete.lease, at),
        None => Event::Ended(complete.lease),
    })?;
    let (session, lease) = held.expect("only leased work ends or is retried");
    let lane = row.lane();
    leases::forget(cx, session, lease, &lane);
    if let Err(failure) = &complete.outcome {
        row.failures += 1;
        row.last_failure = Some(failure.clone());
    }
    let Some(at) = retry_at else {
        steps::end_task(cx, task, row, complete.outcome.clone());
        return Ok(Reply::Done);
    };
    lanes::delay(cx, &lane, at, Work::Task(task));
    TASK.put(cx.kv, cx.group, &task, &row);
    Ok(Reply::Done)
}
