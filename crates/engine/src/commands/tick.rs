//! Time has passed: what is due becomes ready, or is forgotten. Bounded; what is left is due at the next tick.

use std::ops::ControlFlow;

use coda_protocol::ids::{Millis, RunId, Timestamp, Work};
use coda_protocol::limits::{TICK_DELETE_BYTES_MAX, TICK_DELETE_MAX, TICK_DUE_MAX};
use coda_protocol::planted::{self, Bug};
use coda_protocol::reply::Reply;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::due;
use crate::lanes;
use crate::leases;
use crate::rows::Event;
use crate::tables::{DUE, Due, DueKey, Key, MEMO, RUN, RUN_INPUT, RUN_OUTCOME, TASK, TASK_OUTCOME, TOKEN};

pub(crate) fn apply(cx: &mut Cx<'_>) -> Outcome {
    let items = due::first(cx.kv, cx.group, cx.meta, TICK_DUE_MAX + 1);
    let mut left = Left { rows: TICK_DELETE_MAX, bytes: TICK_DELETE_BYTES_MAX };
    let mut next: Option<Timestamp> = None;
    for (i, key) in items.iter().enumerate() {
        let early = if planted::is(Bug::DueTooEarly) { Millis(400) } else { Millis(0) };
        if i == TICK_DUE_MAX || key.at > cx.now + early || left.is_nothing() {
            next = Some(key.at);
            break;
        }
        if !handle(cx, key, &mut left) {
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

/// What this tick may still delete: rows, and bytes of them that have to be read for it.
struct Left {
    rows: usize,
    bytes: usize,
}

impl Left {
    fn is_nothing(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }

    fn take(&mut self, rows: usize, bytes: usize) {
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Whether the item is dealt with; if not, the next tick goes on with it.
fn handle(cx: &mut Cx<'_>, key: &DueKey, left: &mut Left) -> bool {
    match key.what {
        Due::Ready(work) => {
            make_ready(cx, key.at, work);
            true
        }
        Due::Forget(Work::Task(task)) => {
            TASK.delete(cx.kv, cx.group, &task);
            TASK_OUTCOME.delete(cx.kv, cx.group, &task);
            left.take(2, 0);
            true
        }
        Due::Forget(Work::Run(run)) => forget_run(cx, run, left),
        Due::ForgetToken(token) => {
            TOKEN.delete(cx.kv, cx.group, &token);
            left.take(1, 0);
            true
        }
    }
}

fn make_ready(cx: &mut Cx<'_>, at: Timestamp, work: Work) {
    match work {
        Work::Task(task) => {
            let mut row = TASK.get(cx.kv, cx.group, &task).expect("the due index names live tasks");
            row.life = row.life.on(Event::Due).expect("due work is delayed or retrying");
            lanes::end_delay(cx, &row.lane(), at, work);
            leases::enter_task(cx, work, &row);
            TASK.put(cx.kv, cx.group, &task, &row);
        }
        Work::Run(run) => {
            let mut row = RUN.get(cx.kv, cx.group, &run).expect("the due index names live runs");
            row.life = row.life.on(Event::Due).expect("due work is delayed or retrying");
            lanes::end_delay(cx, &row.lane(), at, work);
            leases::enter_run(cx, work, &row);
            RUN.put(cx.kv, cx.group, &run, &row);
        }
    }
}

/// Deletes a run's memo, a bounded part at a time, then the run.
fn forget_run(cx: &mut Cx<'_>, run: RunId, left: &mut Left) -> bool {
    let mut keys = Vec::new();
    let mut more = false;
    MEMO.scan(
        cx.kv,
        cx.group,
        |out| run.write(out),
        |key, row| {
            more = left.is_nothing();
            if more {
                return ControlFlow::Break(());
            }
            left.take(1, row.bytes());
            keys.push(key);
            ControlFlow::Continue(())
        },
    );
    for key in &keys {
        MEMO.delete(cx.kv, cx.group, key);
    }
    if more {
        return false;
    }
    left.take(3, 0);
    RUN.delete(cx.kv, cx.group, &run);
    RUN_INPUT.delete(cx.kv, cx.group, &run);
    RUN_OUTCOME.delete(cx.kv, cx.group, &run);
    true
}
