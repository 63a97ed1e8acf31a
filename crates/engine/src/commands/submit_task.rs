//! Put a task of its own into a queue. Submitting it twice is submitting it once.

use coda_protocol::ids::{Millis, TaskId, Work};
use coda_protocol::payload::Payload;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::SubmitTask;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::rows::{Life, TaskRow};
use crate::tables::{TASK, TASK_ARGS};
use crate::{lanes, leases};

pub(crate) fn apply(cx: &mut Cx<'_>, submit: &SubmitTask) -> Outcome {
    if let Some(row) = TASK.get(cx.kv, cx.group, &submit.task) {
        if row.name != submit.name {
            return Err(Reject::IdConflict { id: submit.task.to_string() });
        }
        return Ok(Reply::Started { existed: true });
    }
    let row = TaskRow {
        name: submit.name.clone(),
        queue: submit.queue.clone(),
        priority: submit.priority,
        policy: submit.policy,
        created: cx.now,
        seq: cx.next_seq(),
        life: Life::Ready,
        attempts: 0,
        failures: 0,
        lost: 0,
        last_failure: None,
        parent: None,
    };
    accept(cx, submit.task, row, &submit.args, submit.delay);
    Ok(Reply::Started { existed: false })
}

/// Writes a new task, ready now or after its delay.
pub(crate) fn accept(cx: &mut Cx<'_>, task: TaskId, mut row: TaskRow, args: &Payload, delay: Millis) {
    TASK_ARGS.insert(cx.kv, cx.group, &task, args);
    let work = Work::Task(task);
    if delay == Millis(0) {
        leases::enter_task(cx, work, &row);
    } else {
        let until = cx.now + delay;
        row.life = Life::Delayed { until };
        lanes::delay(cx, &row.lane(), until, work);
    }
    TASK.insert(cx.kv, cx.group, &task, &row);
}
