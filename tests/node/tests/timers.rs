//! Delays, retries and many due at once. Never early.

use std::time::{Duration, Instant};

use coda_client::{BoxError, SubmitOptions};
use coda_node_tests::node::TestNode;
use coda_node_tests::work::{Calls, run};
use coda_node_tests::{soon, until};
use coda_protocol::ids::Millis;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::reply::Wait;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_work_is_never_early_and_not_much_late() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let (sender, mut started) = tokio::sync::mpsc::channel(64);
    let worker = run(node.worker().task("due", move |n: u64| {
        let sender = sender.clone();
        async move {
            sender.send((n, Instant::now())).await?;
            Ok::<_, BoxError>(())
        }
    }));
    let mut due = Vec::new();
    // Later ones first, so that each new one is sooner than all that the timer knew.
    for n in (0..20_u64).rev() {
        let delay = Duration::from_millis(100 + 40 * n);
        // Read before it is sent: the node's clock starts when it accepts, which is later.
        let asked = Instant::now();
        client.submit(SubmitOptions::new("due").args_json(&n).unwrap().delay(delay)).await.unwrap();
        due.push((n, asked + delay));
    }
    due.reverse();
    for _ in 0..20 {
        let (n, at) = soon("it is started", started.recv()).await.unwrap();
        let due = due[n as usize].1;
        // The engine's clock counts whole milliseconds.
        assert!(at + Duration::from_millis(1) >= due, "{n} was early by {:?}", due - at);
        assert!(at < due + Duration::from_secs(5), "{n} was late by {:?}", at - due);
    }
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_wait_as_their_policy_says() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let (sender, mut started) = tokio::sync::mpsc::channel(8);
    let worker = run(node.worker().task("fails", move |(): ()| {
        let sender = sender.clone();
        async move {
            sender.send(Instant::now()).await?;
            Err::<(), _>(BoxError::from("again"))
        }
    }));
    let policy =
        RetryPolicy { max_retries: 3, initial: Millis(100), factor_percent: 200, max: Millis(300), jitter_percent: 0 };
    let task = client.submit(SubmitOptions::new("fails").policy(policy)).await.unwrap();
    drop(soon("a failure", task.result()).await.unwrap_err());
    let mut before = started.recv().await.unwrap();
    for delay in [100, 200, 300] {
        let at = started.recv().await.unwrap();
        assert!(at - before >= Duration::from_millis(delay - 1), "{:?} < {delay} ms", at - before);
        before = at;
    }
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_are_due_at_once_all_run_once_and_none_before() {
    const MANY: u64 = 700;
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let calls = Calls::default();
    let counted = calls.clone();
    let worker = run(node.worker().task("due", move |n: u64| {
        counted.call(n);
        async move { Ok::<_, BoxError>(()) }
    }));
    let hour = Duration::from_secs(3_600);
    let submits: Vec<_> = (0..MANY)
        .map(|n| {
            let client = client.clone();
            let options = SubmitOptions::new("due").args_json(&n).unwrap().delay(hour);
            tokio::spawn(async move { client.submit(options).await.unwrap() })
        })
        .collect();
    let mut tasks = Vec::new();
    for submit in submits {
        tasks.push(soon("accepted", submit).await.unwrap());
    }
    node.clock.advance_ms(3_500_000);
    let soonest = SubmitOptions::new("due").args_json(&MANY).unwrap().delay(Duration::from_millis(1));
    soon("the timer looks at the clock", client.submit(soonest.clone()).await.unwrap().result()).await.unwrap();
    assert_eq!(calls.sorted(), [MANY], "not before their time");
    let waits = client.describe_task(tasks[0].id()).await.unwrap().waits;
    assert!(matches!(waits, Wait::DelayedUntil(_)), "{waits:?}");
    node.clock.advance_ms(200_000);
    let last = soonest.id(coda_protocol::ids::TaskId::random());
    soon("the timer looks again", client.submit(last).await.unwrap().result()).await.unwrap();
    for task in tasks {
        soon("it ran", task.result()).await.unwrap();
    }
    let mut expected: Vec<u64> = (0..=MANY).collect();
    expected.push(MANY);
    assert_eq!(calls.sorted(), expected);
    until("nothing is delayed", || async {
        (client.describe_queue("default").await.unwrap().summary.delayed == 0).then_some(())
    })
    .await;
    worker.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_ahead_delays_nothing_once_it_is_set_right() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let worker = run(node.worker().task("due", |n: u64| async move { Ok::<_, BoxError>(n) }));
    let delayed = || SubmitOptions::new("due").args_json(&1_u64).unwrap().delay(Duration::from_millis(50));
    node.clock.advance_ms(3_600_000);
    soon("the group knows that time", client.submit(delayed()).await.unwrap().result()).await.unwrap();
    node.clock.set_right();
    let asked = Instant::now();
    soon("its time goes on", client.submit(delayed()).await.unwrap().result()).await.unwrap();
    assert!(asked.elapsed() >= Duration::from_millis(50), "{:?}", asked.elapsed());
    node.restart().await;
    soon("also of the next leader", client.submit(delayed()).await.unwrap().result()).await.unwrap();
    worker.stop().await;
    node.stop().await;
}
