//! What the tests share: a node of one group, and entries to propose.
#![allow(dead_code, reason = "every test file uses its own part")]

pub mod cluster;

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::{Applied, Entry, Grant};
use coda_engine::kv::Read;
use coda_protocol::ids::{GroupId, LeaseId, Millis, NodeId, SessionId, TaskId, Timestamp, Work, WorkKind};
use coda_protocol::payload::{Failure, Payload};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::request::{CompleteTask, Release, SubmitTask};
use coda_raft_store::group::{Group, GroupOptions};
use coda_raft_store::peers::NoPeers;
use coda_raft_store::store::{NodeStore, StoreOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub const GROUP: GroupId = GroupId(1);

/// A node with one group that it leads.
pub struct Node {
    pub store: NodeStore,
    pub group: Group,
}

impl Node {
    pub async fn start(dir: &Path) -> Self {
        Self::with(dir, StoreOptions::default(), GroupOptions::new(GROUP, NodeId(1))).await
    }

    pub async fn with(dir: &Path, store: StoreOptions, group: GroupOptions) -> Self {
        let store = NodeStore::open(dir, store).unwrap();
        let group = Group::start(store.clone(), group, Arc::new(NoPeers)).await.unwrap();
        group.initialize_single().await.unwrap();
        Self { store, group }
    }

    pub async fn stop(self) {
        self.group.shutdown().await;
        drop(self.group);
        self.store.close().unwrap();
    }
}

pub fn task_id(number: u64) -> TaskId {
    let mut id = [0x11; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    TaskId(id)
}

/// An entry that submits these tasks.
pub fn submit(numbers: Range<u64>) -> Entry {
    submit_bytes(numbers, 64)
}

pub fn submit_bytes(numbers: Range<u64>, payload: usize) -> Entry {
    let now = Timestamp(1_000 + numbers.start);
    Entry { now, commands: numbers.map(|number| submit_task(number, payload)).collect(), ..Entry::default() }
}

fn submit_task(number: u64, payload: usize) -> Command {
    Command::SubmitTask(SubmitTask {
        task: task_id(number),
        name: "send".into(),
        queue: "emails".into(),
        args: Payload::json(vec![b'7'; payload]),
        priority: 4,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    })
}

/// How many tasks there are.
pub fn tasks_of(view: &dyn Read) -> usize {
    rows_of(view, GROUP).keys().filter(|key| key[4] == 9).count()
}

/// Everything that the engine wrote for a group.
pub fn rows_of(view: &dyn Read, group: GroupId) -> BTreeMap<Vec<u8>, Bytes> {
    let from = [&group.0.to_be_bytes()[..], &[1]].concat();
    let to = (group.0 + 1).to_be_bytes();
    let mut rows = BTreeMap::new();
    view.scan(&from, &to, &mut |key, value| {
        rows.insert(key.to_vec(), Bytes::copy_from_slice(value));
        ControlFlow::Continue(())
    });
    rows
}

/// A history with a seed: tasks are submitted, leased, completed, failed, handed back, and sessions end.
pub struct RandomEntries {
    random: StdRng,
    next_task: u64,
    now: u64,
    leases: Vec<(TaskId, LeaseId)>,
}

impl RandomEntries {
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), next_task: 0, now: 1_000, leases: Vec::new() }
    }

    pub fn next_entry(&mut self) -> Entry {
        self.now += self.random.random_range(0..50);
        let count = self.random.random_range(0..8);
        let commands = (0..count).map(|_| self.command()).collect();
        let grants = (0..self.random.random_range(0..3)).map(|_| Grant {
            session: session(self.random.random_range(0..4)),
            queue: "emails".into(),
            kind: WorkKind::Task,
            names: 0,
            slots: self.random.random_range(1..4),
        });
        let grants = grants.collect();
        Entry {
            now: Timestamp(self.now),
            commands,
            grants,
            name_sets: vec![Arc::from(["send".into()])],
            lanes: vec![coda_engine::entry::Lane { queue: "emails".into(), kind: WorkKind::Task, name: "send".into() }],
        }
    }

    fn command(&mut self) -> Command {
        let lease = (!self.leases.is_empty()).then(|| self.random.random_range(0..self.leases.len()));
        match (self.random.random_range(0..20), lease) {
            (0..=2, Some(at)) => {
                let (task, lease) = self.leases.swap_remove(at);
                let failure = Failure {
                    kind: "ValueError".into(),
                    message: "no".into(),
                    traceback: String::new(),
                    retryable: true,
                };
                Command::CompleteTask(CompleteTask { task, lease, outcome: Err(failure) })
            }
            (3..=8, Some(at)) => {
                let (task, lease) = self.leases.swap_remove(at);
                let bytes = self.random.random_range(0..3_000);
                Command::CompleteTask(CompleteTask { task, lease, outcome: Ok(Payload::json(vec![b'1'; bytes])) })
            }
            (9, Some(at)) => {
                let (task, lease) = self.leases.swap_remove(at);
                Command::Release(Release { work: Work::Task(task), lease })
            }
            (10, _) => Command::EndSession { session: session(self.random.random_range(0..4)) },
            (11, _) => Command::Tick,
            (12, _) if self.next_task > 0 => {
                // Submitted before: a retry of a client.
                submit_task(self.random.random_range(0..self.next_task), 64)
            }
            _ => {
                self.next_task += 1;
                let bytes = self.random.random_range(0..3_000);
                submit_task(self.next_task, bytes)
            }
        }
    }

    /// Tells what an entry led to, so that later entries work on its leases.
    pub fn learn(&mut self, applied: &Applied) {
        for effect in &applied.effects {
            if let Effect::TaskLeased { lease, .. } = effect {
                self.leases.push((lease.task, lease.lease));
            }
        }
    }
}

fn session(number: u8) -> SessionId {
    SessionId([number; 16])
}
