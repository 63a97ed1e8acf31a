//! A resident run spawns steps. A key that has a result, or is on its way, is not spawned again.

use coda_protocol::ids::{Slotted, Work};
use coda_protocol::limits::{SPAWN_PUSH_BYTES_MAX, SPAWN_REPLY_BYTES_MAX};
use coda_protocol::payload::{WorkOutcome, outcome_bytes};
use coda_protocol::reject::Reject;
use coda_protocol::reply::{Reply, StepState};
use coda_protocol::request::{Spawn, SpawnStep, StepKind};

use crate::apply::Cx;
use crate::command::Outcome;
use crate::commands::{start_run, submit_task};
use crate::effect::Effect;
use crate::rows::{Life, MemoRow, Parent, RunRow, TaskRow};
use crate::steps::{self, memo_key};
use crate::tables::{MEMO, RUN};

pub(crate) fn apply(cx: &mut Cx<'_>, spawn: &Spawn) -> Outcome {
    let mut row =
        RUN.get(cx.kv, cx.group, &spawn.run).ok_or_else(|| Reject::NoSuchRun { run: spawn.run.to_string() })?;
    let session = row.life.holder(spawn.lease)?;
    let pending_before = row.steps_pending;
    let mut told = Told::default();
    let states = spawn.steps.iter().map(|step| spawn_step(cx, spawn, &mut row, step, &mut told)).collect();
    if told.memo {
        let (workflow, run, lease) = (row.workflow.clone(), spawn.run, spawn.lease);
        cx.effects.push(Effect::MemoWanted { session, workflow, run, lease });
    }
    if row.steps_pending != pending_before {
        RUN.put(cx.kv, cx.group, &spawn.run, &row);
    }
    Ok(Reply::Spawned(states))
}

/// Results that were there already: bytes in the answer, bytes that follow it, and whether the rest needs the memo.
#[derive(Default)]
struct Told {
    replied: usize,
    pushed: usize,
    memo: bool,
}

fn spawn_step(cx: &mut Cx<'_>, spawn: &Spawn, row: &mut RunRow, step: &SpawnStep, told: &mut Told) -> StepState {
    let memo_key = memo_key(spawn.run, &step.key);
    let known = MEMO.get(cx.kv, cx.group, &memo_key);
    if let Some(MemoRow::Pending { work, run_attempt }) = known {
        if run_attempt != row.attempt {
            // This attempt waits for it too, so its failure is this attempt's as well.
            MEMO.put(cx.kv, cx.group, &memo_key, &MemoRow::Pending { work, run_attempt: row.attempt });
        }
        return StepState::Pending;
    }
    if let Some(outcome) = known.and_then(|memo| memo.outcome(row.attempt)) {
        return ended(cx, spawn, row, step, outcome, told);
    }
    let work = accept(cx, spawn, step);
    row.steps_pending += 1;
    MEMO.put(cx.kv, cx.group, &memo_key, &MemoRow::Pending { work, run_attempt: row.attempt });
    StepState::Pending
}

/// An outcome that is there already. What does not fit the answer follows as if it had ended just now.
fn ended(
    cx: &mut Cx<'_>,
    spawn: &Spawn,
    row: &RunRow,
    step: &SpawnStep,
    outcome: WorkOutcome,
    told: &mut Told,
) -> StepState {
    let size = outcome_bytes(&outcome);
    if told.replied + size <= SPAWN_REPLY_BYTES_MAX {
        told.replied += size;
        return StepState::Ended(outcome);
    }
    if told.pushed + size <= SPAWN_PUSH_BYTES_MAX {
        told.pushed += size;
        steps::tell_ended(cx, spawn.run, row, &step.key, outcome);
    } else {
        told.memo = true;
    }
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
