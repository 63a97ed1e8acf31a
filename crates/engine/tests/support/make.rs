//! Values for tests: short to name, easy to change.

use coda_protocol::cache_key::{CacheKey, KeyPart};
use coda_protocol::ids::{LeaseId, Millis, RunId, TaskId};
use coda_protocol::limits::PRIORITY_DEFAULT;
use coda_protocol::payload::{Failure, Payload};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::request::{SpawnStep, StartRun, StepKey, StepKind, SubmitTask};

pub fn json(text: &str) -> Payload {
    Payload::json(text.to_owned())
}

pub fn failure(message: &str) -> Failure {
    Failure { kind: "ValueError".into(), message: message.into(), traceback: String::new(), retryable: true }
}

/// So many retries, a second apart, without jitter.
pub fn retries(max_retries: u32) -> RetryPolicy {
    RetryPolicy { max_retries, factor_percent: 100, jitter_percent: 0, ..RetryPolicy::NEVER }
}

pub fn submit(task: TaskId, name: &str) -> SubmitTask {
    SubmitTask {
        task,
        name: name.into(),
        queue: "q".into(),
        args: json("{}"),
        priority: PRIORITY_DEFAULT,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    }
}

pub fn start(run: RunId, workflow: &str) -> StartRun {
    StartRun {
        run,
        workflow: workflow.into(),
        queue: "q".into(),
        input: json("{}"),
        priority: PRIORITY_DEFAULT,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    }
}

pub fn explicit(parts: &[&str]) -> CacheKey {
    let parts: Vec<KeyPart> = parts.iter().map(|part| KeyPart::Str((*part).into())).collect();
    CacheKey::explicit(&parts).unwrap()
}

fn spawn(kind: StepKind, name: &str, cache_key: CacheKey) -> SpawnStep {
    SpawnStep {
        key: StepKey { kind, name: name.into(), cache_key },
        queue: "q".into(),
        args: json("{}"),
        priority: PRIORITY_DEFAULT,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    }
}

/// A task step under an explicit key.
pub fn step(name: &str, key: &[&str]) -> SpawnStep {
    spawn(StepKind::Task, name, explicit(key))
}

/// The `n`-th spawn of its name without a key.
pub fn auto(name: &str, n: u32) -> SpawnStep {
    spawn(StepKind::Task, name, CacheKey::auto(n))
}

/// The `n`-th `NO_CACHE` spawn of its name in one execution.
pub fn fresh(name: &str, lease: LeaseId, n: u32) -> SpawnStep {
    spawn(StepKind::Task, name, CacheKey::fresh(lease, n))
}

pub fn child(workflow: &str, key: &[&str]) -> SpawnStep {
    spawn(StepKind::Workflow, workflow, explicit(key))
}

pub fn inline(name: &str, key: &[&str]) -> StepKey {
    StepKey { kind: StepKind::Inline, name: name.into(), cache_key: explicit(key) }
}
