//! Start a run. Starting it twice is starting it once.

use coda_protocol::ids::{Millis, RunId, Work};
use coda_protocol::payload::Payload;
use coda_protocol::planted::{self, Bug};
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::StartRun;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::rows::{Life, RunRow};
use crate::tables::{RUN, RUN_INPUT};
use crate::{lanes, leases};

pub(crate) fn apply(cx: &mut Cx<'_>, start: &StartRun) -> Outcome {
    if let Some(row) = RUN.get(cx.kv, cx.group, &start.run)
        && !planted::is(Bug::RunStartsTwice)
    {
        if row.workflow != start.workflow {
            return Err(Reject::IdConflict { id: start.run.to_string() });
        }
        return Ok(Reply::Started { existed: true });
    }
    if planted::is(Bug::RunStartsTwice) {
        RUN_INPUT.delete(cx.kv, cx.group, &start.run);
        RUN.delete(cx.kv, cx.group, &start.run);
    }
    let seq = cx.next_seq();
    let row = RunRow {
        workflow: start.workflow.clone(),
        queue: start.queue.clone(),
        priority: start.priority,
        policy: start.policy,
        created: cx.now,
        seq,
        life: Life::Ready,
        attempt: 1,
        lost: 0,
        steps_pending: 0,
        steps_ended: 0,
        has_memo: false,
        parent: None,
    };
    accept(cx, start.run, row, &start.input, start.delay);
    Ok(Reply::Started { existed: false })
}

/// Writes a new run, ready now or after its delay.
pub(crate) fn accept(cx: &mut Cx<'_>, run: RunId, mut row: RunRow, input: &Payload, delay: Millis) {
    RUN_INPUT.insert(cx.kv, cx.group, &run, input);
    let work = Work::Run(run);
    if delay == Millis(0) {
        leases::enter_run(cx, work, &row);
    } else {
        let until = cx.now + delay;
        row.life = Life::Delayed { until };
        lanes::delay(cx, &row.lane(), until, work);
    }
    RUN.insert(cx.kv, cx.group, &run, &row);
}
