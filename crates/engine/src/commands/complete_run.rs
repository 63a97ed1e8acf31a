//! A leased run has ended, or failed this attempt. A retried run keeps its results and forgets its failures.

use coda_protocol::ids::Work;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::CompleteRun;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::rows::{Event, Life};
use crate::tables::RUN;
use crate::{lanes, leases, steps};

pub(crate) fn apply(cx: &mut Cx<'_>, complete: &CompleteRun) -> Outcome {
    let run = complete.run;
    let mut row = RUN.get(cx.kv, cx.group, &run).ok_or_else(|| Reject::NoSuchRun { run: run.to_string() })?;
    if row.life == (Life::Ended { by: Some(complete.lease) }) {
        return Ok(Reply::Done);
    }
    let held = row.life.lease();
    let retry_at = match &complete.outcome {
        Err(failure) if failure.retryable && row.attempt <= row.policy.max_retries => {
            Some(cx.now + row.policy.delay(row.attempt, leases::chance(&Work::Run(run), row.attempt)))
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
    let Some(at) = retry_at else {
        steps::end_run(cx, run, row, complete.outcome.clone());
        return Ok(Reply::Done);
    };
    row.attempt += 1;
    row.lost = 0;
    lanes::delay(cx, &lane, at, Work::Run(run));
    RUN.put(cx.kv, cx.group, &run, &row);
    Ok(Reply::Done)
}
