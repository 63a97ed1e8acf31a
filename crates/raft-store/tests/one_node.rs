//! A group of one node: the road of an entry, restarts, and what is refused.

mod common;

use std::sync::Arc;
use std::time::Duration;

use coda_engine::tables::TASK;
use coda_protocol::ids::{GroupId, NodeId, TaskId};
use coda_raft_store::group::{Group, GroupOptions, ProposeError};
use coda_raft_store::peers::NoPeers;
use coda_raft_store::store::{NodeStore, StoreError, StoreOptions};
use common::{GROUP, Node, submit, tasks_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_is_applied_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let entry = submit(0..3);
    let committed = node.group.propose(entry.clone()).await.unwrap();
    assert_eq!(committed.applied.outcomes.len(), 3);
    assert!(committed.applied.outcomes.iter().all(Result::is_ok));
    let again = node.group.propose(entry.clone()).await.unwrap();
    assert!(again.position > committed.position, "positions grow");
    assert_eq!(node.group.read(|view, _| tasks_of(view)), 3);
    assert_eq!(node.group.linearize().await.unwrap(), again.position.index);
    let digest = node.group.digest();
    node.stop().await;

    let node = Node::start(dir.path()).await;
    assert_eq!(node.group.read(|view, _| tasks_of(view)), 3);
    assert_eq!(node.group.digest().1, digest.1);
    let task = TaskId([2; 16]);
    assert!(node.group.read(|view, _| TASK.get(view, GROUP, &task)).is_none());
    node.stop().await;
}
