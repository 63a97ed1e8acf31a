//! A log of entries from anywhere: the engine never panics on one, and its invariants hold after each.
//!
//! The bytes are a script of small instructions, so that most inputs mean something: ids, names, sessions and leases
//! come from small sets, and a lease that was granted can be named. One instruction takes whole encoded commands, another one
//! whole encoded requests, as a client sends them.

use std::sync::Arc;

use coda_engine::apply::apply;
use coda_engine::cluster::command::{ClusterCommand, InitCluster, PlaceGroup};
use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::{Entry, Grant, Lane};
use coda_engine::kv::MemKv;
use coda_engine::{invariants, query, recover};
use coda_protocol::cache_key::{CacheKey, KeyPart};
use coda_protocol::cluster::{Registration, SettingValue};
use coda_protocol::codec;
use coda_protocol::ids::{
    ClusterId, GroupId, LeaseId, Millis, Name, NodeId, RunId, SessionId, StorageId, TaskId, Timestamp, TokenId, Work,
    WorkKind,
};
use coda_protocol::join::TokenDigest;
use coda_protocol::payload::{Failure, Payload, WorkOutcome};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::request::{
    CompleteRun, CompleteTask, ParkRun, RecordStep, Release, Spawn, SpawnStep, StartRun, StepKey, StepKind, SubmitTask,
};

use crate::perform::perform;

const ENTRIES_MAX: u64 = 64;

pub fn run(data: &[u8]) -> bool {
    let mut script = Script { bytes: data, group: GroupId::META, held: Vec::new() };
    let group = if script.byte().is_multiple_of(4) { GroupId::META } else { GroupId(1) };
    script.group = group;
    let mut kv = MemKv::default();
    let mut now = 1_000;
    for index in 1..=ENTRIES_MAX {
        if script.bytes.is_empty() {
            break;
        }
        now += u64::from(script.byte()) * 16;
        let entry = script.entry(Timestamp(now), &kv);
        // What is in the log must be what is applied on every node.
        let entry: Entry = codec::decode("entry", &codec::encode(&entry)).expect("our own bytes");
        let applied = apply(&mut kv, group, index, &entry);
        assert_eq!(applied.outcomes.len(), entry.commands.len());
        assert_eq!(applied.unused.len(), entry.grants.len());
        let broken = invariants::check_at(&kv, group, index);
        assert!(broken.is_empty(), "{broken:?} after {entry:?}");
        script.see(&kv, applied.effects);
    }
    drop(recover::recover(&kv, group));
    drop(query::queues(&kv, group, None));
    drop(query::cluster::map(&kv));
    drop(query::cluster::layout(&kv).map(|layout| layout.plan()));
    !kv.map.is_empty()
}

