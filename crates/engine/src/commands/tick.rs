//! Time has passed: what is due becomes ready, or is forgotten. Bounded; what is left is due at the next tick.

use std::ops::ControlFlow;

use coda_protocol::ids::{RunId, Timestamp, Work};
use coda_protocol::limits::{TICK_DELETE_MAX, TICK_DUE_MAX};
use coda_protocol::reply::Reply;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::due;
use crate::leases;
use crate::rows::Event;
use crate::tables::{DUE, Due, DueKey, Key, MEMO, RUN, RUN_INPUT, RUN_OUTCOME, TASK, TASK_OUTCOME};

pub(crate) fn apply(cx: &mut Cx<'_>) -> Outcome {
    let items = due::first(cx.kv, cx.group, cx.meta, TICK_DUE_MAX + 1);
    let mut rows_left = TICK_DELETE_MAX;
    let mut next: Option<Timestamp> = None;
    for (i, key) in items.iter().enumerate() {
        if i == TICK_DUE_MAX || key.at > cx.now || rows_left == 0 {
            next = Some(key.at);
            break;
        }
        if !handle(cx, key, &mut rows_left) {
            next = Some(key.at);
            break;
        }
        DUE.delete(cx.kv, cx.group, key);
        cx.meta.due_from = key.at;
    }
    cx.wake = match (cx.wake, next) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Ok(Reply::Done)
}

/// Whether the item is dealt with; if not, the next tick goes on with it.
fn handle(cx: &mut Cx<'_>, key: &DueKey, rows_left: &mut usize) -> bool {
    match key.what {
        Due::Ready(work) => {
            make_ready(cx, work);
            true
        }
        Due::Forget(Work::Task(task)) => {
            TASK.delete(cx.kv, cx.group, &task);
            TASK_OUTCOME.delete(cx.kv, cx.group, &task);
            *rows_left = rows_left.saturating_sub(2);
            true
        }
        Due::Forget(Work::Run(run)) => forget_run(cx, run, rows_left),
    }
}

fn make_ready(cx: &mut Cx<'_>, work: Work) {
    match work {
        Work::Task(task) => {
            let mut row = TASK.get(cx.kv, cx.group, &task).expect("the due index names live tasks");
            row.life = row.life.on(Event::Due).expect("due work is delayed or retrying");
            cx.lane(&row.lane()).delayed -= 1;
            leases::enter_task(cx, work, &row);
            TASK.put(cx.kv, cx.group, &task, &row);
        }
        Work::Run(run) => {
            let mut row = RUN.get(cx.kv, cx.group, &run).expect("the due index names live runs");
            row.life = row.life.on(Event::Due).expect("due work is delayed or retrying");
            cx.lane(&row.lane()).delayed -= 1;
            leases::enter_run(cx, work, &row);
            RUN.put(cx.kv, cx.group, &run, &row);
        }
    }
}

/// Deletes a run's memo, a bounded part at a time, then the run.
fn forget_run(cx: &mut Cx<'_>, run: RunId, rows_left: &mut usize) -> bool {
    let mut keys = Vec::new();
    MEMO.scan(
        cx.kv,
        cx.group,
        |out| run.write(out),
        |key, _| {
            keys.push(key);
            if keys.len() <= *rows_left { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    );
    for key in keys.iter().take(*rows_left) {
        MEMO.delete(cx.kv, cx.group, key);
    }
    if keys.len() > *rows_left {
        *rows_left = 0;
        return false;
    }
    *rows_left = rows_left.saturating_sub(keys.len() + 3);
    RUN.delete(cx.kv, cx.group, &run);
    RUN_INPUT.delete(cx.kv, cx.group, &run);
    RUN_OUTCOME.delete(cx.kv, cx.group, &run);
    true
}
