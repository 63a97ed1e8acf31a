//! Tasks that fail as often as they were told to: attempts count up, retries are what the policy says and never early.

use std::collections::BTreeMap;

use coda_checkers::attempts::{self, Work};
use coda_checkers::history::{End, Op};
use coda_checkers::timers;
use coda_protocol::ids::Millis;
use coda_protocol::limits::LOST_LEASES_MAX;
use coda_protocol::payload::WorkOutcome;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::push::TaskLease;
use futures::FutureExt;
use rand::Rng;
use serde_json::json;

use super::{Kind, Setting, Workload};
use crate::clients::{Turn, submit, task};
use crate::groups::task_id;
use crate::hands::{self, ended_by, failure, key, number};
use crate::judge::Judge;
use crate::load::{Crew, Load};

pub const KIND: Kind = Kind {
    name: "retries",
    about: "tasks that fail as often as they are told to: attempts rise, retries follow the policy",
    python: Some(include_str!("../../python/retries_worker.py")),
    start: |setting| Box::pin(start(setting)),
};

const CREW: Crew = Crew { queue: "retries", workers: 3, slots: 16 };
const RETRIES_MAX: u32 = 4;
/// A task is so many attempts, about.
const ATTEMPTS: f64 = 2.0;

fn policy(max_retries: u32) -> RetryPolicy {
    RetryPolicy { max_retries, initial: Millis(50), factor_percent: 200, max: Millis(400), jitter_percent: 50 }
}

/// No retry waits less: jitter shortens a delay by a share of itself at most.
fn shortest_us(retry: u32) -> u64 {
    let unhurried = RetryPolicy { jitter_percent: 0, ..policy(RETRIES_MAX) }.delay(retry, 0).0;
    (unhurried - unhurried / 100 * u64::from(policy(RETRIES_MAX).jitter_percent)) * 1_000
}

async fn start(setting: Setting<'_>) -> anyhow::Result<Box<dyn Workload>> {
    let mut load = Load::new(setting, KIND.name, judge)?;
    load.serve(CREW, |lease| body(lease).boxed()).await?;
    load.drive(ATTEMPTS, |turn| take_turn(turn).boxed()).await?;
    Ok(Box::new(load))
}

async fn body(lease: TaskLease) -> WorkOutcome {
    let [fails, max_retries]: [u32; 2] = serde_json::from_slice(&lease.args.data).unwrap_or_default();
    // By what the cluster counts, whichever worker failed before.
    let failed = max_retries.saturating_sub(lease.retries_left);
    if failed < fails { failure(&format!("failure {failed} of {fails}")) } else { ended_by(&lease) }
}

async fn take_turn(mut turn: Turn) {
    let id = task_id(&mut turn.chance);
    let max_retries = turn.chance.random_range(0..=RETRIES_MAX);
    let fails = turn.chance.random_range(0..=max_retries + 1);
    let mut one = task(id, CREW.queue, CREW.queue, &json!([fails, max_retries]));
    one.policy = policy(max_retries);
    submit(&turn, one, json!({ "fails": fails, "retries": max_retries })).await;
}

fn judge(ops: &[Op], judge: &mut Judge<'_>) {
    judge.queue();
    judge.leases(&[]);
    judge.positions();
    retried(ops, judge);
}

fn retried(ops: &[Op], judge: &mut Judge<'_>) {
    let mut seen: BTreeMap<String, (Option<bool>, Option<u32>)> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.end == End::Ok) {
        let (succeeded, leases) = seen.entry(key(op)).or_default();
        match op.f.as_str() {
            "wait" => *succeeded = Some(op.answer.get("ok").is_some()),
            // The last look is behind the end.
            "look" if op.answer["ended"] == json!(true) => *leases = op.answer["attempts"].as_u64().map(|n| n as u32),
            _ => {}
        }
    }
    let works = ops.iter().filter(|op| op.f == "submit" && op.end != End::Fail).map(|op| {
        let (succeeded, leases) = seen.get(&key(op)).copied().unwrap_or_default();
        Work { work: key(op), max_retries: number(op, "retries") as u32, lost_max: LOST_LEASES_MAX, succeeded, leases }
    });
    let works: Vec<Work<String>> = works.collect();
    let all = hands::attempts(ops);
    let (summary, broken) = attempts::check(&all, &works);
    judge.violations(broken);
    judge.figure("attempts", json!({ "seen": summary.attempts, "leased to nobody who heard": summary.unheard }));
    judge.timers("retries", &backoffs(ops, &works));
}

/// From a failure that counts to the next attempt.
fn backoffs(ops: &[Op], works: &[Work<String>]) -> Vec<timers::Fired<(String, u32)>> {
    let retries: BTreeMap<&str, u32> = works.iter().map(|work| (work.work.as_str(), work.max_retries)).collect();
    let mut leased: BTreeMap<String, BTreeMap<u64, (u64, u64)>> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.f == "lease") {
        leased.entry(key(op)).or_default().insert(number(op, "attempt"), (op.asked, number(op, "left")));
    }
    let failures = ops.iter().filter(|op| op.f == "complete" && op.end != End::Fail && number(op, "left") > 0);
    let failures = failures.filter(|op| op.asked_with["failed"] == json!(true));
    let fired = |op: &Op| {
        let (_, (at, left)) = leased.get(&key(op))?.range(number(op, "attempt") + 1..).next()?;
        // Of what came of a report in Python nobody knows but the cluster, which counts it, or does not.
        if *left >= number(op, "left") {
            return None;
        }
        let retry = retries.get(key(op).as_str())?.checked_sub(number(op, "left") as u32)? + 1;
        Some(timers::Fired { key: (key(op), retry), asked: op.asked, delay: shortest_us(retry), at: *at })
    };
    failures.filter_map(fired).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_retry_is_due_before_its_delay_less_the_jitter() {
        assert_eq!([1, 2, 3, 4, 5].map(shortest_us), [50_000, 50_000, 100_000, 200_000, 200_000]);
    }
}
