//! Nodes that stop, start again, and lose their leader in between: what was acknowledged stays, what runs goes on.

use std::sync::Arc;
use std::time::Duration;

use coda_broker::node::{Node, NodeConfig};
use coda_client::{BoxError, RunError, StartOptions, SubmitOptions, WorkflowContext};
use coda_node_tests::node::TestNode;
use coda_node_tests::work::{Calls, run};
use coda_node_tests::{logs, soon, until};
use coda_protocol::reply::{Wait, WorkState};
use tokio::sync::Semaphore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_has_one_node() {
    let mut node = TestNode::start().await;
    let Err(error) = node.start_another().await else { panic!("two nodes in one folder") };
    assert_eq!(error.code(), "CODA4101");
    // The first is not disturbed, and its folder is free once it has stopped.
    assert!(node.client().await.describe_node().await.is_ok());
    node.restart().await;
    assert!(node.client().await.describe_node().await.is_ok());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_address_says_so_and_leaves_the_folder_usable() {
    let node = TestNode::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = NodeConfig::alone(dir.path().into(), node.address);
    let Err(error) = Node::start(config.clone()).await else { panic!("two nodes at one address") };
    assert_eq!(error.code(), "CODA4203");
    assert!(error.to_string().contains(&node.address.to_string()), "{error}");
    config.listen.set_port(0);
    let other = soon("the node starts", Node::start(config)).await.unwrap();
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let inline = Calls::default();
    let steps = Calls::default();
    let gate = Arc::new(Semaphore::new(0));
    let worker = |node: &TestNode| {
        let (inline, steps, gate) = (inline.clone(), steps.clone(), gate.clone());
        run(node
            .worker()
            .drain_timeout(Duration::from_millis(10))
            .task("quick", |n: u64| async move { Ok::<_, BoxError>(n) })
            .task("fails", |(): ()| async move { Err::<(), _>(BoxError::from("as asked")) })
            .task("gated", move |n: u64| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await?.forget();
                    Ok::<_, BoxError>(n)
                }
            })
            .task("step", move |n: u64| {
                steps.call(n);
                async move { Ok::<_, BoxError>(n + 1) }
            })
            .workflow("long", move |cx: WorkflowContext, (): ()| {
                let inline = inline.clone();
                async move {
                    let inline = inline.clone();
                    let one: u64 = cx
                        .run("inline", ["1"], move || {
                            inline.call(1);
                            async move { Ok::<_, BoxError>(1_u64) }
                        })
                        .await?;
                    let two: u64 = cx.spawn_task("step", one).await?;
                    Ok::<_, BoxError>(cx.spawn_task::<u64>("gated", two).await?)
                }
            }))
    };
    let first = worker(&node);
    let done = client.submit_json("quick", &7).await.unwrap();
    assert_eq!(soon("a result", done.result_json::<u64>()).await.unwrap(), 7);
    let failed = client.submit_json("fails", &()).await.unwrap();
    drop(soon("a failure", failed.result()).await.unwrap_err());
    let long = client.start_json("long", &()).await.unwrap();
    until("it waits for its last step", || async {
        let run = client.describe_run(long.id()).await.unwrap();
        (steps.count() == 1 && run.steps_ended > 0 && run.steps_pending == 1).then_some(())
    })
    .await;
    first.stop().await;
    let nobody = client.submit(SubmitOptions::new("nobody").queue("q")).await.unwrap();
    let later = client.submit(SubmitOptions::new("later").delay(Duration::from_secs(3_600))).await.unwrap();
    client.pause_queue("paused").await.unwrap();

    node.restart().await;
    assert_eq!(soon("the result is kept", done.result_json::<u64>()).await.unwrap(), 7);
    match soon("the failure is kept", failed.result()).await.unwrap_err() {
        RunError::Failed(failure) => assert_eq!(failure.message, "as asked"),
        RunError::Client(error) => panic!("{error}"),
    }
    assert_eq!(client.describe_task(nobody.id()).await.unwrap().waits, Wait::NoWorker);
    let waits = client.describe_task(later.id()).await.unwrap().waits;
    assert!(matches!(waits, Wait::DelayedUntil(_)), "{waits:?}");
    assert!(client.describe_queue("paused").await.unwrap().summary.paused);
    let second = worker(&node);
    gate.add_permits(1);
    assert_eq!(soon("the run ends", long.result_json::<u64>()).await.unwrap(), 2);
    assert_eq!((inline.count(), steps.count()), (1, 1), "the memo was kept");
    second.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_is_under_way_goes_on_across_a_restart_and_is_not_run_twice() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let (calls, runs) = (Calls::default(), Calls::default());
    let (counted, counted_runs) = (calls.clone(), runs.clone());
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let worker = run(node
        .worker()
        .task("gated", move |n: u64| {
            counted.call(n);
            let held = held.clone();
            async move {
                held.acquire().await?.forget();
                Ok::<_, BoxError>(n)
            }
        })
        .workflow("wraps", move |cx: WorkflowContext, n: u64| {
            counted_runs.call(n);
            async move { Ok::<_, BoxError>(cx.spawn_task::<u64>("gated", n).await?) }
        }));
    let mut tasks = Vec::new();
    for n in 0..5_u64 {
        tasks.push(client.submit_json("gated", &n).await.unwrap());
    }
    let wrapped = client.start_json("wraps", &5).await.unwrap();
    until("all are under way", || async { (calls.count() == 6).then_some(()) }).await;
    for _ in 0..2 {
        node.restart().await;
        let task = tasks[0].id();
        assert_eq!(client.describe_task(task).await.unwrap().state, WorkState::Running);
    }
    gate.add_permits(6);
    for (n, task) in tasks.iter().enumerate() {
        assert_eq!(soon("a result", task.result_json::<usize>()).await.unwrap(), n);
    }
    assert_eq!(soon("a result", wrapped.result_json::<u64>()).await.unwrap(), 5);
    assert_eq!((calls.sorted(), runs.count()), ((0..6).collect(), 1));
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_panics_is_led_anew_and_work_goes_on() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let calls = Calls::default();
    let counted = calls.clone();
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let worker = run(node
        .worker()
        .task("gated", move |n: u64| {
            counted.call(n);
            let held = held.clone();
            async move {
                held.acquire().await?.forget();
                Ok::<_, BoxError>(n)
            }
        })
        .task("quick", |n: u64| async move { Ok::<_, BoxError>(n) }));
    let gated = client.submit_json("gated", &1).await.unwrap();
    until("it is under way", || async { (calls.count() == 1).then_some(()) }).await;
    let delayed = client.submit(SubmitOptions::new("quick").args_json(&9).unwrap().delay(Duration::from_millis(900)));
    let delayed = delayed.await.unwrap();
    for n in 0..3_u64 {
        node.clock.break_once();
        // Whoever looks at the clock first panics: the proposer, or the timer.
        let task = soon("an answer by the next leader", client.submit_json("quick", &n)).await.unwrap();
        assert_eq!(soon("a result", task.result_json::<u64>()).await.unwrap(), n);
        assert!(!node.clock.is_broken());
    }
    assert_eq!(soon("the timer goes on", delayed.result_json::<u64>()).await.unwrap(), 9);
    gate.add_permits(1);
    assert_eq!(soon("a result", gated.result_json::<u64>()).await.unwrap(), 1);
    assert_eq!(calls.count(), 1, "the lease was resumed");
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_panics_again_and_again_fails_the_node() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let clock = node.clock.clone();
    let breaking = tokio::spawn(async move {
        loop {
            clock.break_once();
            drop(tokio::time::timeout(Duration::from_millis(500), client.submit_json("quick", &1)).await);
        }
    });
    let why = soon("the node gives up", node.node().failed()).await;
    assert!(why.contains("the leader of group 1 failed"), "{why}");
    breaking.abort();
    assert_eq!(logs::matching("giving up").len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_under_load_is_quick_and_loses_nothing_acknowledged() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let mut acknowledged = Vec::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (client, stopped) = (client.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut started = Vec::new();
                while !*stopped.borrow() {
                    started.push(client.start(StartOptions::new("later")).await.unwrap().id());
                }
                started
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let since = std::time::Instant::now();
    node.stop().await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    node.go().await;
    stop.send_replace(true);
    for one in load {
        acknowledged.extend(soon("the load ends", one).await.unwrap());
    }
    assert!(acknowledged.len() > 8);
    for run in acknowledged {
        assert_eq!(client.describe_run(run).await.unwrap().state, WorkState::Ready);
    }
    node.stop().await;
}
