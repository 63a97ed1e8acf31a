//! A resident run spawns steps. A key that has a result, or is on its way, is not spawned again.

use coda_protocol::ids::{Slotted, Work};
use coda_protocol::reject::Reject;
use coda_protocol::reply::{Reply, StepState};
use coda_protocol::request::{Spawn, SpawnStep, StepKind};

use crate::apply::Cx;
use crate::command::Outcome;
use crate::commands::{start_run, submit_task};
use crate::rows::{Life, MemoRow, Parent, RunRow, TaskRow};
use crate::steps::memo_key;
use crate::tables::{MEMO, RUN};

pub(crate) fn apply(cx: &mut Cx<'_>, spawn: &Spawn) -> Outcome {
    let mut row = RUN
        .get(cx.kv, cx.group, &spawn.run)
        .ok_or_else(|| Reject::NoSuchRun { run: spawn.run.to_string() })?;
    if row.life.lease().map(|(_, lease)| lease) != Some(spawn.lease) {
        return Err(Reject::StaleLease);
    }
    let pending_before = row.steps_pending;
    let states = spawn.steps.iter().map(|step| spawn_step(cx, spawn, &mut row, step)).collect();
    if row.steps_pending != pending_before {
        RUN.put(cx.kv, cx.group, &spawn.run, &row);
    }
    Ok(Reply::Spawned(states))
}

fn spawn_step(cx: &mut Cx<'_>, spawn: &Spawn, row: &mut RunRow, step: &SpawnStep) -> StepState {
    let memo_key = memo_key(spawn.run, &step.key);
    match MEMO.get(cx.kv, cx.group, &memo_key) {
        Some(MemoRow::Pending { .. }) => return StepState::Pending,
        Some(memo) => {
            if let Some(outcome) = memo.outcome(row.attempt) {
                return StepState::Ended(outcome);
            }
        }
        None => {}
    }
    let work = accept(cx, spawn, step);
    row.steps_pending += 1;
    MEMO.put(cx.kv, cx.group, &memo_key, &MemoRow::Pending { work });
    StepState::Pending
}

/// Creates the task or child run, in its parent's slot so that every step is one transaction of one group.
fn accept(cx: &mut Cx<'_>, spawn: &Spawn, step: &SpawnStep) -> Work {
    let seq = cx.next_seq();
    let slot = spawn.run.slot();
    let parent = Some(Parent { run: spawn.run, key: step.key.clone() });
    if step.key.kind == StepKind::Workflow {
        let run = cx.derived_run(slot, seq);
        let row = RunRow {
            workflow: step.key.name.clone(),
            queue: step.queue.clone(),
            priority: step.priority,
            policy: step.policy,
            created: cx.now,
            seq,
            life: Life::Ready,
            attempt: 1,
            lost: 0,
            steps_pending: 0,
            steps_ended: 0,
            has_memo: false,
            parent,
        };
        start_run::accept(cx, run, row, &step.args, step.delay);
        return Work::Run(run);
    }
    let task = cx.derived_task(slot, seq);
    let row = TaskRow {
        name: step.key.name.clone(),
        queue: step.queue.clone(),
        priority: step.priority,
        policy: step.policy,
        created: cx.now,
        seq,
        life: Life::Ready,
        attempts: 0,
        failures: 0,
        lost: 0,
        last_failure: None,
        parent,
    };
    submit_task::accept(cx, task, row, &step.args, step.delay);
    Work::Task(task)
}
