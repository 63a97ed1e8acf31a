//! Leases: granting work to a session, and taking it back.

use coda_protocol::ids::{LeaseId, SessionId, Slotted, Work};
use coda_protocol::limits::{LOST_LEASES_DELAY, LOST_LEASES_MAX};
use coda_protocol::payload::{Failure, Payload};
use coda_protocol::push::{RunLease, TaskLease};

use crate::apply::Cx;
use crate::effect::Effect;
use crate::entry::Lane;
use crate::lanes;
use crate::rows::{Event, Life, ReadyPlace, RunRow, TaskRow};
use crate::steps;
use crate::tables::{LEASE, LeaseKey, RUN, RUN_INPUT, TASK, TASK_ARGS};

/// Why a lease is taken back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its holder handed it back unharmed, or never got it.
    Released,
    /// Its holder vanished.
    Lost,
}

/// Leases work that was just taken off its lane. Returns the bytes of payload that travel with it.
pub(crate) fn grant(cx: &mut Cx<'_>, session: SessionId, lane: &Lane, _: ReadyPlace, work: Work) -> usize {
    let lease = cx.next_lease();
    let event = Event::Leased { session, lease };
    LEASE.insert(cx.kv, cx.group, &LeaseKey { session, lease }, &work);
    cx.lane(lane).leased += 1;
    let (effect, bytes) = match work {
        Work::Task(task) => {
            let mut row = TASK.get(cx.kv, cx.group, &task).expect("ready tasks have a row");
            row.life = row.life.on(event).expect("leasing ready work is never refused");
            row.attempts += 1;
            TASK.put(cx.kv, cx.group, &task, &row);
            let args = TASK_ARGS.get(cx.kv, cx.group, &task).expect("live tasks have arguments");
            let bytes = args.data.len();
            let lease = TaskLease {
                task,
                lease,
                queue: row.queue,
                name: row.name,
                args,
                attempt: row.attempts,
                retries_left: row.policy.max_retries.saturating_sub(row.failures),
                run: row.parent.map(|parent| parent.run),
            };
            (Effect::TaskLeased { session, lease }, bytes)
        }
        Work::Run(run) => {
            let mut row = RUN.get(cx.kv, cx.group, &run).expect("ready runs have a row");
            row.life = row.life.on(event).expect("leasing ready work is never refused");
            RUN.put(cx.kv, cx.group, &run, &row);
            let input: Payload = RUN_INPUT.get(cx.kv, cx.group, &run).expect("runs have an input");
            let bytes = input.data.len();
            let lease = RunLease {
                run,
                lease,
                queue: row.queue,
                workflow: row.workflow,
                input,
                attempt: row.attempt,
                memo_pages: 0,
                steps_ended: row.steps_ended,
            };
            (Effect::RunLeased { session, lease, has_memo: row.has_memo }, bytes)
        }
    };
    cx.effects.push(effect);
    bytes
}

/// Removes a lease that its work no longer has.
pub(crate) fn forget(cx: &mut Cx<'_>, session: SessionId, lease: LeaseId, lane: &Lane) {
    LEASE.delete(cx.kv, cx.group, &LeaseKey { session, lease });
    *cx.leases_ended.entry(session).or_default() += 1;
    cx.lane(lane).leased -= 1;
}

/// Makes leased work ready again, in its old place. Work under which several workers vanished may be what kills them:
/// it waits longer each time, so that other work gets the workers, and is given up in the end.
pub(crate) fn take_back(cx: &mut Cx<'_>, session: SessionId, lease: LeaseId, work: Work, reason: Reason) {
    match work {
        Work::Task(task) => {
            let mut row = TASK.get(cx.kv, cx.group, &task).expect("leased tasks have a row");
            forget(cx, session, lease, &row.lane());
            row.lost += u32::from(reason == Reason::Lost);
            let event = back(cx, lease, work, row.lost, reason);
            row.life = row.life.on(event).expect("the lease index names the holder");
            if row.life.is_ended() {
                return steps::end_task(cx, task, row, Err(worker_lost()));
            }
            if let Life::Retrying { at } = row.life {
                lanes::delay(cx, &row.lane(), at, work);
            } else {
                enter_task(cx, work, &row);
            }
            TASK.put(cx.kv, cx.group, &task, &row);
        }
        Work::Run(run) => {
            let mut row = RUN.get(cx.kv, cx.group, &run).expect("leased runs have a row");
            forget(cx, session, lease, &row.lane());
            row.lost += u32::from(reason == Reason::Lost);
            let event = back(cx, lease, work, row.lost, reason);
            row.life = row.life.on(event).expect("the lease index names the holder");
            if row.life.is_ended() {
                return steps::end_run(cx, run, row, Err(worker_lost()));
            }
            if let Life::Retrying { at } = row.life {
                lanes::delay(cx, &row.lane(), at, work);
            } else {
                enter_run(cx, work, &row);
            }
            RUN.put(cx.kv, cx.group, &run, &row);
        }
    }
}

/// How work comes back: at once after the first loss, later after each further one.
fn back(cx: &Cx<'_>, lease: LeaseId, work: Work, lost: u32, reason: Reason) -> Event {
    match (reason, lost) {
        (Reason::Lost, LOST_LEASES_MAX..) => Event::GivenUp(lease),
        (Reason::Lost, 2..) => Event::RetryAt(lease, cx.now + LOST_LEASES_DELAY.delay(lost - 1, chance(&work, lost))),
        (Reason::Lost | Reason::Released, _) => Event::Returned(lease),
    }
}

pub(crate) fn enter_task(cx: &mut Cx<'_>, work: Work, row: &TaskRow) {
    lanes::enter(cx, &row.lane(), lanes::place(row.priority, row.seq), work);
}

pub(crate) fn enter_run(cx: &mut Cx<'_>, work: Work, row: &RunRow) {
    lanes::enter(cx, &row.lane(), lanes::place(row.priority, row.seq), work);
}

/// A hash that is the same on every node: chance as data.
pub(crate) fn chance(work: &Work, retry: u32) -> u64 {
    let (id, slot) = match work {
        Work::Task(task) => (task.0, task.slot()),
        Work::Run(run) => (run.0, run.slot()),
    };
    xxhash_rust::xxh3::xxh3_64_with_seed(&id, u64::from(retry) << 16 | u64::from(slot.0))
}

fn worker_lost() -> Failure {
    Failure {
        kind: "coda.WorkerLost".into(),
        message: format!("{LOST_LEASES_MAX} workers vanished while they held it: it probably kills them"),
        traceback: String::new(),
        retryable: false,
    }
}
