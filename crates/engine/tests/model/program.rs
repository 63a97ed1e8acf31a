//! Workflow functions for the model: each is made from a seed, and executed from the top over what is known so far.

use std::collections::BTreeMap;

use coda_protocol::cache_key::{CacheKey, KeyPart};
use coda_protocol::ids::{LeaseId, Millis, RunId};
use coda_protocol::payload::{Failure, Payload, WorkOutcome};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::request::{SpawnStep, StepKey, StepKind};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a run's input says: which program, and how deep below the run that a client started.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    pub seed: u64,
    pub depth: u32,
}

impl Input {
    pub fn payload(self) -> Payload {
        Payload::json(format!("{} {}", self.seed, self.depth))
    }

    pub fn read(payload: &Payload) -> Self {
        let text = std::str::from_utf8(&payload.data).unwrap();
        let (seed, depth) = text.split_once(' ').unwrap();
        Self { seed: seed.parse().unwrap(), depth: depth.parse().unwrap() }
    }
}

/// What the function does next.
#[derive(Debug)]
pub enum Turn {
    Spawn(Vec<SpawnStep>),
    Record(StepKey),
    /// Results are on their way.
    Wait,
    Return(WorkOutcome),
}

#[derive(Debug)]
struct Step {
    kind: StepKind,
    name: &'static str,
    key: Key,
    queue: &'static str,
    priority: u8,
    policy: RetryPolicy,
    delay: Millis,
    /// Whether its failure fails the workflow, or is caught.
    must_succeed: bool,
}

#[derive(Debug)]
enum Key {
    Explicit(u32),
    Auto(u32),
    Fresh(u32),
}

impl Step {
    fn random(rng: &mut StdRng, n: u32, depth: u32) -> Self {
        let kind = match rng.random_range(0..10) {
            0..=6 => StepKind::Task,
            7 | 8 => StepKind::Inline,
            _ if depth < 2 => StepKind::Workflow,
            _ => StepKind::Task,
        };
        let key = match rng.random_range(0..10) {
            // Few explicit keys, so that two steps of a run may share one.
            0..=4 => Key::Explicit(rng.random_range(0..4)),
            5..=8 => Key::Auto(n),
            _ if kind == StepKind::Task => Key::Fresh(n),
            _ => Key::Auto(n),
        };
        let name = match kind {
            StepKind::Task => ["a", "b", "c"][rng.random_range(0..3)],
            StepKind::Workflow => ["v", "w"][rng.random_range(0..2)],
            StepKind::Inline => "i",
        };
        Self {
            kind,
            name,
            key,
            queue: ["q", "z"][rng.random_range(0..2)],
            priority: rng.random_range(3..6),
            policy: policy(rng),
            delay: Millis(if rng.random_bool(0.2) { rng.random_range(1..3_000) } else { 0 }),
            must_succeed: rng.random_bool(0.5),
        }
    }

    fn key(&self, lease: LeaseId) -> StepKey {
        let cache_key = match self.key {
            Key::Explicit(n) => CacheKey::explicit(&[KeyPart::Int(i64::from(n))]).unwrap(),
            Key::Auto(n) => CacheKey::auto(n),
            Key::Fresh(n) => CacheKey::fresh(lease, n),
        };
        StepKey { kind: self.kind, name: self.name.into(), cache_key }
    }
}

pub fn policy(rng: &mut StdRng) -> RetryPolicy {
    let initial = Millis(rng.random_range(0..2_000));
    RetryPolicy { max_retries: rng.random_range(0..3), initial, jitter_percent: 0, ..RetryPolicy::NEVER }
}

#[derive(Debug)]
pub struct Program {
    input: Input,
    /// Phases follow each other; the steps of one run side by side.
    phases: Vec<Vec<Step>>,
}

impl Program {
    pub fn new(input: Input) -> Self {
        let mut rng = StdRng::seed_from_u64(input.seed);
        let mut n = 0;
        let mut phase = |rng: &mut StdRng| {
            let count = rng.random_range(1..5);
            (0..count)
                .map(|_| {
                    n += 1;
                    Step::random(rng, n, input.depth)
                })
                .collect()
        };
        let phases = (0..rng.random_range(0..4)).map(|_| phase(&mut rng)).collect();
        Self { input, phases }
    }

    /// Executes from the top over what is known; `asked` says which keys this execution has spawned already.
    pub fn turn(
        &self,
        run: RunId,
        lease: LeaseId,
        known: &BTreeMap<StepKey, WorkOutcome>,
        asked: impl Fn(&StepKey) -> bool,
    ) -> Turn {
        for phase in &self.phases {
            let mut spawn: Vec<SpawnStep> = Vec::new();
            let mut waits = false;
            for step in phase {
                let key = step.key(lease);
                match known.get(&key) {
                    Some(Err(failure)) if step.must_succeed => return Turn::Return(Err(failed(failure))),
                    Some(_) => {}
                    None if step.kind == StepKind::Inline => return Turn::Record(key),
                    None if asked(&key) => waits = true,
                    None => spawn.push(self.spawn(run, step, key)),
                }
            }
            if !spawn.is_empty() {
                return Turn::Spawn(spawn);
            }
            if waits {
                return Turn::Wait;
            }
        }
        Turn::Return(Ok(Payload::json(format!("{run} is done"))))
    }

    fn spawn(&self, run: RunId, step: &Step, key: StepKey) -> SpawnStep {
        let args = match step.kind {
            StepKind::Workflow => {
                let key: u64 = key.cache_key.as_bytes().iter().map(|byte| u64::from(*byte)).sum();
                let seed = self.input.seed.wrapping_mul(31).wrapping_add(key);
                Input { seed, depth: self.input.depth + 1 }.payload()
            }
            StepKind::Task | StepKind::Inline => Payload::json(format!("{run} {key:?}")),
        };
        SpawnStep {
            key,
            queue: step.queue.into(),
            args,
            priority: step.priority,
            policy: step.policy,
            delay: step.delay,
        }
    }
}

fn failed(cause: &Failure) -> Failure {
    Failure { message: format!("because of {}", cause.message), ..cause.clone() }
}