struct Script<'a> {
    bytes: &'a [u8],
    group: GroupId,
    /// Leases that were granted, live or not.
    held: Vec<(SessionId, Work, LeaseId)>,
}

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((byte, rest)) => {
                self.bytes = rest;
                *byte
            }
            None => 0,
        }
    }

    fn id(&mut self) -> [u8; 16] {
        [self.byte() % 4 + 1; 16]
    }

    fn name(&mut self) -> Name {
        match self.byte() % 32 {
            31 => "",
            n if n % 3 == 0 => "b",
            n if n % 7 == 0 => "longer",
            _ => "a",
        }
        .into()
    }

    fn session(&mut self) -> SessionId {
        SessionId([self.byte() % 3; 16])
    }

    fn lease(&mut self) -> (Work, LeaseId) {
        let byte = usize::from(self.byte());
        match self.held.len() {
            0 => (Work::Task(TaskId([1; 16])), LeaseId(byte as u64)),
            n => {
                let (_, work, lease) = self.held[n - 1 - byte % n.min(8)];
                (work, lease)
            }
        }
    }

    fn run(&mut self) -> (RunId, LeaseId) {
        match self.lease() {
            (Work::Run(run), lease) => (run, lease),
            (Work::Task(_), lease) => (RunId(self.id()), lease),
        }
    }

    fn key(&mut self, kind: StepKind) -> StepKey {
        let part = KeyPart::Int(i64::from(self.byte() % 4));
        let cache_key = match self.byte() % 3 {
            0 => CacheKey::explicit(&[part]).expect("small"),
            1 => CacheKey::auto(u32::from(self.byte() % 4)),
            _ => CacheKey::fresh(self.lease().1, u32::from(self.byte() % 4)),
        };
        StepKey { kind, name: self.name(), cache_key }
    }

    fn policy(&mut self) -> RetryPolicy {
        let retries = u32::from(self.byte() % 3);
        RetryPolicy {
            max_retries: retries,
            initial: Millis(u64::from(self.byte())),
            factor_percent: 100 + u32::from(self.byte()),
            max: Millis(1_000),
            jitter_percent: self.byte() % 101,
        }
    }

    fn delay(&mut self) -> Millis {
        Millis(u64::from(self.byte() % 4) * 500)
    }

    fn outcome(&mut self) -> WorkOutcome {
        match self.byte() % 3 {
            0 => Ok(Payload::json("1")),
            n => Err(Failure { kind: "E".into(), message: String::new(), traceback: String::new(), retryable: n == 1 }),
        }
    }

    fn step(&mut self) -> SpawnStep {
        let kind = [StepKind::Task, StepKind::Workflow, StepKind::Task, StepKind::Inline]
            [usize::from(self.byte() % 16).min(3)];
        SpawnStep {
            key: self.key(kind),
            queue: self.name(),
            args: Payload::json("1"),
            priority: self.byte() % 10,
            policy: self.policy(),
            delay: self.delay(),
        }
    }

    fn registration(&mut self) -> Registration {
        Registration {
            storage: StorageId(self.id()),
            incarnation: 1,
            peer_addr: "n:1".into(),
            client_addr: "n:2".into(),
            zone: self.name(),
            version: "1".into(),
            commands_version: u32::from(self.byte() % 3),
        }
    }

    fn node(&mut self) -> NodeId {
        NodeId(u64::from(self.byte() % 6))
    }

    fn cluster_command(&mut self) -> ClusterCommand {
        use ClusterCommand as C;
        let (token, digest) = (TokenId(self.id()), TokenDigest([self.byte() % 2; 32]));
        let group = GroupId(u32::from(self.byte() % 4));
        match self.byte() % 16 {
            0 => C::Init(InitCluster {
                cluster: ClusterId([1; 16]),
                replication_factor: [1, 3, 5, 2][usize::from(self.byte() % 4)],
                groups: u16::from(self.byte() % 4),
                node: self.node(),
                founder: self.registration(),
            }),
            1 | 2 => C::CreateToken { token, digest, ttl: None },
            3 => C::RevokeToken { token },
            4 | 5 => C::Join { token, digest, node: self.node(), registration: self.registration() },
            6 => C::Register { node: self.node(), registration: self.registration() },
            7 => C::Activate { node: self.node() },
            8 => C::Drain { node: self.node() },
            9 => C::Undrain { node: self.node() },
            10 => C::Remove { node: self.node() },
            11 => {
                let bits = self.byte();
                let voters: Vec<NodeId> = (1..6).filter(|n| bits >> n & 1 == 1).map(NodeId).collect();
                C::PlaceGroup(PlaceGroup {
                    group,
                    leader: voters.first().copied(),
                    voters,
                    seen: u64::from(self.byte()),
                })
            }
            12 => C::SettleGroup { group, version: u64::from(self.byte()) },
            13 => C::SetReplicationFactor { replication_factor: self.byte() % 7 },
            n => {
                let key =
                    ["upgrade.auto", "rebalance.auto", "join_token.ttl_ms", "no.such"][usize::from(self.byte() % 4)];
                let value = match n {
                    14 => SettingValue::Switch(self.byte().is_multiple_of(2)),
                    _ => SettingValue::Number(u64::from(self.byte()) * 100_000),
                };
                C::SetSetting { key: key.into(), value: Some(value) }
            }
        }
    }

    fn command(&mut self, kv: &MemKv) -> Command {
        let instruction = self.byte() % 15;
        if self.group == GroupId::META && instruction < 12 {
            return Command::Cluster(self.cluster_command());
        }
        match instruction {
            0 => Command::StartRun(StartRun {
                run: RunId(self.id()),
                workflow: self.name(),
                queue: self.name(),
                input: Payload::json("1"),
                priority: self.byte() % 10,
                policy: self.policy(),
                delay: self.delay(),
            }),
            1 => Command::SubmitTask(SubmitTask {
                task: TaskId(self.id()),
                name: self.name(),
                queue: self.name(),
                args: Payload::json("1"),
                priority: self.byte() % 10,
                policy: self.policy(),
                delay: self.delay(),
            }),
            2 => {
                let (run, lease) = self.run();
                let count = self.byte() % 5;
                Command::Spawn(Spawn { run, lease, steps: (0..count).map(|_| self.step()).collect() })
            }
            3 => {
                let (run, lease) = self.run();
                Command::RecordStep(RecordStep {
                    run,
                    lease,
                    key: self.key(StepKind::Inline),
                    result: Payload::json("1"),
                })
            }
            4 => match self.lease() {
                (Work::Task(task), lease) => {
                    Command::CompleteTask(CompleteTask { task, lease, outcome: self.outcome() })
                }
                (Work::Run(run), lease) => Command::CompleteRun(CompleteRun { run, lease, outcome: self.outcome() }),
            },
            5 => {
                let (run, lease) = self.run();
                Command::CompleteRun(CompleteRun { run, lease, outcome: self.outcome() })
            }
            6 => {
                let (work, lease) = self.lease();
                Command::Release(Release { work, lease })
            }
            7 => {
                let (run, lease) = self.run();
                Command::ParkRun(ParkRun { run, lease, seen: u32::from(self.byte() % 8) })
            }
            8 => {
                let session = self.session();
                let count = self.byte() % 4;
                Command::ResumeSession { session, held: (0..count).map(|_| self.lease().1).collect() }
            }
            9 => Command::EndSession { session: self.session() },
            10 => Command::PauseQueue { queue: self.name() },
            11 => Command::UnpauseQueue { queue: self.name() },
            12 => codec::decode("command", self.encoded()).unwrap_or(Command::Tick),
            13 => {
                let (session, encoded) = (self.session(), self.encoded());
                let request = codec::decode("request", encoded).ok();
                request.and_then(|request| perform(kv, self.group, session, request)).unwrap_or(Command::Tick)
            }
            _ => Command::Tick,
        }
    }

    fn encoded(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.bytes.len());
        let (encoded, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        encoded
    }

    fn entry(&mut self, now: Timestamp, kv: &MemKv) -> Entry {
        let commands = (0..self.byte() % 4).map(|_| self.command(kv)).collect();
        let queues: [Name; 2] = ["a".into(), "b".into()];
        let names: Arc<[Name]> = ["a", "b", "longer"].map(Name::from).into();
        let mut entry = Entry { now, commands, name_sets: vec![names], ..Entry::default() };
        for _ in 0..self.byte() % 4 {
            let queue = queues[usize::from(self.byte() % 2)].clone();
            let kind = if self.byte().is_multiple_of(2) { WorkKind::Run } else { WorkKind::Task };
            let session = self.session();
            let name = self.name();
            // A malformed entry leases nothing.
            let names = u32::from(self.byte() == 255);
            entry.lanes.push(Lane { queue: queue.clone(), kind, name });
            entry.grants.push(Grant { session, queue, kind, names, slots: u32::from(self.byte() % 5) });
        }
        entry
    }

    fn see(&mut self, kv: &MemKv, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::TaskLeased { session, lease } => self.held.push((session, Work::Task(lease.task), lease.lease)),
                Effect::RunLeased { session, lease, .. } => {
                    drop(query::memo(kv, self.group, lease.run));
                    self.held.push((session, Work::Run(lease.run), lease.lease));
                }
                _ => {}
            }
        }
    }
}
