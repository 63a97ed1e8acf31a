//! No command that a client could send panics the engine or breaks an invariant, however little sense it makes.

mod support;

use coda_engine::apply::apply;
use coda_engine::cluster::command::ClusterCommand;
use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::Entry;
use coda_engine::kv::MemKv;
use coda_engine::tables::{RUN, TASK};
use coda_engine::{invariants, query};
use coda_protocol::cache_key::CacheKey;
use coda_protocol::codec;
use coda_protocol::ids::{LeaseId, Millis, NodeId, RunId, SessionId, Slotted, TaskId, Timestamp, Work};
use coda_protocol::limits::RETENTION_MS;
use coda_protocol::payload::{Failure, Payload, WorkOutcome};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::request::{
    CompleteRun, CompleteTask, ParkRun, RecordStep, Release, Spawn, SpawnStep, StepKey, StepKind,
};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{GROUP, Offer, make};

/// Numbers that mean something else for each command: small, so that they meet, and easy to shrink.
type Raw = (u8, u8, u8, u8);

#[derive(Clone, Debug)]
struct Step {
    commands: Vec<Raw>,
    /// Session, kind, names, slots.
    grants: Vec<Raw>,
    /// Time passes: not at all, a little, or past every retention.
    time: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let raw = || (0u8..24, any::<u8>(), any::<u8>(), any::<u8>());
    (vec(raw(), 0..5), vec(raw(), 0..3), 0u8..20).prop_map(|(commands, grants, time)| Step { commands, grants, time })
}

/// What earlier entries left to refer to.
#[derive(Default)]
struct Known {
    leases: Vec<(Work, LeaseId)>,
}

impl Known {
    fn lease(&self, a: u8) -> LeaseId {
        match self.leases.len() {
            0 => LeaseId(u64::from(a)),
            n if a % 8 == 7 => LeaseId(u64::MAX - n as u64),
            n => self.leases[n - 1 - usize::from(a) % n.min(6)].1,
        }
    }

    /// Work and, mostly, a lease that it had.
    fn leased(&self, a: u8) -> Option<(Work, LeaseId)> {
        let n = self.leases.len();
        (n > 0 && a % 8 != 7).then(|| self.leases[n - 1 - usize::from(a / 8) % n.min(6)])
    }
}

fn run_id(a: u8, index: u64) -> RunId {
    if a % 16 == 15 { RunId::derived(RunId([1; 16]).slot(), GROUP, index, 0) } else { RunId([a % 4; 16]) }
}

fn task_id(a: u8, index: u64) -> TaskId {
    if a % 16 == 15 { TaskId::derived(RunId([1; 16]).slot(), GROUP, index, 0) } else { TaskId([a % 4; 16]) }
}

fn name(a: u8) -> String {
    ["a", "b", "a", "b", "a", "b", "", "a\0b"][usize::from(a % 8)].into()
}

fn policy(a: u8) -> RetryPolicy {
    let good = RetryPolicy { max_retries: u32::from(a % 4), ..RetryPolicy::NEVER };
    match a {
        250 => RetryPolicy { jitter_percent: 200, ..good },
        251 => RetryPolicy { factor_percent: u32::MAX, ..good },
        252 => RetryPolicy { initial: Millis(u64::MAX), ..good },
        253 => RetryPolicy { max_retries: u32::MAX, ..good },
        _ => good,
    }
}

fn delay(a: u8) -> Millis {
    Millis(match a % 16 {
        0 => 1,
        1 => 5_000,
        2 => RETENTION_MS * 2,
        3 => u64::MAX,
        _ => 0,
    })
}

fn outcome(a: u8) -> WorkOutcome {
    match a % 6 {
        0..=2 => Ok(make::json("1")),
        3 => Err(make::failure("no")),
        4 => Err(Failure { retryable: false, ..make::failure("never") }),
        _ => Ok(Payload { codec: "".into(), data: vec![].into() }),
    }
}

fn cache_key(a: u8, lease: LeaseId) -> CacheKey {
    match a % 16 {
        0..=5 => make::explicit(&[["x", "y"][usize::from(a % 2)]]),
        6..=9 => CacheKey::auto(u32::from(a % 3)),
        10..=12 => CacheKey::fresh(lease, u32::from(a % 2)),
        13 => CacheKey::stored(vec![].into()),
        14 => CacheKey::stored(vec![2; 5].into()),
        _ => CacheKey::stored(vec![1; 2_000].into()),
    }
}

fn step_key(a: u8, b: u8, lease: LeaseId) -> StepKey {
    let kind = [StepKind::Task, StepKind::Task, StepKind::Workflow, StepKind::Inline][usize::from(a % 4)];
    StepKey { kind, name: name(a / 4).into(), cache_key: cache_key(b, lease) }
}

