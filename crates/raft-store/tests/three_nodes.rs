//! Three nodes in one process, over a transport that only passes bytes: what the broker's network will do.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use coda_protocol::ids::NodeId;
use coda_raft_store::group::ProposeError;
use common::cluster::Cluster;
use common::{submit, submit_bytes, tasks_of};

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_equal_and_only_the_leader_accepts() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    for number in 0..50 {
        leader.propose(submit(number..number + 1)).await.unwrap();
    }
    cluster.agree().await;
    let follower = cluster.nodes.values().map(|(_, group)| group).find(|group| !group.leadership().borrow().is_me);
    let refused = follower.unwrap().propose(submit(99..100)).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: leader.leadership().borrow().leader }));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_takes_over_and_the_old_leader_catches_up() {
    let mut cluster = Cluster::start().await;
    cluster.leader().await.propose(submit(0..10)).await.unwrap();
    let leader = cluster.leader().await.leadership().borrow().leader.unwrap();
    cluster.down(leader).await;
    let next = cluster.leader().await;
    next.propose(submit(10..20)).await.unwrap();
    drop(next);
    cluster.up(leader).await;
    cluster.agree().await;
    assert_eq!(cluster.nodes[&leader].1.read(|view, _| tasks_of(view)), 20);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::start().await;
    let from = cluster.leader().await;
    let me = from.leadership().borrow().leader.unwrap();
    let to = NodeId(me.0 % 3 + 1);
    from.propose(submit(0..10)).await.unwrap();
    from.transfer_leader(to).await.unwrap();
    let mut leadership = cluster.nodes[&to].1.leadership();
    tokio::time::timeout(Duration::from_secs(5), leadership.wait_for(|now| now.is_me)).await.unwrap().unwrap();
    cluster.agree().await;
    drop(from);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_more_than_the_log_keeps_gets_a_snapshot() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let me = leader.leadership().borrow().leader.unwrap();
    let late = NodeId(me.0 % 3 + 1);
    leader.propose(submit(0..10)).await.unwrap();
    cluster.down(late).await;
    for number in 10..300 {
        leader.propose(submit_bytes(number..number + 1, 2_000)).await.unwrap();
    }
    let purged = leader.status().purged.expect("the log was let go");
    drop(leader);
    cluster.up(late).await;
    let applied = cluster.nodes[&late].1.read(|_, applied| applied);
    assert!(applied < purged, "the log alone cannot bring it back: {applied} {purged}");
    cluster.agree().await;
    assert_eq!(cluster.nodes[&late].1.read(|view, _| tasks_of(view)), 300);
    assert!(
        cluster.wires.snapshots_sent.load(Ordering::Relaxed) >= 2,
        "the damaged one was refused, and another one sent"
    );
    // And what was installed survives a restart.
    cluster.down(late).await;
    cluster.up(late).await;
    cluster.agree().await;
    cluster.stop().await;
}
