//! Whoever comes and goes, and says whatever it likes meanwhile, leaves nothing behind in the node's memory.

use coda_broker::node::Usage;
use coda_client::{BoxError, SubmitOptions};
use coda_node_tests::node::TestNode;
use coda_node_tests::raw::{Raw, client_config, endpoint, submit, tls};
use coda_node_tests::work::run;
use coda_node_tests::{soon, until};
use coda_protocol::frame::Frame;
use coda_protocol::ids::{GroupId, LeaseId, TaskId};
use coda_protocol::limits::SUBSCRIPTION_NAMES_MAX;
use coda_protocol::reject::{Refusal, Reject};
use coda_protocol::reply::Reply;
use coda_protocol::request::{Request, Resume, Subscribe};

/// What a node holds once nobody is there, and all who may come back have had their time.
async fn nothing_is_left(node: &TestNode) {
    until("all is forgotten", || async {
        let usage = node.node().usage().await;
        (usage == Usage::default()).then_some(())
    })
    .await;
}

/// Says what workers and clients say, and leaves in one of the ways there are.
async fn come_and_go(mut raw: Raw, n: usize, never: TaskId) {
    raw = raw.greet().await;
    raw.ask(Request::Resume(Resume { group: GroupId(1), held: vec![LeaseId(n as u64)] })).await.expect("resumed");
    raw.subscribe("shared", &["nobody does this"]).await;
    raw.subscribe(&format!("queue-{n}"), &["a", "b"]).await;
    raw.credit("shared", 3).await;
    for _ in 0..3 {
        raw.post(Request::AwaitTask(never)).await;
    }
    match n % 4 {
        0 => raw.close(1).await,
        1 => raw.close(9).await,
        2 => {
            // In the middle of its first words about another queue.
            let subscribe = Subscribe { queue: format!("late-{n}").into(), tasks: Vec::new(), workflows: Vec::new() };
            raw.post(Request::Subscribe(subscribe)).await;
            raw.connection.close(9_u32.into(), b"");
        }
        _ => {
            raw.post(Request::DescribeNode).await;
            drop(raw);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_come_and_go_leave_nothing_behind() {
    const SESSIONS: usize = 2_000;
    const AT_ONCE: usize = 40;
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let never = client.submit(SubmitOptions::new("nobody serves this").queue("elsewhere")).await.unwrap().id();
    client.close().await;
    let (endpoint, config) = (endpoint(), client_config(tls(&node.ca(), &[b"coda"])));
    for first in (0..SESSIONS).step_by(AT_ONCE) {
        let visits = (first..first + AT_ONCE).map(|n| {
            let (endpoint, config, address) = (endpoint.clone(), config.clone(), node.address);
            tokio::spawn(async move { come_and_go(Raw::connect_with(endpoint, config, address).await, n, never).await })
        });
        for visit in visits.collect::<Vec<_>>() {
            soon("a visit", visit).await.expect("no panic");
        }
    }
    nothing_is_left(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_come_and_go_leave_nothing_of_what_they_held() {
    let mut node = TestNode::start().await;
    for round in 0..20 {
        let client = node.client().await;
        let worker = run(node.worker().task("echo", |n: u64| async move { Ok::<_, BoxError>(n) }));
        let gone = {
            let mut gone = node.raw().await.greet().await;
            gone.serve("default", &["echo"], 4).await;
            gone
        };
        for n in 0..20_u64 {
            client.submit_json("echo", &n).await.unwrap();
        }
        gone.close(if round % 2 == 0 { 1 } else { 9 }).await;
        until("all is done", || async {
            let summary = client.describe_queue("default").await.unwrap().summary;
            (summary.ready + summary.leased + summary.delayed == 0).then_some(())
        })
        .await;
        worker.stop().await;
        client.close().await;
    }
    nothing_is_left(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_resumes_its_session_once_and_keeps_what_it_was_leased_since() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let mut worker = node.raw().await.greet().await;
    worker.serve("default", &["held"], 1).await;
    let task = client.submit(SubmitOptions::new("held")).await.unwrap();
    let lease = worker.task().await;
    for _ in 0..100 {
        let again = worker.ask(Request::Resume(Resume { group: GroupId(1), held: Vec::new() })).await;
        assert_eq!(again, Err(Refusal::Reject(Reject::ResumedBefore)));
    }
    assert_eq!((lease.task, client.describe_task(task.id()).await.unwrap().attempts), (task.id(), 1));
    assert!(worker.pushes_so_far().await.is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_subscriptions_and_credits_is_answered_and_remembered_once() {
    const ROUNDS: u64 = 300;
    let mut node = TestNode::start().await;
    let mut client = node.raw().await.greet().await;
    // Ready work of as many names as one may serve: each subscription finds all of it again.
    let names: Vec<String> = (0..SUBSCRIPTION_NAMES_MAX).map(|n| format!("name-{n}")).collect();
    for name in &names {
        client.post(submit(name, "flooded")).await;
    }
    let mut raw = node.raw().await.greet().await;
    raw.resume(1).await;
    let subscribe = Subscribe {
        queue: "flooded".into(),
        tasks: names.iter().map(|name| name.as_str().into()).collect(),
        workflows: Vec::new(),
    };
    let flood = async {
        for id in 1..=ROUNDS {
            raw.say_frame(&Frame::Request { id, request: Request::Subscribe(subscribe.clone()) }).await;
            // Credit for queues that it does not serve means nothing, however much of it comes.
            for n in 0..20 {
                raw.credit(&format!("queue-{n}"), u32::MAX).await;
            }
        }
        for id in 1..=ROUNDS {
            assert_eq!(raw.answer(id).await, Ok(Reply::Done));
        }
    };
    let others = async {
        let client = node.client().await;
        for _ in 0..50 {
            client.describe_node().await.expect("described");
        }
        client.close().await;
    };
    tokio::join!(flood, others);
    let usage = node.node().usage().await;
    assert_eq!((usage.queues, usage.subscriptions), (1, 1));
    assert_eq!(usage.lanes, SUBSCRIPTION_NAMES_MAX, "each lane once");
    raw.close(1).await;
    client.close(1).await;
    nothing_is_left(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_unpaused_again_and_again_hands_out_what_waits_in_it_once() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    client.pause_queue("default").await.unwrap();
    let mut worker = node.raw().await.greet().await;
    worker.serve("default", &["work"], 10).await;
    for _ in 0..3 {
        client.submit(SubmitOptions::new("work")).await.unwrap();
        client.submit(SubmitOptions::new("of nobody")).await.unwrap();
    }
    let mut operator = node.raw().await.greet().await;
    for id in 1..=2_000 {
        operator.say_frame(&Frame::Request { id, request: Request::UnpauseQueue("default".into()) }).await;
    }
    for _ in 0..3 {
        worker.task().await;
    }
    for id in 1..=2_000 {
        assert_eq!(operator.answer(id).await, Ok(Reply::Done));
    }
    assert!(worker.pushes_so_far().await.is_empty());
    node.stop().await;
}