fn command(known: &Known, (kind, a, b, c): Raw, index: u64) -> Command {
    let held = known.leased(c);
    let (run, run_lease) = match held {
        Some((Work::Run(run), lease)) => (run, lease),
        _ => (run_id(a, index), known.lease(b)),
    };
    match kind {
        0 | 1 => {
            let mut start = make::start(run_id(a, index), &name(b));
            (start.priority, start.policy, start.delay) = (c % 11, policy(c), delay(c));
            Command::StartRun(start)
        }
        2 | 3 => {
            let mut submit = make::submit(task_id(a, index), &name(b));
            (submit.priority, submit.policy, submit.delay) = (c % 11, policy(c), delay(c));
            Command::SubmitTask(submit)
        }
        4..=7 => {
            let step = |n: u8| SpawnStep {
                key: step_key(a.wrapping_add(n), b.wrapping_add(n / 2), run_lease),
                queue: "q".into(),
                args: make::json("{}"),
                priority: b % 11,
                policy: policy(a),
                delay: delay(b),
            };
            Command::Spawn(Spawn { run, lease: run_lease, steps: (0..a % 4).map(step).collect() })
        }
        8 | 9 => {
            let key = step_key(3, b, run_lease);
            Command::RecordStep(RecordStep { run, lease: run_lease, key, result: make::json("4") })
        }
        10..=13 => match held {
            Some((Work::Task(task), lease)) => Command::CompleteTask(CompleteTask { task, lease, outcome: outcome(b) }),
            Some((Work::Run(run), lease)) => Command::CompleteRun(CompleteRun { run, lease, outcome: outcome(b) }),
            None => {
                let (task, lease) = (task_id(a, index), known.lease(b));
                Command::CompleteTask(CompleteTask { task, lease, outcome: outcome(b) })
            }
        },
        14 => Command::CompleteRun(CompleteRun { run, lease: run_lease, outcome: outcome(b) }),
        15 => {
            let (work, lease) = held.unwrap_or((Work::Task(task_id(a, index)), known.lease(b)));
            Command::Release(Release { work, lease })
        }
        16 | 17 => Command::ParkRun(ParkRun { run, lease: run_lease, seen: u32::from(b % 4) }),
        18 => {
            let held = (0..a % 4).map(|n| known.lease(b.wrapping_add(n))).collect();
            Command::ResumeSession { session: SessionId([c % 3; 16]), held }
        }
        19 => Command::EndSession { session: SessionId([c % 3; 16]) },
        20 => Command::PauseQueue { queue: ["q", "", "z"][usize::from(a % 3)].into() },
        21 => Command::UnpauseQueue { queue: ["q", "q", "z"][usize::from(a % 3)].into() },
        22 => Command::Cluster(ClusterCommand::Drain { node: NodeId(u64::from(a % 3)) }),
        _ => Command::Tick,
    }
}

fn offer((kind, session, names, slots): Raw) -> Offer {
    let names: &[&str] = [&["a"][..], &["b"], &["a", "b"], &["a", "b", "c"]][usize::from(names % 4)];
    let slots = if slots == 255 { u32::MAX } else { u32::from(slots % 4) };
    let session = SessionId([session % 3; 16]);
    if kind % 2 == 0 { Offer::tasks(session, names, slots) } else { Offer::runs(session, names, slots) }
}

fn play(steps: &[Step]) {
    let (mut kv, mut known, mut now) = (MemKv::default(), Known::default(), 0u64);
    for (step, index) in steps.iter().zip(1u64..) {
        now += [0, 1, 1_000, RETENTION_MS][usize::from(step.time.min(15) / 5)];
        let commands = step.commands.iter().map(|raw| command(&known, *raw, index + 1)).collect();
        let offers: Vec<_> = step.grants.iter().map(|raw| offer(*raw)).collect();
        let entry = support::entry(&kv, now, commands, &offers);
        let entry: Entry = codec::decode("entry", &codec::encode(&entry)).expect("an entry survives the log");
        let applied = apply(&mut kv, GROUP, index, &entry);
        assert_eq!(applied.outcomes.len(), entry.commands.len());
        for (command, outcome) in entry.commands.iter().zip(&applied.outcomes) {
            // What a node refuses before the log is what the log refuses too.
            if let Err(reject) = command.check() {
                assert_eq!(outcome.as_ref(), Err(&reject));
            }
        }
        for effect in &applied.effects {
            match effect {
                Effect::TaskLeased { lease, .. } => known.leases.push((Work::Task(lease.task), lease.lease)),
                Effect::RunLeased { lease, .. } => known.leases.push((Work::Run(lease.run), lease.lease)),
                Effect::WakeAt(at) => assert!(*at > Timestamp(0)),
                _ => {}
            }
        }
        let broken = invariants::check_at(&kv, GROUP, index);
        assert!(broken.is_empty(), "{broken:#?}");
    }
    // Everything can be described, whatever it is.
    RUN.all(&kv, GROUP).iter().for_each(|(run, _)| {
        query::run(&kv, GROUP, *run).unwrap();
        drop(query::memo(&kv, GROUP, *run));
    });
    TASK.all(&kv, GROUP).iter().for_each(|(task, _)| drop(query::task(&kv, GROUP, *task).unwrap()));
    let queues = query::queues(&kv, GROUP, None).queues;
    queues.iter().for_each(|queue| drop(query::lanes(&kv, GROUP, &queue.queue)));
}

proptest! {
    #[test]
    fn random_commands_never_panic_and_never_break_an_invariant(steps in vec(step(), 0..60)) {
        play(&steps);
    }
}
