//! A node that leads several groups: requests find theirs, and workers serve all of them with the same slots.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use coda_client::BoxError;
use coda_node_tests::node::TestNode;
use coda_node_tests::raw::{Raw, submit};
use coda_node_tests::soon;
use coda_node_tests::work::run;
use coda_protocol::ids::{GroupId, Slotted, TaskId};
use coda_protocol::payload::Payload;
use coda_protocol::push::{Push, TaskLease};
use coda_protocol::reject::{Refusal, Unavailable};
use coda_protocol::reply::Reply;
use coda_protocol::request::{CompleteTask, Request, Resume};
use coda_protocol::slots::SlotMap;

const GROUPS: u16 = 4;

fn group_of(task: TaskId) -> u32 {
    SlotMap::even(GROUPS).group_of(task.slot()).0
}

/// A task whose slot belongs to the group.
fn submit_in(group: u32, name: &str, queue: &str) -> Request {
    loop {
        let Request::SubmitTask(task) = submit(name, queue) else { unreachable!("it submits") };
        if group_of(task.task) == group {
            return Request::SubmitTask(task);
        }
    }
}

async fn complete(raw: &mut Raw, lease: &TaskLease) {
    let (task, lease) = (lease.task, lease.lease);
    let done = CompleteTask { task, lease, outcome: Ok(Payload::json("1")) };
    raw.ask(Request::CompleteTask(done)).await.expect("completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_does_the_work_of_all_groups_and_everyone_finds_its_results() {
    let mut node = TestNode::start_groups(GROUPS).await;
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let seen = (running.clone(), most.clone());
    let worker = node.worker().task_slots(3).task("double", move |n: u64| {
        let (running, most) = seen.clone();
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::Relaxed);
            Ok::<_, BoxError>(2 * n)
        }
    });
    let worker = run(worker);
    let client = node.client().await;
    let mut handles = Vec::new();
    for n in 0..200_u64 {
        handles.push(client.submit_json("double", &n).await.unwrap());
    }
    let groups: BTreeSet<u32> = handles.iter().map(|handle| group_of(handle.id())).collect();
    assert_eq!(groups.len(), usize::from(GROUPS));
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(soon("a result", handle.result_json::<u64>()).await.unwrap(), 2 * n as u64);
        // A restart of the whole moves nothing.
        if n == 100 {
            node.restart().await;
        }
    }
    assert!(most.load(Ordering::Relaxed) <= 3, "slots are promised to one group at a time");
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_group_may_use_all_slots_and_none_uses_one_twice() {
    let mut node = TestNode::start_groups(GROUPS).await;
    let mut raw = node.raw().await.greet().await;
    for group in 1..=u32::from(GROUPS) {
        raw.resume(group).await;
    }
    raw.subscribe("q", &["send"]).await;
    raw.credit("q", 3).await;
    for _ in 0..5 {
        raw.ask(submit_in(2, "send", "q")).await.unwrap();
    }
    let first = [raw.task().await, raw.task().await, raw.task().await];
    assert!(first.iter().all(|lease| group_of(lease.task) == 2));
    raw.ask(submit_in(3, "send", "q")).await.unwrap();
    assert_eq!(raw.pushes_so_far().await, [], "three slots are three leases, whoever asks");
    // Work of two groups waits for slots: in the end all of it is done.
    let mut rest = 0;
    for lease in &first {
        complete(&mut raw, lease).await;
        raw.credit("q", 1).await;
        let next = raw.task().await;
        rest += u32::from(group_of(next.task) == 3);
        complete(&mut raw, &next).await;
    }
    assert_eq!(rest, 1, "five of one group and one of the other");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_leases_nothing_to_a_session_that_has_not_said_what_it_holds() {
    let mut node = TestNode::start_groups(GROUPS).await;
    let mut raw = node.raw().await.greet().await;
    raw.subscribe("q", &["send"]).await;
    raw.credit("q", 9).await;
    raw.ask(submit_in(1, "send", "q")).await.unwrap();
    raw.ask(submit_in(2, "send", "q")).await.unwrap();
    assert_eq!(raw.pushes_so_far().await, []);
    raw.resume(2).await;
    assert_eq!(group_of(raw.task().await.task), 2);
    raw.resume(1).await;
    assert_eq!(group_of(raw.task().await.task), 1);
    let elsewhere = raw.ask(Request::Resume(Resume { group: GroupId(9), held: Vec::new() })).await;
    assert_eq!(elsewhere, Err(Refusal::Unavailable(Unavailable::NotLeader { leader: None })));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_hears_at_once_where_everything_is() {
    let mut node = TestNode::start_groups(GROUPS).await;
    let mut raw = node.raw().await.greet().await;
    raw.ask(Request::DescribeNode).await.unwrap();
    let Some(Push::Map(map)) = raw.told.first() else { panic!("{:?}", raw.told) };
    assert_eq!((map.nodes.len(), map.groups.len()), (1, 1 + usize::from(GROUPS)), "with the meta group");
    assert_eq!(map.nodes[0].client_addr, node.address.to_string());
    let leaders = raw.told[1..].iter().map(|push| match push {
        Push::Leader(leader) => (leader.group.0, leader.leader),
        other => panic!("{other:?}"),
    });
    // What is said to everybody while somebody connects is said to it twice.
    let leaders: std::collections::BTreeSet<_> = leaders.collect();
    assert_eq!(leaders.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4].map(|group| (group, Some(map.nodes[0].node))));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_are_one_whatever_group_their_work_is_in() {
    let mut node = TestNode::start_groups(GROUPS).await;
    let client = node.client().await;
    let mut raw = node.raw().await.greet().await;
    for group in 1..=u32::from(GROUPS) {
        for _ in 0..group {
            raw.ask(submit_in(group, "send", "q")).await.unwrap();
        }
        raw.ask(submit_in(group, "send", &format!("q{group}"))).await.unwrap();
    }
    let queues = client.list_queues().await.unwrap();
    let counts: Vec<(&str, u64)> = queues.iter().map(|queue| (queue.queue.as_str(), queue.ready)).collect();
    assert_eq!(counts, [("q", 10), ("q1", 1), ("q2", 1), ("q3", 1), ("q4", 1)]);
    client.pause_queue("q").await.unwrap();
    let described = client.describe_queue("q").await.unwrap();
    assert_eq!((described.summary.ready, described.summary.paused, described.lanes.len()), (10, true, 1));
    assert_eq!(described.lanes[0].ready, 10);
    raw.serve("q", &["send"], 9).await;
    for group in 2..=u32::from(GROUPS) {
        raw.resume(group).await;
    }
    assert_eq!(raw.pushes_so_far().await, [], "paused in every group");
    client.unpause_queue("q").await.unwrap();
    for _ in 0..9 {
        raw.task().await;
    }
    let Ok(Reply::Node(described)) = raw.ask(Request::DescribeNode).await else { panic!() };
    assert_eq!((described.groups.len(), described.counters.leases), (usize::from(GROUPS), 9));
    node.stop().await;
}
