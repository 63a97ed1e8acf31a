//! Sessions outlive their connections for a while; what they held goes to others when they do not come back.

use std::time::{Duration, Instant};

use coda_broker::config::SESSION_GRACE;
use coda_client::{BoxError, Client, SubmitOptions};
use coda_node_tests::node::TestNode;
use coda_node_tests::raw::Raw;
use coda_node_tests::relay::Relay;
use coda_node_tests::work::{Calls, run};
use coda_node_tests::{soon, until};
use coda_protocol::ids::{GroupId, LeaseId, SessionId, TaskId};
use coda_protocol::payload::Payload;
use coda_protocol::push::TaskLease;
use coda_protocol::reject::{Refusal, Reject};
use coda_protocol::reply::{Reply, WorkState};
use coda_protocol::request::{CompleteTask, Request, Resume};

fn complete(task: TaskId, lease: LeaseId) -> Request {
    Request::CompleteTask(CompleteTask { task, lease, outcome: Ok(Payload::json("7")) })
}

fn resume(held: &[LeaseId]) -> Request {
    Request::Resume(Resume { group: GroupId(1), held: held.to_vec() })
}

/// A raw worker that holds the lease of one task.
async fn holder(node: &TestNode, client: &Client) -> (Raw, TaskLease) {
    let mut worker = node.raw().await.greet().await;
    worker.serve("default", &["held"], 1).await;
    client.submit(SubmitOptions::new("held")).await.expect("submitted");
    let lease = worker.task().await;
    (worker, lease)
}

