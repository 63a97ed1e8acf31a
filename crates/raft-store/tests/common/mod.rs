//! What the tests share: a node of one group, and entries to propose.
#![allow(dead_code)]

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use coda_engine::command::Command;
use coda_engine::entry::Entry;
use coda_engine::kv::Read;
use coda_protocol::ids::{GroupId, Millis, NodeId, TaskId, Timestamp};
use coda_protocol::payload::Payload;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::request::SubmitTask;
use coda_raft_store::group::{Group, GroupOptions};
use coda_raft_store::peers::NoPeers;
use coda_raft_store::store::{NodeStore, StoreOptions};

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
    let commands = numbers.clone().map(|number| {
        Command::SubmitTask(SubmitTask {
            task: task_id(number),
            name: "send".into(),
            queue: "emails".into(),
            args: Payload::json(vec![b'7'; payload]),
            priority: 4,
            policy: RetryPolicy::NEVER,
            delay: Millis(0),
        })
    });
    Entry { now: Timestamp(1_000 + numbers.start), commands: commands.collect(), ..Entry::default() }
}

/// How many tasks there are.
pub fn tasks_of(view: &dyn Read) -> usize {
    let mut count = 0;
    view.scan(&[0, 0, 0, 1, 9], &[0, 0, 0, 1, 10], &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    });
    count
}
