//! Steps: how the end of a task or run is recorded, and reaches the run it is a step of.

use coda_protocol::ids::{Millis, RunId, TaskId, Work};
use coda_protocol::limits::RETENTION_MS;
use coda_protocol::payload::WorkOutcome;
use coda_protocol::planted::{self, Bug};
use coda_protocol::push::StepEnded;
use coda_protocol::request::StepKey;

use crate::apply::Cx;
use crate::effect::Effect;
use crate::rows::{Event, Life, MemoRow, Parent, RunRow, TaskRow};
use crate::tables::{Due, MEMO, MemoKey, RUN, RUN_OUTCOME, TASK, TASK_ARGS, TASK_OUTCOME};
use crate::{due, leases};

/// Records how a task ended. A step's outcome lives in its run's memo and the task itself is gone; a task of its own
/// is kept for its retention time.
pub(crate) fn end_task(cx: &mut Cx<'_>, task: TaskId, row: TaskRow, outcome: WorkOutcome) {
    TASK_ARGS.delete(cx.kv, cx.group, &task);
    if let Some(parent) = &row.parent {
        TASK.delete(cx.kv, cx.group, &task);
        return end_step(cx, parent, Work::Task(task), row.attempts, &outcome);
    }
    TASK.put(cx.kv, cx.group, &task, &row);
    TASK_OUTCOME.insert(cx.kv, cx.group, &task, &outcome);
    due::add(cx, cx.now + Millis(RETENTION_MS), Due::Forget(Work::Task(task)));
    cx.effects.push(Effect::TaskEnded { task, outcome });
}

/// Records how a run ended.
pub(crate) fn end_run(cx: &mut Cx<'_>, run: RunId, row: RunRow, outcome: WorkOutcome) {
    if let Some(parent) = &row.parent {
        end_step(cx, parent, Work::Run(run), row.attempt, &outcome);
    }
    RUN.put(cx.kv, cx.group, &run, &row);
    RUN_OUTCOME.insert(cx.kv, cx.group, &run, &outcome);
    due::add(cx, cx.now + Millis(RETENTION_MS), Due::Forget(Work::Run(run)));
    cx.effects.push(Effect::RunEnded { run, outcome });
}

/// Records a spawned step's outcome and tells its run, which may be resident or parked.
fn end_step(cx: &mut Cx<'_>, parent: &Parent, child: Work, attempts: u32, outcome: &WorkOutcome) {
    let run = parent.run;
    let key = memo_key(run, &parent.key);
    // A run may be forgotten before its steps end, and its id in use again: then nobody waits for this one.
    let Some(MemoRow::Pending { work, run_attempt }) = MEMO.get(cx.kv, cx.group, &key) else { return };
    if work != child {
        return;
    }
    let mut row = RUN.get(cx.kv, cx.group, &run).expect("a memo belongs to a run");
    let memo = match outcome {
        Ok(result) => MemoRow::Ended { result: result.clone(), attempts },
        Err(failure) => MemoRow::Failed { failure: failure.clone(), attempts, run_attempt },
    };
    MEMO.put(cx.kv, cx.group, &key, &memo);
    row.steps_pending -= 1;
    row.has_memo = true;
    row.lost = 0;
    // The failure of a step that only an earlier attempt asked for is no news: this attempt runs the step again.
    let news = memo.outcome(row.attempt).is_some();
    row.steps_ended += u32::from(news);
    if news {
        tell_ended(cx, run, &row, &parent.key, outcome.clone());
    }
    if row.life == Life::Parked && !planted::is(Bug::ParkedRunNotWoken) {
        row.life = row.life.on(Event::Woken).expect("a parked run can be woken");
        leases::enter_run(cx, Work::Run(run), &row);
    }
    RUN.put(cx.kv, cx.group, &run, &row);
}

/// Tells the session where the run is resident, if any; elsewhere the memo will tell.
pub(crate) fn tell_ended(cx: &mut Cx<'_>, run: RunId, row: &RunRow, key: &StepKey, outcome: WorkOutcome) {
    let Some((session, lease)) = row.life.lease() else { return };
    let step = StepEnded { run, lease, key: key.clone(), outcome, steps_ended: row.steps_ended };
    cx.effects.push(Effect::StepEnded { session, step });
}

pub(crate) fn memo_key(run: RunId, step: &StepKey) -> MemoKey {
    MemoKey { run, step: step.clone() }
}