/// A second raw worker that waits for the same work.
async fn heir(node: &TestNode) -> Raw {
    let mut heir = node.raw().await.greet().await;
    heir.serve("default", &["held"], 8).await;
    heir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_work_of_a_session_that_is_ended_is_leased_again_at_once_and_its_late_result_refused() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let (worker, lease) = holder(&node, &client).await;
    let mut heir = heir(&node).await;
    let since = Instant::now();
    client.end_session(worker.session).await.unwrap();
    let inherited = heir.task().await;
    assert!(since.elapsed() < SESSION_GRACE, "a dead process is no reason to wait");
    assert_eq!((inherited.task, inherited.attempt), (lease.task, 2));
    assert!(inherited.lease > lease.lease);
    assert_eq!(worker.closed().await, (3, "session ended".into()));
    // It was alive after all, and comes back with its result.
    let session = worker.session;
    let (mut back, _) = node.raw().await.greet_as(session).await;
    assert_eq!(back.ask(resume(&[lease.lease])).await, Ok(Reply::Resumed { lost: vec![lease.lease] }));
    let late = back.ask(complete(lease.task, lease.lease)).await;
    assert_eq!(late, Err(Refusal::Reject(Reject::StaleLease)));
    assert_eq!(heir.ask(complete(inherited.task, inherited.lease)).await, Ok(Reply::Done));
    assert_eq!(client.describe_task(lease.task).await.unwrap().state, WorkState::Succeeded);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ending_a_session_that_is_not_there_does_nothing() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    client.end_session(SessionId::random()).await.unwrap();
    let (worker, _) = holder(&node, &client).await;
    let session = worker.session;
    worker.close(1).await;
    client.end_session(session).await.unwrap();
    client.end_session(session).await.unwrap();
    let mut heir = heir(&node).await;
    assert_eq!(heir.task().await.attempt, 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_hands_everything_back_at_once() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let (worker, lease) = holder(&node, &client).await;
    let mut heir = heir(&node).await;
    let since = Instant::now();
    worker.close(1).await;
    assert_eq!(heir.task().await.task, lease.task);
    assert!(since.elapsed() < SESSION_GRACE, "{:?}", since.elapsed());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_comes_back_in_time_keeps_what_it_names_and_another_does_not() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let (worker, kept) = holder(&node, &client).await;
    let (other, lost) = holder(&node, &client).await;
    let mut heir = heir(&node).await;
    let session = worker.session;
    let since = Instant::now();
    worker.close(9).await;
    other.close(9).await;
    let (mut back, _) = node.raw().await.greet_as(session).await;
    let unknown = LeaseId(77);
    let resumed = back.ask(resume(&[kept.lease, unknown])).await;
    assert_eq!(resumed, Ok(Reply::Resumed { lost: vec![unknown] }));
    // The other did not come back: not before its grace is over.
    assert_eq!(heir.task().await.task, lost.task);
    assert!(since.elapsed() >= SESSION_GRACE);
    assert_eq!(back.ask(complete(kept.task, kept.lease)).await, Ok(Reply::Done));
    assert!(heir.pushes_so_far().await.is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absence_counts_from_its_own_beginning_and_not_from_an_earlier_one() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let (worker, lease) = holder(&node, &client).await;
    let mut heir = heir(&node).await;
    let session = worker.session;
    worker.close(9).await;
    // Comes back late within its grace, and is gone again.
    tokio::time::sleep(SESSION_GRACE / 2).await;
    let (mut back, _) = node.raw().await.greet_as(session).await;
    back.ask(resume(&[lease.lease])).await.unwrap();
    let since = Instant::now();
    back.close(9).await;
    assert_eq!(heir.task().await.task, lease.task);
    assert!(since.elapsed() >= SESSION_GRACE, "{:?}", since.elapsed());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_comes_back_only_to_say_hello_does_not_keep_its_leases_for_ever() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let (worker, lease) = holder(&node, &client).await;
    let session = worker.session;
    let mut heir = heir(&node).await;
    let (back, _) = node.raw().await.greet_as(session).await;
    assert_eq!(worker.closed().await.0, 3);
    // Past the grace of the first absence, so that only its own end can hand back what it holds.
    tokio::time::sleep(SESSION_GRACE + SESSION_GRACE / 4).await;
    assert!(heir.pushes_so_far().await.is_empty());
    back.close(9).await;
    assert_eq!(heir.task().await.task, lease.task);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_replaces_the_older_and_what_it_does_not_name_is_handed_back() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let (worker, first) = holder(&node, &client).await;
    let session = worker.session;
    let (mut newer, _) = node.raw().await.greet_as(session).await;
    assert_eq!(worker.closed().await, (3, "replaced by a newer connection".into()));
    newer.serve("default", &["held"], 1).await;
    let again = newer.task().await;
    assert_eq!((again.task, again.attempt), (first.task, 2));
    assert_eq!(newer.ask(complete(again.task, again.lease)).await, Ok(Reply::Done));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_was_granted_to_a_session_that_had_vanished_is_handed_back() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let relay = Relay::to(node.address).await;
    let mut vanished = Raw::connect(relay.address, &node.ca()).await.greet().await;
    vanished.serve("default", &["held"], 1).await;
    vanished.pushes_so_far().await;
    relay.cut();
    let task = client.submit(SubmitOptions::new("held")).await.unwrap();
    until("it is leased to who is not there", || async {
        (client.describe_task(task.id()).await.unwrap().state == WorkState::Running).then_some(())
    })
    .await;
    let mut heir = heir(&node).await;
    let inherited = heir.task().await;
    assert_eq!((inherited.task, inherited.attempt), (task.id(), 2));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_was_granted_to_the_earlier_connection_does_not_reach_the_newer() {
    // Long enough to reconnect while the entry with the grant is on its way to the disk.
    let mut node = TestNode::start_slow(Duration::from_millis(700)).await;
    let mut worker = node.raw().await.greet().await;
    worker.serve("default", &["held"], 1).await;
    let client = node.client().await;
    let submitting = tokio::spawn(async move { client.submit(SubmitOptions::new("held")).await.unwrap().id() });
    // Once the submit is under way its grant is, and the credit of the earlier connection with it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let session = worker.session;
    let (mut newer, _) = node.raw().await.greet_as(session).await;
    newer.serve("default", &["held"], 5).await;
    let lease = newer.task().await;
    let task = soon("it is submitted", submitting).await.unwrap();
    // The first lease was handed back by the resume: whoever worked under it would work in vain.
    assert_eq!((lease.task, lease.attempt), (task, 2));
    assert_eq!(newer.ask(complete(lease.task, lease.lease)).await, Ok(Reply::Done));
    assert!(newer.pushes_so_far().await.is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_reconnects_in_the_middle_of_grants_nothing_is_lost_and_nothing_runs_twice() {
    const TASKS: u64 = 600;
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let calls = Calls::default();
    let counted = calls.clone();
    let options = node.options();
    let session = options.session;
    let worker = run(coda_client::Worker::builder(options).task_slots(8).task("count", move |n: u64| {
        counted.call(n);
        async move {
            // Longer than a connection takes: there is something left to interrupt.
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok::<_, BoxError>(n)
        }
    }));
    let results: Vec<_> = (0..TASKS)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let task = client.submit_json("count", &n).await.unwrap();
                assert_eq!(task.result_json::<u64>().await.unwrap(), n);
            })
        })
        .collect();
    // Somebody else takes the session over again and again; its owner comes back each time and goes on.
    let mut replaced = 0;
    while calls.count() < TASKS as usize {
        node.raw().await.take_over(session).await;
        replaced += 1;
        let goal = (calls.count() + 50).min(TASKS as usize);
        until("its owner is back", || async { (calls.count() >= goal).then_some(()) }).await;
    }
    for result in results {
        soon("a result", result).await.unwrap();
    }
    assert!(replaced > 3);
    assert_eq!(calls.sorted(), (0..TASKS).collect::<Vec<_>>(), "replaced {replaced} times");
    worker.stop().await;
    node.stop().await;
}
