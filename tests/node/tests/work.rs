//! The Rust SDK against a node: what users do all day.

use std::sync::Arc;
use std::time::Duration;

use coda_client::{BoxError, RunError, StartOptions, SubmitOptions, WorkflowContext};
use coda_node_tests::node::TestNode;
use coda_node_tests::soon;
use coda_node_tests::work::{Calls, run};
use coda_protocol::ids::Millis;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::reply::{Wait, WorkState};

const QUICK: RetryPolicy =
    RetryPolicy { max_retries: 3, initial: Millis(10), factor_percent: 100, max: Millis(10), jitter_percent: 0 };

fn calls_nobody() -> Option<()> {
    None
}

fn failed(error: RunError) -> (String, String) {
    match error {
        RunError::Failed(failure) => (failure.kind, failure.message),
        RunError::Client(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_of_two_steps_runs_each_once_and_every_client_gets_the_result() {
    let mut node = TestNode::start().await;
    let calls = Calls::default();
    let (first, second) = (calls.clone(), calls.clone());
    let worker = run(node
        .worker()
        .task("double", move |n: u64| {
            first.call(n);
            async move { Ok::<_, BoxError>(n * 2) }
        })
        .task("add", move |(a, b): (u64, u64)| {
            second.call(100 + a);
            async move { Ok::<_, BoxError>(a + b) }
        })
        .workflow("sum", |cx: WorkflowContext, n: u64| async move {
            let doubled: u64 = cx.spawn_task("double", n).await?;
            let sum: u64 = cx.spawn_task("add", (doubled, n)).await?;
            Ok::<_, BoxError>(sum)
        }));
    let client = node.client().await;
    let started = client.start_json("sum", &7).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..5 {
        let other = node.client().await;
        let id = started.id();
        others.push(tokio::spawn(async move { other.run(id).result_json::<u64>().await }));
    }
    assert_eq!(soon("a result", started.result_json::<u64>()).await.unwrap(), 21);
    for other in others {
        assert_eq!(soon("the same result", other).await.unwrap().unwrap(), 21);
    }
    // Asked again it is the same, and starting the same id again is no second run.
    assert_eq!(soon("a result", started.result_json::<u64>()).await.unwrap(), 21);
    let again = StartOptions::new("sum").id(started.id()).input_json(&7).unwrap();
    assert!(client.start(again).await.unwrap().existed());
    assert_eq!(calls.sorted(), [7, 114]);
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_retried_by_their_policy_and_then_fail_with_what_they_said() {
    let mut node = TestNode::start().await;
    let calls = Calls::default();
    let (flaky, hopeless) = (calls.clone(), Calls::default());
    let counted = hopeless.clone();
    let worker = run(node
        .worker()
        .task("flaky", move |(): ()| {
            let call = flaky.call(0);
            async move { if call < 3 { Err(BoxError::from("not yet")) } else { Ok(call) } }
        })
        .task("hopeless", move |(): ()| {
            counted.call(0);
            async move { Err::<(), BoxError>("never".into()) }
        })
        .task("panics", |(): ()| async move {
            assert!(calls_nobody().is_some(), "a panic is a failure");
            Ok::<_, BoxError>(0)
        }));
    let client = node.client().await;
    let flaky = client.submit(SubmitOptions::new("flaky").policy(QUICK)).await.unwrap();
    let hopeless_task = client.submit(SubmitOptions::new("hopeless").policy(QUICK)).await.unwrap();
    let panics = client.submit(SubmitOptions::new("panics")).await.unwrap();
    assert_eq!(soon("a result", flaky.result_json::<u64>()).await.unwrap(), 3);
    let (_, message) = failed(soon("a failure", hopeless_task.result()).await.unwrap_err());
    assert_eq!((message.as_str(), hopeless.count()), ("never", 4));
    let (_, message) = failed(soon("a failure", panics.result()).await.unwrap_err());
    assert!(message.contains("a panic is a failure"), "{message}");
    let described = client.describe_task(hopeless_task.id()).await.unwrap();
    assert_eq!((described.state, described.waits, described.attempts), (WorkState::Failed, Wait::No, 4));
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_that_fails_is_tried_again_with_its_memo_and_inline_steps_are_not_repeated() {
    let mut node = TestNode::start().await;
    let (inline, steps) = (Calls::default(), Calls::default());
    let (counted_inline, counted_steps) = (inline.clone(), steps.clone());
    let worker = run(node
        .worker()
        .task("step", move |n: u64| {
            counted_steps.call(n);
            async move { Ok::<_, BoxError>(n + 1) }
        })
        .workflow("again", move |cx: WorkflowContext, (): ()| {
            let inline = counted_inline.clone();
            async move {
                let inline = inline.clone();
                let drawn: u64 = cx
                    .run("draw", ["once"], move || {
                        inline.call(0);
                        async move { Ok::<_, BoxError>(41_u64) }
                    })
                    .await?;
                let stepped: u64 = cx.spawn_task("step", drawn).await?;
                if cx.attempt() < 3 { Err(BoxError::from("not yet")) } else { Ok(stepped) }
            }
        }));
    let client = node.client().await;
    let started = client.start(StartOptions::new("again").policy(QUICK)).await.unwrap();
    assert_eq!(soon("a result", started.result_json::<u64>()).await.unwrap(), 42);
    assert_eq!((inline.count(), steps.count()), (1, 1));
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_return_to_their_parent_and_their_failures_too() {
    let mut node = TestNode::start().await;
    let worker = run(node
        .worker()
        .task("square", |n: u64| async move { Ok::<_, BoxError>(n * n) })
        .workflow("child", |cx: WorkflowContext, n: u64| async move {
            if n == 13 {
                return Err(BoxError::from("unlucky"));
            }
            Ok(cx.spawn_task::<u64>("square", n).await?)
        })
        .workflow("parent", |cx: WorkflowContext, many: u32| async move {
            let children: Vec<_> = (0..many).map(|n| cx.spawn_workflow::<u64>("child", n).key([n]).start()).collect();
            let mut sum = 0;
            for child in children {
                sum += child.await?;
            }
            Ok::<_, BoxError>(sum)
        }));
    let client = node.client().await;
    let lucky = client.start_json("parent", &10).await.unwrap();
    let unlucky = client.start_json("parent", &14).await.unwrap();
    assert_eq!(soon("a result", lucky.result_json::<u64>()).await.unwrap(), (0..10).map(|n| n * n).sum::<u64>());
    let (_, message) = failed(soon("a failure", unlucky.result()).await.unwrap_err());
    assert!(message.contains("unlucky"), "{message}");
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_run_gives_up_its_slot_and_goes_on_with_what_it_knew() {
    let mut node = TestNode::start().await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = gate.clone();
    let executions = Calls::default();
    let counted = executions.clone();
    let worker = run(node
        .worker()
        .run_slots(1)
        .park_after(Some(Duration::from_millis(20)))
        .task("wait", move |(): ()| {
            let held = held.clone();
            async move {
                held.acquire().await?.forget();
                Ok::<_, BoxError>(7_u64)
            }
        })
        .workflow("waits", move |cx: WorkflowContext, (): ()| {
            counted.call(0);
            async move { Ok::<_, BoxError>(cx.spawn_task::<u64>("wait", ()).await?) }
        })
        .workflow("quick", |_: WorkflowContext, (): ()| async move { Ok::<_, BoxError>(1_u64) }));
    let client = node.client().await;
    let waits = client.start(StartOptions::new("waits")).await.unwrap();
    // One slot: this can only run because the other gave it up.
    let quick = client.start(StartOptions::new("quick")).await.unwrap();
    assert_eq!(soon("a result", quick.result_json::<u64>()).await.unwrap(), 1);
    assert_eq!(client.describe_run(waits.id()).await.unwrap().waits, Wait::Steps);
    gate.add_permits(1);
    assert_eq!(soon("a result", waits.result_json::<u64>()).await.unwrap(), 7);
    assert!(executions.count() >= 2);
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_says_why_it_waits_and_starts_when_its_worker_comes() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let waits = client.submit(SubmitOptions::new("send").queue("emails")).await.unwrap();
    assert_eq!(client.describe_task(waits.id()).await.unwrap().waits, Wait::NoWorker);
    client.pause_queue("emails").await.unwrap();
    assert_eq!(client.describe_task(waits.id()).await.unwrap().waits, Wait::QueuePaused);
    let worker =
        run(node.worker().queue("emails").task("send", |(): ()| async move { Ok::<_, BoxError>("sent".to_owned()) }));
    coda_node_tests::until("the worker is known", || async {
        (client.describe_queue("emails").await.unwrap().summary.workers == 1).then_some(())
    })
    .await;
    assert_eq!(client.describe_task(waits.id()).await.unwrap().waits, Wait::QueuePaused);
    client.unpause_queue("emails").await.unwrap();
    assert_eq!(soon("a result", waits.result_json::<String>()).await.unwrap(), "sent");
    worker.stop().await;
    node.stop().await;
}
